"""Checks the definition of an attribute. Pure."""

from dataclasses import dataclass
from decimal import Decimal

import re2

from atlas_common.values import DataType
from atlas_ingest import decimals
from atlas_ingest.rules import REGEX_STEPS_MAX, TEXT_BYTES_MAX, clip, regex_of
from atlas_ingest.validate import attribute_name_problem

UNIT_BYTES_MAX = 64
REGEX_BYTES_MAX = 1024
ALLOWED_VALUES_MAX = 1000
BOUND_BYTES_MAX = 64
# Names, units, patterns and allowed values of all attributes of a tenant: they are held in memory.
DEFINITIONS_BYTES_MAX = 16 * 2**20
# A bound may lie anywhere in a double's range, which is far wider than a decimal's.
BOUND_EXPONENT_MAX = 400
_BOUNDED = frozenset({DataType.INT, DataType.DOUBLE, DataType.DECIMAL})


@dataclass(frozen=True, slots=True)
class AttributeDraft:
    """An attribute as a caller defines it, checked."""

    name: str
    data_type: DataType
    is_hot: bool
    unit: str
    validation_regex: str
    min_value: Decimal | None
    max_value: Decimal | None
    allowed_values: tuple[str, ...]


class DefinitionError(ValueError):
    """A definition that cannot be; `field` is that of the Attribute message."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


def draft_of(
    *,
    name: str,
    data_type: DataType | None,
    is_hot: bool,
    unit: str,
    validation_regex: str,
    min_value: str,
    max_value: str,
    allowed_values: tuple[str, ...],
) -> AttributeDraft:
    """The checked definition. Raises DefinitionError for the first field that is wrong."""
    problem = attribute_name_problem(name)
    if problem is not None:
        raise DefinitionError("name", problem)
    if data_type is None:
        raise DefinitionError("data_type", "is not given: an attribute has one type for life")
    _check_unit(unit)
    _check_text_rules(data_type, validation_regex, allowed_values)
    low = _bound("min_value", min_value, data_type)
    high = _bound("max_value", max_value, data_type)
    if low is not None and high is not None and low > high:
        raise DefinitionError(
            "min_value", f"{clip(min_value)} is above max_value {clip(max_value)}"
        )
    return AttributeDraft(
        name=name,
        data_type=data_type,
        is_hot=is_hot,
        unit=unit,
        validation_regex=validation_regex,
        min_value=low,
        max_value=high,
        allowed_values=allowed_values,
    )


def _check_unit(unit: str) -> None:
    size = len(unit.encode())
    if size > UNIT_BYTES_MAX:
        raise DefinitionError("unit", f"has {size} bytes, at most {UNIT_BYTES_MAX} are allowed")
    if "\0" in unit:
        raise DefinitionError("unit", "holds U+0000")


def _check_text_rules(
    data_type: DataType, validation_regex: str, allowed_values: tuple[str, ...]
) -> None:
    if validation_regex:
        if data_type is not DataType.TEXT:
            raise DefinitionError("validation_regex", f"is for TEXT, not {data_type.upper()}")
        _check_regex(validation_regex)
    if allowed_values:
        if data_type is not DataType.TEXT:
            raise DefinitionError("allowed_values", f"are for TEXT, not {data_type.upper()}")
        _check_allowed(allowed_values)


def _check_regex(pattern: str) -> None:
    size = len(pattern.encode())
    if size > REGEX_BYTES_MAX:
        raise DefinitionError(
            "validation_regex", f"has {size} bytes, at most {REGEX_BYTES_MAX} are allowed"
        )
    if "\0" in pattern:
        raise DefinitionError("validation_regex", "holds U+0000")
    try:
        steps = regex_of(pattern).programsize
    except re2.error as error:
        cause = error.args[0].decode() if isinstance(error.args[0], bytes) else error.args[0]
        raise DefinitionError(
            "validation_regex", f"{clip(pattern)} is no RE2 expression: {cause}"
        ) from None
    if steps > REGEX_STEPS_MAX:
        raise DefinitionError(
            "validation_regex",
            f"{clip(pattern)} compiles to {steps} steps, at most {REGEX_STEPS_MAX} are allowed:"
            " repeat less",
        )


def _check_allowed(allowed_values: tuple[str, ...]) -> None:
    if len(allowed_values) > ALLOWED_VALUES_MAX:
        raise DefinitionError(
            "allowed_values",
            f"has {len(allowed_values)} items, at most {ALLOWED_VALUES_MAX} are allowed",
        )
    for value in allowed_values:
        if "\0" in value or len(value.encode()) > TEXT_BYTES_MAX:
            raise DefinitionError("allowed_values", f"has {clip(value)}, which is no value")


def _bound(field: str, text: str, data_type: DataType) -> Decimal | None:
    if not text:
        return None
    if data_type not in _BOUNDED:
        raise DefinitionError(field, f"is for numbers, not {data_type.upper()}")
    parts = decimals.split(text) if len(text) <= BOUND_BYTES_MAX else None
    if parts is None or abs(parts.exponent) > BOUND_EXPONENT_MAX:
        raise DefinitionError(field, f"{clip(text)} is no decimal such as '-12.5'")
    return parts.to_decimal()
