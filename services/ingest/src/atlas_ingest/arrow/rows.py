"""Rows of a points table in binary COPY, made by whole columns.

Values of a fixed size make records of one layout, which numpy fills column by column. Texts, JSON
and decimals vary: their rows are joined, by pyarrow if there are many, from records that hold what
stands before the value, the values, and the nulls that stand behind.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from atlas_common.values import DataType
from atlas_ingest import encode

Ints: TypeAlias = npt.NDArray[np.int64]
Heads: TypeAlias = npt.NDArray[np.void]

_ORDER = tuple(DataType)
_JSONB_VERSION = b"\x01"
_HEAD = np.dtype(encode.KEY_FIELDS)
_HEAD_BYTES = np.dtype(f"V{_HEAD.itemsize}")
_SAME = struct.Struct(">hiiii")  # What a batch's heads begin with: up to the tenant_id.


def numbers(names: Sequence[str], ids: Mapping[str, int]) -> Ints:
    """The ids of names; 0 for names without one, which no accepted point has."""
    return np.array([ids.get(name, 0) for name in names], dtype=np.int64)


def heads(
    batch_no: int,
    tenant_id: int,
    *,
    entity_ids: Ints,
    attribute_ids: Ints,
    event_times_us: Ints,
    qualities: Ints,
) -> Heads:
    """What stands before the values, row by row: alike in all types."""
    same = _SAME.pack(len(encode.POINT_COLUMNS), 4, batch_no, 4, tenant_id)
    records = _repeated(same + _HEAD_TEMPLATE[_SAME.size :], len(entity_ids), _HEAD)
    records["entity_id"] = entity_ids
    records["attribute_id"] = attribute_ids
    records["event_time"] = event_times_us - encode.PG_EPOCH_US
    records["quality"] = qualities
    return records.view(_HEAD_BYTES)


def encoded(data_type: DataType, heads: Heads, values: Any) -> bytes:
    """The rows of points of one type, in POINT_COLUMNS.

    `values` as TypedRows.encoded() has them.
    """
    layout = _layout(data_type)
    records = _repeated(_template(data_type), len(heads), layout)
    records["head"] = heads
    if data_type in encode.FIXED_TYPES:
        is_time = data_type is DataType.TIME
        records["value"] = values - encode.PG_EPOCH_US if is_time else values
        return records.tobytes()
    version = len(_JSONB_VERSION) if data_type is DataType.JSON else 0
    records["value_size"] = _lengths(values) + version
    return _joined(records, values, encode.NULL * _types_after(data_type))


def _repeated(record: bytes, count: int, layout: np.dtype[Any]) -> npt.NDArray[Any]:
    """Many of the same, to be filled: numpy would spread it field by field, ten times as slowly."""
    return np.frombuffer(bytearray(record) * count, dtype=layout)


def _lengths(values: Any) -> npt.NDArray[np.int32]:
    if isinstance(values, list):
        return np.fromiter(map(len, values), dtype=np.int32, count=len(values))
    offsets = np.frombuffer(values.buffers()[1], dtype=np.int32)
    return np.diff(offsets[values.offset : values.offset + len(values) + 1])


@cache
def _layout(data_type: DataType) -> np.dtype[Any]:
    """A row, or of a type whose values vary in size what stands before the value."""
    fields: list[Any] = [("head", _HEAD_BYTES)]
    before = _ORDER.index(data_type)
    if before:  # numpy has no fields of no bytes.
        fields.append(("nulls_before", f"V{len(encode.NULL) * before}"))
    fields.append(("value_size", ">i4"))
    value_type = encode.FIXED_TYPES.get(data_type)
    if value_type is not None:
        fields.append(("value", value_type))
        if _types_after(data_type):
            fields.append(("nulls_after", f"V{len(encode.NULL) * _types_after(data_type)}"))
    elif data_type is DataType.JSON:
        fields.append(("version", f"V{len(_JSONB_VERSION)}"))
    return np.dtype(fields)


@cache
def _template(data_type: DataType) -> bytes:
    """A row with nothing but what is alike in all of its type."""
    layout = _layout(data_type)
    record = np.zeros((), dtype=layout)
    assert layout.names is not None
    for name in layout.names:
        if name.startswith("nulls"):
            record[name] = np.void(encode.NULL * (layout[name].itemsize // len(encode.NULL)))
    if "value" in layout.names:
        record["value_size"] = layout["value"].itemsize
    if "version" in layout.names:
        record["version"] = np.void(_JSONB_VERSION)
    return record.tobytes()


def _head_template() -> bytes:
    record = np.zeros((), dtype=_HEAD)
    for name, size in encode.KEY_SIZES.items():
        record[f"{name}_size"] = size
    return record.tobytes()


_HEAD_TEMPLATE = _head_template()


def _types_after(data_type: DataType) -> int:
    return len(_ORDER) - _ORDER.index(data_type) - 1


def _joined(records: npt.NDArray[Any], values: Any, tail: bytes) -> bytes:
    """Record, value and tail of each row, one behind the other."""
    size = records.dtype.itemsize
    if isinstance(values, list):
        pieces = [tail] * (3 * len(records))
        pieces[0::3] = records.view(f"V{size}").tolist()
        pieces[1::3] = values
        return b"".join(pieces)
    offsets = np.arange(0, (len(records) + 1) * size, size, dtype=np.int32)
    array = pa.Array.from_buffers(
        pa.binary(), len(records), [None, pa.py_buffer(offsets), pa.py_buffer(records)]
    )
    separator = b""
    rows = pc.binary_join_element_wise(array, values, pa.scalar(tail, pa.binary()), separator)
    return bytes(memoryview(rows.buffers()[2]))
