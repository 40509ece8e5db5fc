"""The fields of atlas.type.v1.Point, of all points of a message at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from atlas_common.values import DataType
from atlas_ingest.arrow.columns import MISSING, TYPES
from atlas_ingest.wire.cursors import Cursors, Spans
from atlas_ingest.wire.splitting import Pieces
from atlas_ingest.wire.varints import NotCanonicalError

Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_VARINT, _DOUBLE, _BYTES = 0, 1, 2  # Wire types.


def _tag(number: int, wire_type: int) -> int:
    return number << 3 | wire_type


_ENTITY_KEY = _tag(1, _BYTES)
_ATTRIBUTE = _tag(2, _BYTES)
_EVENT_TIME = _tag(3, _VARINT)
_QUALITY = _tag(4, _VARINT)
_SECONDS = _tag(1, _VARINT)  # Of google.protobuf.Timestamp.
_NANOS = _tag(2, _VARINT)
_JSON = _tag(16, _BYTES)
_VALUES = {
    DataType.BOOL: _tag(10, _VARINT),
    DataType.INT: _tag(11, _VARINT),
    DataType.DOUBLE: _tag(12, _DOUBLE),
    DataType.DECIMAL: _tag(13, _BYTES),
    DataType.TEXT: _tag(14, _BYTES),
    DataType.TIME: _tag(15, _BYTES),
    DataType.JSON: _JSON & 0x7F | 0x80,  # A tag is a varint; of two bytes this is the first.
}
_JSON_SECOND_BYTE = _JSON >> 7

_TYPE_OF_TAG = np.full(256, MISSING, dtype=np.int8)
for _data_type, _value_tag in _VALUES.items():
    _TYPE_OF_TAG[_value_tag] = TYPES.index(_data_type)

_STRETCHES = (DataType.DECIMAL, DataType.TEXT, DataType.TIME, DataType.JSON)
_NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class PointFields:
    """What stands in the messages, field by field.

    `types`: of each message the index in TYPES, or MISSING. `rows`: of each type that there is,
    those that have a value of it, ascending. `numbers`: these values, but for texts; of TIME the
    seconds and the nanoseconds. `texts`: where values that are texts stand; in rows that have
    none, anything.
    """

    entity_keys: Spans
    attributes: Spans
    event_times_us: Ints
    has_event_time: Flags
    qualities: Ints
    types: npt.NDArray[np.int8]
    rows: Mapping[DataType, Ints]
    numbers: Mapping[DataType, Any]
    texts: Spans


def read(points: Pieces) -> PointFields:
    """The fields of points. Raises NotCanonicalError."""
    cursors = Cursors.into(np.frombuffer(points.data, dtype=np.uint8), points.bounds[:-1])
    entity_keys = cursors.span_fields(_ENTITY_KEY)
    attributes = cursors.span_fields(_ATTRIBUTE)
    event_times_us, has_event_time = cursors.varint_fields(_EVENT_TIME)
    qualities, _ = cursors.varint_fields(_QUALITY)
    types = _TYPE_OF_TAG[cursors.peek()]
    rows = _rows(types)
    _pass_tags(cursors, types, rows.get(DataType.JSON, _NO_ROWS))
    numbers, texts = _values(cursors, rows)
    _check_ends(cursors, points.bounds[1:])
    return PointFields(
        entity_keys=entity_keys,
        attributes=attributes,
        event_times_us=event_times_us,
        has_event_time=has_event_time,
        qualities=qualities & 0xFFFF_FFFF,  # As a uint32 is read.
        types=types,
        rows=rows,
        numbers=numbers,
        texts=texts,
    )


def _rows(types: npt.NDArray[np.int8]) -> dict[DataType, Ints]:
    order = types.argsort(kind="stable")
    counts = np.bincount(types - np.int8(MISSING), minlength=len(TYPES) + 1)
    ends = counts.cumsum().tolist()
    return {
        data_type: order[begin:end]
        for data_type, begin, end in zip(TYPES, ends[:-1], ends[1:], strict=True)
        if begin < end
    }


def _pass_tags(cursors: Cursors, types: npt.NDArray[np.int8], documents: Ints) -> None:
    cursors.at = cursors.at + (types != MISSING)
    if len(documents):
        if (cursors.of(documents).peek() != _JSON_SECOND_BYTE).any():
            raise NotCanonicalError
        cursors.at[documents] += 1


def _values(cursors: Cursors, rows: Mapping[DataType, Ints]) -> tuple[dict[DataType, Any], Spans]:
    """Values of one form are read at once, of whatever type."""
    numbers: dict[DataType, Any] = {}
    bools, ints = rows.get(DataType.BOOL, _NO_ROWS), rows.get(DataType.INT, _NO_ROWS)
    if len(bools) or len(ints):
        integers = cursors.some(np.concatenate((bools, ints)), Cursors.varints)
        numbers[DataType.BOOL] = integers[: len(bools)] != 0
        numbers[DataType.INT] = integers[len(bools) :]
    if DataType.DOUBLE in rows:
        numbers[DataType.DOUBLE] = cursors.some(rows[DataType.DOUBLE], Cursors.doubles)
    starts = cursors.at
    given = [rows[data_type] for data_type in _STRETCHES if data_type in rows]
    if given:
        stretches = np.concatenate(given)
        spans = cursors.some(stretches, Cursors.spans)
        starts = cursors.at.copy()
        starts[stretches] = spans.starts
    if DataType.TIME in rows:
        times = rows[DataType.TIME]
        numbers[DataType.TIME] = _moments(cursors.others(starts[times]), cursors.at[times])
    return numbers, Spans(starts, cursors.at)


def _moments(timestamps: Cursors, ends: Ints) -> tuple[Ints, npt.NDArray[np.int32]]:
    seconds, _ = timestamps.varint_fields(_SECONDS)
    nanos, _ = timestamps.varint_fields(_NANOS)
    _check_ends(timestamps, ends)
    return seconds, nanos.astype(np.int32)


def _check_ends(cursors: Cursors, ends: Ints) -> None:
    if not np.array_equal(cursors.at, ends):
        raise NotCanonicalError
