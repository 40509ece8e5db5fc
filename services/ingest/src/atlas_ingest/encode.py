"""Rows of staging tables in the binary form of COPY, column by column.

See "Binary Format" of COPY in Postgres' documentation: a row is its number of fields as int16, then
for each its length as int32 (-1: null) and its bytes, all big-endian.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from atlas_common.values import VALUE_COLUMNS, DataType
from atlas_ingest.points import DeadLetter, ProducerSequence, SourceOffset

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
POINT_COLUMNS = (
    "batch_no",
    "tenant_id",
    "entity_id",
    "attribute_id",
    "event_time",
    "quality",
    *VALUE_COLUMNS.values(),
)
BATCH_COLUMNS = (
    "batch_no",
    "tenant_id",
    "request_id",
    "body_hash",
    "answer",
    "sequence",
    "producer_id",
    "producer_sequence",
    "topic",
    "partition",
    "source_offset",
    "source_follows",
    "dead_source",
    "dead_reason",
    "dead_message",
    "dead_raw",
)

PG_EPOCH_US = 946_684_800_000_000
"""2000-01-01T00:00:00Z, from which Postgres counts, in microseconds since 1970."""
NULL = struct.pack(">i", -1)
_WIDE = Context(prec=100)
# By their number of digits; no more are ever needed: 38 decimal digits, at any offset.
_NUMERICS = [struct.Struct(f">hhHh{count}h") for count in range(12)]
_JSONB_VERSION = b"\x01"
_LENGTH = _INT = struct.Struct(">i")
_BIGINT = struct.Struct(">q")
_HEAD = struct.Struct(">h iiii iq ii iq ih".replace(" ", ""))
_FEW = 16
_NO_PRODUCER = (None,) * 2
_NO_SOURCE = (None,) * 4
_NO_DEAD_LETTER = (None,) * 4
_BATCH_FIELDS = struct.pack(">h", len(BATCH_COLUMNS))
KEY_SIZES = {
    "batch_no": 4,
    "tenant_id": 4,
    "entity_id": 8,
    "attribute_id": 4,
    "event_time": 8,
    "quality": 2,
}
KEY_FIELDS: list[Any] = [("field_count", ">i2")]
for _name, _size in KEY_SIZES.items():
    KEY_FIELDS += [(f"{_name}_size", ">i4"), (_name, f">i{_size}")]
FIXED_TYPES = {
    DataType.BOOL: ">i1",
    DataType.INT: ">i8",
    DataType.DOUBLE: ">f8",
    DataType.TIME: ">i8",
}
_ORDER = tuple(DataType)


@dataclass(frozen=True, slots=True)
class BatchIdentity:
    """By what a repetition of a batch is known, and its answer.

    By one of three or nothing; but a message of a topic can have a request_id besides.
    """

    request_id: str = ""
    body_hash: bytes = b""
    answer: bytes = b""
    producer: ProducerSequence | None = None
    source: SourceOffset | None = None


@dataclass(frozen=True, slots=True)
class PointRows:
    """Points of one type, column by column, all lists of one length."""

    data_type: DataType
    entity_ids: Sequence[int]
    attribute_ids: Sequence[int]
    event_times_us: Sequence[int]
    qualities: Sequence[int]
    values: Sequence[Any]


def point_rows(batch_no: int, tenant_id: int, rows: PointRows) -> bytes:
    """The rows of a points table, in POINT_COLUMNS, in their order; without header and trailer."""
    if len(rows.values) <= _FEW:
        return _with_values(rows, _few_heads(batch_no, tenant_id, rows))
    if rows.data_type in FIXED_TYPES:
        return _fixed_rows(batch_no, tenant_id, rows)
    return _with_values(rows, _heads(batch_no, tenant_id, rows))


def batch_row(
    batch_no: int, tenant_id: int, known_by: BatchIdentity, sequence: int, dead: DeadLetter | None
) -> bytes:
    """A row of a batches table, in BATCH_COLUMNS; `sequence`: of the flush that is to come."""
    producer, source = known_by.producer, known_by.source
    fields = (
        _INT.pack(batch_no),
        _INT.pack(tenant_id),
        known_by.request_id.encode() or None,
        known_by.body_hash,
        known_by.answer,
        _BIGINT.pack(sequence),
        *(_NO_PRODUCER if producer is None else _producer_fields(producer)),
        *(_NO_SOURCE if source is None else _source_fields(source)),
        *(_NO_DEAD_LETTER if dead is None else _dead_letter_fields(dead)),
    )
    return _BATCH_FIELDS + b"".join(NULL if field is None else _sized(field) for field in fields)


def _producer_fields(producer: ProducerSequence) -> tuple[bytes, bytes]:
    return producer.producer_id.encode(), _BIGINT.pack(producer.sequence)


def _source_fields(source: SourceOffset) -> tuple[bytes, bytes, bytes, bytes]:
    return (
        source.topic.encode(),
        _INT.pack(source.partition),
        _BIGINT.pack(source.offset),
        _BIGINT.pack(source.follows),
    )


def _dead_letter_fields(dead: DeadLetter) -> tuple[bytes, bytes, bytes, bytes]:
    return dead.source.encode(), dead.reason.encode(), dead.message.encode(), dead.raw


def numeric(value: Decimal) -> bytes:
    """A finite decimal in the binary form of numeric: base-10,000 digits with weight and scale."""
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    fraction_groups = -(-scale // 4)
    # As an integer of whole base-10,000 digits; exact, since the context is wide enough.
    digits = str(int(value.copy_abs().scaleb(4 * fraction_groups, _WIDE)))
    digits = digits.zfill(-(-len(digits) // 4) * 4)
    groups = [int(digits[at : at + 4]) for at in range(0, len(digits), 4)]
    weight = len(groups) - fraction_groups - 1
    while groups and groups[-1] == 0:
        groups.pop()
    if not groups:
        weight = 0
    sign = 0x4000 if groups and value.is_signed() else 0
    return _NUMERICS[len(groups)].pack(len(groups), weight, sign, scale, *groups)


def _fixed_rows(batch_no: int, tenant_id: int, rows: PointRows) -> bytes:
    """All rows have one layout: an array of records is filled by column and is the answer."""
    value_type = np.dtype(FIXED_TYPES[rows.data_type])
    before = _ORDER.index(rows.data_type)
    after = len(_ORDER) - before - 1
    layout = np.dtype(
        [
            *KEY_FIELDS,
            ("nulls_before", f"V{len(NULL) * before}"),
            ("value_size", ">i4"),
            ("value", value_type),
            ("nulls_after", f"V{len(NULL) * after}"),
        ]
    )
    records = _with_keys(layout, batch_no, tenant_id, rows)
    if before:
        records["nulls_before"] = np.void(NULL * before)
    if after:
        records["nulls_after"] = np.void(NULL * after)
    records["value_size"] = value_type.itemsize
    if rows.data_type is DataType.TIME:
        records["value"] = np.asarray(rows.values, dtype=np.int64) - PG_EPOCH_US
    else:
        records["value"] = np.asarray(rows.values, dtype=value_type.newbyteorder("="))
    return records.tobytes()


def _with_values(rows: PointRows, heads: Iterable[bytes]) -> bytes:
    """The part before the value has one layout; the value of each row is put in between."""
    before = _ORDER.index(rows.data_type)
    nulls_before = NULL * before
    nulls_after = NULL * (len(_ORDER) - before - 1)
    encode = _ENCODERS[rows.data_type]
    pack = _LENGTH.pack
    parts: list[bytes] = []
    for head, value in zip(heads, rows.values, strict=True):
        encoded = encode(value)
        parts += (head, nulls_before, pack(len(encoded)), encoded, nulls_after)
    return b"".join(parts)


def _heads(batch_no: int, tenant_id: int, rows: PointRows) -> Iterator[bytes]:
    """What stands before the values."""
    layout = np.dtype(KEY_FIELDS)
    heads = _with_keys(layout, batch_no, tenant_id, rows).tobytes()
    size = layout.itemsize
    return (heads[at : at + size] for at in range(0, len(heads), size))


def _few_heads(batch_no: int, tenant_id: int, rows: PointRows) -> Iterator[bytes]:
    """The same without arrays, which are not worth their making."""
    keys = zip(
        rows.entity_ids, rows.attribute_ids, rows.event_times_us, rows.qualities, strict=True
    )
    fields = len(POINT_COLUMNS)
    for entity_id, attribute_id, time_us, quality in keys:
        yield _HEAD.pack(
            *(fields, 4, batch_no, 4, tenant_id, 8, entity_id),
            *(4, attribute_id, 8, time_us - PG_EPOCH_US, 2, quality),
        )


def _with_keys(
    layout: np.dtype[Any], batch_no: int, tenant_id: int, rows: PointRows
) -> npt.NDArray[Any]:
    records = np.empty(len(rows.values), dtype=layout)
    records["field_count"] = len(POINT_COLUMNS)
    for name, size in KEY_SIZES.items():
        records[f"{name}_size"] = size
    records["batch_no"] = batch_no
    records["tenant_id"] = tenant_id
    records["entity_id"] = np.asarray(rows.entity_ids, dtype=np.int64)
    records["attribute_id"] = np.asarray(rows.attribute_ids, dtype=np.int64)
    records["event_time"] = np.asarray(rows.event_times_us, dtype=np.int64) - PG_EPOCH_US
    records["quality"] = np.asarray(rows.qualities, dtype=np.int64)
    return records


def _sized(field: bytes) -> bytes:
    return _LENGTH.pack(len(field)) + field


def _time(value: int) -> bytes:
    return _BIGINT.pack(value - PG_EPOCH_US)


def _text(value: str) -> bytes:
    return value.encode()


def _jsonb(value: str) -> bytes:
    return _JSONB_VERSION + value.encode()


_ENCODERS: dict[DataType, Any] = {
    DataType.BOOL: struct.Struct(">?").pack,
    DataType.INT: _BIGINT.pack,
    DataType.DOUBLE: struct.Struct(">d").pack,
    DataType.TIME: _time,
    DataType.DECIMAL: numeric,
    DataType.TEXT: _text,
    DataType.JSON: _jsonb,
}
