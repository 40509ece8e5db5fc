"""The values of an estate, by a number that each follows from; as Python has them and as Arrow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas_bench.workload import Scalar
from atlas_client import DataType

RAW_VALUES = 10_007
"""Different values of an attribute at most; prime."""
STATUSES = tuple(f"status-{number:02}" for number in range(20))
TYPES = (
    DataType.DOUBLE,
    DataType.INT,
    DataType.DOUBLE,
    DataType.BOOL,
    DataType.DOUBLE,
    DataType.TEXT,
    DataType.DOUBLE,
    DataType.DECIMAL,
    DataType.DOUBLE,
    DataType.TIME,
)
"""In turn over the attributes."""
ARROW_TYPES = {
    DataType.BOOL: pa.bool_(),
    DataType.INT: pa.int64(),
    DataType.DOUBLE: pa.float64(),
    DataType.DECIMAL: pa.decimal128(20, 3),
    DataType.TEXT: pa.string(),
    DataType.TIME: pa.timestamp("us", tz="UTC"),
}
WORDS = ("running", "stopped", "faulted", "standby")
SERVICED = datetime(2026, 1, 1, tzinfo=UTC)


def tier_names(count: int) -> tuple[str, ...]:
    """Return the values of the attribute tier."""
    return tuple(f"tier-{number:02}" for number in range(count))


def value_of(data_type: DataType, raw: int) -> Scalar:
    """Return the value of a type that follows from a number below RAW_VALUES."""
    match data_type:
        case DataType.BOOL:
            return raw % 10 == 0
        case DataType.INT:
            return raw
        case DataType.DECIMAL:
            return Decimal(raw).scaleb(-3)
        case DataType.TEXT:
            return WORDS[raw % len(WORDS)]
        case DataType.TIME:
            return SERVICED + timedelta(minutes=raw)
        case _:
            return raw / 8


@dataclass(frozen=True)
class TextSet:
    """An attribute with values of its own."""

    words: tuple[str, ...]


class Values:
    """Values of attributes, by their numbers; those not in `texts` follow their type."""

    def __init__(self, texts: Mapping[int, TextSet]) -> None:
        self._texts = texts

    def scalar(self, attribute: int, data_type: DataType, raw: int) -> Scalar:
        """One value."""
        own = self._texts.get(attribute)
        return own.words[raw] if own else value_of(data_type, raw)

    def column(
        self,
        data_type: DataType,
        attributes: npt.NDArray[np.int64],
        raw: npt.NDArray[np.int64],
        is_other: npt.NDArray[np.bool_],
    ) -> "pa.Array":
        """The column of one type: null where `is_other`."""
        if data_type is not DataType.TEXT:
            return self._tables[data_type].take(pa.array(raw, mask=is_other))
        at = raw % len(WORDS)
        for attribute, start in self._starts.items():
            at = np.where(attributes == attribute, start + raw, at)
        return self._tables[data_type].take(pa.array(at, mask=is_other))

    @cached_property
    def _starts(self) -> dict[int, int]:
        """Where the words of an attribute begin in the table of texts."""
        starts, at = {}, len(WORDS)
        for attribute, own in self._texts.items():
            starts[attribute] = at
            at += len(own.words)
        return starts

    @cached_property
    def _tables(self) -> dict[DataType, "pa.Array"]:
        texts: Sequence[str] = [*WORDS, *(w for own in self._texts.values() for w in own.words)]
        tables: dict[DataType, pa.Array] = {DataType.TEXT: pa.array(texts, type=pa.string())}
        for data_type, kind in ARROW_TYPES.items():
            if data_type is not DataType.TEXT:
                column = [value_of(data_type, raw) for raw in range(RAW_VALUES)]
                tables[data_type] = pa.array(column, type=kind)
        return tables
