"""Rows of a points table in binary COPY, made by whole columns.

Values of a fixed size make records of one layout, which numpy fills column by column. Texts, JSON
and decimals vary: their rows are joined by pyarrow from records that hold what stands before the
value, the values, and the nulls that stand behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from atlas_common.values import DataType
from atlas_ingest import encode

Ints: TypeAlias = npt.NDArray[np.int64]

_ORDER = tuple(DataType)
_JSONB_VERSION = b"\x01"


@dataclass(frozen=True, slots=True)
class Keys:
    """What every row has, column by column, of points of one type."""

    batch_no: int
    tenant_id: int
    entity_ids: Ints
    attribute_ids: Ints
    event_times_us: Ints
    qualities: Ints


def numbers(names: Sequence[str], ids: Mapping[str, int]) -> Ints:
    """The ids of names; 0 for names without one, which no accepted point has."""
    return np.array([ids.get(name, 0) for name in names], dtype=np.int64)


def encoded(data_type: DataType, keys: Keys, values: Any) -> bytes:
    """The rows of points of one type, in POINT_COLUMNS.

    `values` as TypedRows.encoded() has them.
    """
    records = _records(data_type, keys)
    if data_type in encode.FIXED_TYPES:
        is_time = data_type is DataType.TIME
        records["value"] = values - encode.PG_EPOCH_US if is_time else values
        return records.tobytes()
    version = len(_JSONB_VERSION) if data_type is DataType.JSON else 0
    records["value_size"] = pc.binary_length(values).to_numpy() + version
    return _joined(records, values, encode.NULL * _types_after(data_type))


def _records(data_type: DataType, keys: Keys) -> npt.NDArray[Any]:
    records = np.empty(len(keys.entity_ids), dtype=_layout(data_type))
    records[:] = _template(data_type)  # At once what is alike in all of them.
    records["batch_no"] = keys.batch_no
    records["tenant_id"] = keys.tenant_id
    records["entity_id"] = keys.entity_ids
    records["attribute_id"] = keys.attribute_ids
    records["event_time"] = keys.event_times_us - encode.PG_EPOCH_US
    records["quality"] = keys.qualities
    return records


@cache
def _layout(data_type: DataType) -> np.dtype[Any]:
    """A row, or of a type whose values vary in size what stands before the value."""
    fields = [*encode.KEY_FIELDS]
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
def _template(data_type: DataType) -> npt.NDArray[Any]:
    layout = _layout(data_type)
    record = np.zeros((), dtype=layout)
    record["field_count"] = len(encode.POINT_COLUMNS)
    for name, size in encode.KEY_SIZES.items():
        record[f"{name}_size"] = size
    assert layout.names is not None
    for name in layout.names:
        if name.startswith("nulls"):
            record[name] = np.void(encode.NULL * (layout[name].itemsize // len(encode.NULL)))
    if "value" in layout.names:
        record["value_size"] = layout["value"].itemsize
    if "version" in layout.names:
        record["version"] = np.void(_JSONB_VERSION)
    return record


def _types_after(data_type: DataType) -> int:
    return len(_ORDER) - _ORDER.index(data_type) - 1


def _joined(heads: npt.NDArray[Any], values: Any, tail: bytes) -> bytes:
    """Head, value and tail of each row, one behind the other."""
    size = heads.dtype.itemsize
    offsets = np.arange(0, (len(heads) + 1) * size, size, dtype=np.int32)
    records = pa.Array.from_buffers(
        pa.binary(), len(heads), [None, pa.py_buffer(offsets), pa.py_buffer(heads)]
    )
    separator = b""
    rows = pc.binary_join_element_wise(records, values, pa.scalar(tail, pa.binary()), separator)
    return bytes(memoryview(rows.buffers()[2]))
