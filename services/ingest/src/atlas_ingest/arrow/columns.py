"""Points as the columns of an Arrow stream, ready to be checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from atlas_common.values import DataType
from atlas_ingest.arrow import checking
from atlas_ingest.arrow.texts import Names
from atlas_ingest.arrow.values import Texts, TypedRows
from atlas_ingest.columns import Window
from atlas_ingest.points import PointColumns
from atlas_ingest.rules import Rule, new_rule
from atlas_ingest.validate import attribute_name_problem

Ints: TypeAlias = npt.NDArray[np.int64]

MISSING, SEVERAL = -1, -2
"""In place of a type: the row has no value, or more than one."""

TYPES = tuple(DataType)
"""Types are numbers here: indexes in this."""


@dataclass(frozen=True, slots=True)
class ArrowColumns:
    """Points column by column: what PointColumns is to points that came one by one.

    Event times are microseconds since 1970, or the nearest that 64 bits can hold. `types`: of each
    row the index in TYPES, MISSING or SEVERAL. `values` has the rows of each type that there is.
    """

    entity_keys: Names
    attributes: Names
    event_times_us: Ints
    qualities: Ints
    types: npt.NDArray[np.int8]
    values: Mapping[DataType, TypedRows]

    @property
    def text_bytes(self) -> int:
        """Of all values that came as text, each written out as often as it stands there."""
        return sum(typed.text_bytes for typed in self.values.values() if isinstance(typed, Texts))

    def __len__(self) -> int:
        return len(self.event_times_us)

    def attribute_names(self) -> set[str]:
        """The distinct names."""
        return set(self.attributes.distinct)

    def new_attributes(self, known: Mapping[str, Rule]) -> dict[str, Rule]:
        """Rules for unknown attributes that could be registered: the first value gives the type."""
        codes = [
            code
            for code, name in enumerate(self.attributes.distinct)
            if name not in known and attribute_name_problem(name) is None
        ]
        if not codes:
            return {}
        is_new = np.zeros(len(self.attributes.distinct), dtype=bool)
        is_new[codes] = True
        rows = np.flatnonzero(is_new[self.attributes.codes] & (self.types >= 0))
        _, first = np.unique(self.attributes.codes[rows], return_index=True)
        first.sort()  # Registered in their order, as if they had come one by one.
        return {self.attributes.of(row): new_rule(TYPES[self.types[row]]) for row in rows[first]}

    def check(self, rules: Mapping[str, Rule], window: Window) -> "checking.ArrowChecked":
        """Which rows may be stored, and what is wrong with the others."""
        return checking.check(self, rules, window)

    def points(self, rows: Ints) -> PointColumns:
        """A few rows one by one, to tell what is wrong with them."""
        types = [TYPES[number] if number >= 0 else None for number in self.types[rows]]
        return PointColumns(
            entity_keys=[self.entity_keys.of(row) for row in rows],
            attributes=[self.attributes.of(row) for row in rows],
            event_times_us=self.event_times_us[rows].tolist(),
            qualities=self.qualities[rows].tolist(),
            types=types,
            values=[
                None if data_type is None else self._value(data_type, row)
                for data_type, row in zip(types, rows, strict=True)
            ],
        )

    def has_several_values(self, row: int) -> bool:
        """Whether the row has more than one value, and so none."""
        return bool(self.types[row] == SEVERAL)

    def _value(self, data_type: DataType, row: int) -> Any:
        typed = self.values[data_type]
        return typed.value(int(np.searchsorted(typed.rows, row)))
