"""Which rows of a batch may be stored, and what is wrong with the others.

Columns only tell good rows from bad ones. What is wrong with a bad row is said by the same code
that checks points one by one, of the few rows that are reported: so both say the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from atlas_common.values import DataType
from atlas_ingest.arrow import rows as arrow_rows
from atlas_ingest.arrow.values import Ruled
from atlas_ingest.columns import Window
from atlas_ingest.points import ERRORS_REPORTED_MAX, PointError, Rejections
from atlas_ingest.rules import Rule
from atlas_ingest.validate import QUALITY_MAX, entity_key_problem, validate

if TYPE_CHECKING:
    from atlas_ingest.arrow.columns import ArrowColumns

Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_TYPES = tuple(DataType)
_NUMBERS = {data_type: number for number, data_type in enumerate(_TYPES)}
_UNKNOWN = -3  # In place of a type: the attribute has no rule. No row has this in place of a type.


@dataclass(frozen=True)
class ArrowChecked:
    """A batch with its good rows found; `is_good` has a flag for each row."""

    columns: "ArrowColumns"
    is_good: Flags
    rejections: Rejections

    @property
    def accepted_count(self) -> int:
        """Points that may be stored."""
        return len(self.columns) - self.rejections.count

    def entity_keys(self) -> set[str]:
        """Of accepted points."""
        return self.columns.entity_keys.used_by(self._accepted)

    def attribute_names(self) -> set[str]:
        """Of accepted points."""
        return self.columns.attributes.used_by(self._accepted)

    def rows(
        self,
        batch_no: int,
        tenant_id: int,
        entity_ids: Mapping[str, int],
        attribute_ids: Mapping[str, int],
    ) -> bytes:
        """The accepted points as rows of binary COPY, without header and trailer.

        Grouped by type: that keeps the order among the points of one attribute, and no other order
        has a meaning.
        """
        columns = self.columns
        entities = arrow_rows.numbers(columns.entity_keys.distinct, entity_ids)
        attributes = arrow_rows.numbers(columns.attributes.distinct, attribute_ids)
        heads = arrow_rows.heads(
            batch_no,
            tenant_id,
            entity_ids=entities[columns.entity_keys.codes],
            attribute_ids=attributes[columns.attributes.codes],
            event_times_us=columns.event_times_us,
            qualities=columns.qualities,
        )
        parts = []
        for data_type, typed in columns.values.items():
            at = self._good(typed.rows)
            rows = typed.rows if at is None else typed.rows[at]
            if len(rows):
                own = heads if len(rows) == len(heads) else heads.take(rows)
                parts.append(arrow_rows.encoded(data_type, own, typed.encoded(at)))
        return b"".join(parts)

    def names_of(self, index: int) -> tuple[str, str]:
        """Entity key and attribute of a row, for the text of an error."""
        return self.columns.entity_keys.of(index), self.columns.attributes.of(index)

    def _good(self, rows: Ints) -> Ints | None:
        """At which positions among some rows the good ones stand; None: at all of them."""
        if not self.rejections.count:
            return None
        good = self.is_good[rows]
        return None if good.all() else np.flatnonzero(good)

    @cached_property
    def _accepted(self) -> Ints:
        return np.flatnonzero(self.is_good)


def check(columns: "ArrowColumns", rules: Mapping[str, Rule], window: Window) -> ArrowChecked:
    """Check every row; of each refused one among the first hundred, the first error is told."""
    is_good = _common(columns, window)
    codes = columns.attributes.codes
    types, by_type = _ruled(columns.attributes.distinct, rules)
    is_good &= types[codes] == columns.types
    for data_type, typed in columns.values.items():
        ruled = Ruled(by_type[data_type], len(types), codes[typed.rows])
        is_good[typed.rows] &= typed.checked(ruled)
    return ArrowChecked(columns, is_good, _rejections(columns, is_good, rules, window))


def _ruled(
    names: Sequence[str], rules: Mapping[str, Rule]
) -> tuple[npt.NDArray[np.int8], dict[DataType, dict[int, Rule]]]:
    """Of each attribute the number of its type, and the rules of each type by attribute."""
    types = np.full(len(names), _UNKNOWN, dtype=np.int8)
    by_type: dict[DataType, dict[int, Rule]] = {data_type: {} for data_type in _TYPES}
    for code, name in enumerate(names):
        rule = rules.get(name)
        if rule is not None:
            types[code] = _NUMBERS[rule.data_type]
            by_type[rule.data_type][code] = rule
    return types, by_type


def _common(columns: "ArrowColumns", window: Window) -> Flags:
    """Rows with nothing wrong besides attribute and value."""
    times, qualities = columns.event_times_us, columns.qualities
    is_good = (times >= window.oldest_us) & (times <= window.newest_us)
    if len(qualities) and (qualities.min() < 0 or qualities.max() > QUALITY_MAX):
        is_good &= (qualities >= 0) & (qualities <= QUALITY_MAX)
    keys = columns.entity_keys
    bad = [code for code, key in enumerate(keys.distinct) if entity_key_problem(key) is not None]
    if bad:
        is_bad = np.zeros(len(keys.distinct), dtype=bool)
        is_bad[bad] = True
        is_good &= ~is_bad[keys.codes]
    flags: Flags = is_good
    return flags


def _rejections(
    columns: "ArrowColumns", is_good: Flags, rules: Mapping[str, Rule], window: Window
) -> Rejections:
    bad = np.flatnonzero(~is_good)
    told = bad[:ERRORS_REPORTED_MAX]
    if not len(told):
        return Rejections()
    again = validate(columns.points(told), rules, window)
    errors = {error.index: error for error in again.rejections.errors}
    return Rejections(
        len(bad), [_error(columns, row, errors.get(at)) for at, row in enumerate(told.tolist())]
    )


def _error(columns: "ArrowColumns", row: int, error: PointError | None) -> PointError:
    """The error of a row; what only a row of columns can have wrong is not known to points."""
    if error is None:
        quality = int(columns.qualities[row])
        assert quality < 0, "a row that points find nothing wrong with"
        return PointError(
            row, "INVALID_FIELD", "quality", f"quality {quality} is not in 0..{QUALITY_MAX}"
        )
    if error.reason == "VALUE_MISSING" and columns.has_several_values(row):
        return PointError(
            row, "INVALID_FIELD", "value", "the row has more than one value: leave but one not null"
        )
    return PointError(row, error.reason, error.field, error.message)
