"""Checks a batch point by point. Pure: no I/O, no clock; definitions and time window are given."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atlas_common.values import DataType
from atlas_ingest.columns import Window
from atlas_ingest.points import PointColumns, PointError, Rejections
from atlas_ingest.rules import RefusedError, Rule, clip, new_rule

ENTITY_KEY_BYTES_MAX = 256
ATTRIBUTE_NAME_BYTES_MAX = 128
QUALITY_MAX = 255
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(slots=True)
class Validated:
    """The points that may be stored, as indexes by type in their order, and the others.

    `values` has one entry per point of the batch: of accepted ones the value to be stored.
    """

    accepted: dict[DataType, list[int]] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)
    rejections: Rejections = field(default_factory=Rejections)

    @property
    def accepted_count(self) -> int:
        """Points that may be stored."""
        return sum(map(len, self.accepted.values()))


def entity_key_problem(key: str) -> str | None:
    """Why the text is no entity's key; None if it is one."""
    if not key:
        return "is empty: name the entity in the point or in default_entity_key"
    if _CONTROL.search(key):
        return f"{clip(key)} has control characters"
    if len(key) * 4 > ENTITY_KEY_BYTES_MAX:
        size = len(key.encode())
        if size > ENTITY_KEY_BYTES_MAX:
            return f"{clip(key)} has {size} bytes, at most {ENTITY_KEY_BYTES_MAX} are allowed"
    return None


def attribute_name_problem(name: str) -> str | None:
    """Why the text is no attribute's name; None if it is one."""
    if not name:
        return "is empty: name the attribute"
    if _CONTROL.search(name):
        return f"{clip(name)} has control characters"
    if len(name) * 4 > ATTRIBUTE_NAME_BYTES_MAX:
        size = len(name.encode())
        if size > ATTRIBUTE_NAME_BYTES_MAX:
            return f"{clip(name)} has {size} bytes, at most {ATTRIBUTE_NAME_BYTES_MAX} are allowed"
    return None


def new_attributes(columns: PointColumns, known: Mapping[str, Rule]) -> dict[str, Rule]:
    """Rules for the unknown attributes that could be registered: the first value gives the type."""
    rules: dict[str, Rule] = {}
    for name, data_type in zip(columns.attributes, columns.types, strict=True):
        if data_type is None or name in known or name in rules:
            continue
        if attribute_name_problem(name) is None:
            rules[name] = new_rule(data_type)
    return rules


def validate(columns: PointColumns, rules: Mapping[str, Rule], window: Window) -> Validated:
    """Check every point; of each refused one the first error is reported.

    `rules`: by name, the attributes that points may have.
    """
    result = Validated(accepted={data_type: [] for data_type in DataType})
    values = result.values = list(columns.values)
    bad_keys = {
        key: problem for key in set(columns.entity_keys) if (problem := entity_key_problem(key))
    }
    oldest, newest = window.oldest_us, window.newest_us
    rows = zip(
        columns.entity_keys,
        columns.attributes,
        columns.types,
        columns.event_times_us,
        columns.qualities,
        strict=True,
    )
    for index, (key, name, data_type, event_time_us, quality) in enumerate(rows):
        rule = rules.get(name)
        # The points of a healthy batch pass here; who fails is told why by the slow path.
        if (
            rule is None
            or data_type is not rule.data_type
            or not oldest <= event_time_us <= newest
            or quality > QUALITY_MAX
            or key in bad_keys
        ):
            result.rejections.add(_problem(columns, index, rule, window, bad_keys.get(key)))
            continue
        if rule.accept is not None:
            try:
                values[index] = rule.accept(values[index])
            except RefusedError as error:
                result.rejections.add(
                    PointError(
                        index, error.reason, f"{data_type}_value", f"{data_type}_value {error}"
                    )
                )
                continue
        result.accepted[data_type].append(index)
    return result


def _problem(
    columns: PointColumns, index: int, rule: Rule | None, window: Window, key_problem: str | None
) -> PointError:
    """What is wrong with a point besides its value: the first problem, in the fields' order."""
    if key_problem is not None:
        return PointError(index, "ENTITY_KEY_INVALID", "entity_key", f"entity_key {key_problem}")
    name, data_type = columns.attributes[index], columns.types[index]
    if rule is None:
        return _unknown_attribute(index, name, data_type)
    if data_type is None:
        return _value_missing(index)
    if data_type is not rule.data_type:
        return PointError(
            index,
            "TYPE_MISMATCH",
            f"{data_type}_value",
            f"{data_type}_value is given, attribute {clip(name)} is {rule.data_type.upper()}:"
            f" send {rule.data_type}_value",
        )
    event_time_us = columns.event_times_us[index]
    if not window.oldest_us <= event_time_us <= window.newest_us:
        return PointError(
            index,
            "EVENT_TIME_OUT_OF_WINDOW",
            "event_time_us",
            f"event_time_us {event_time_us} is not within {window.oldest_us} to"
            f" {window.newest_us}: send microseconds since 1970",
        )
    return PointError(
        index,
        "INVALID_FIELD",
        "quality",
        f"quality {columns.qualities[index]} is above {QUALITY_MAX}",
    )


def _unknown_attribute(index: int, name: str, data_type: DataType | None) -> PointError:
    problem = attribute_name_problem(name)
    if problem is not None:
        return PointError(index, "INVALID_FIELD", "attribute", f"attribute {problem}")
    if data_type is None:
        return _value_missing(index)
    return PointError(
        index,
        "ATTRIBUTE_UNKNOWN",
        "attribute",
        f"attribute {clip(name)} is not in the catalog: define it with BatchUpsertAttributes",
    )


def _value_missing(index: int) -> PointError:
    return PointError(index, "VALUE_MISSING", "value", "the point has no value: set one")
