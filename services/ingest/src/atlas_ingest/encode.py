"""Rows of staging tables in the binary form of COPY, one by one.

See "Binary Format" of COPY in Postgres' documentation: a row is its number of fields as int16, then
for each its length as int32 (-1: null) and its bytes, all big-endian.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, TypeAlias

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
_NO_PRODUCER = (None,) * 2
_NO_SOURCE = (None,) * 4
_NO_DEAD_LETTER = (None,) * 4
_NOTHING_MORE = NULL * (len(_NO_PRODUCER) + len(_NO_SOURCE) + len(_NO_DEAD_LETTER))
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
# The number of fields, and each key after its length.
_HEAD = "h ii ii iq ii iq ih"
_FIELDS = len(POINT_COLUMNS)


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


PackRow: TypeAlias = Callable[[int, int, int, int, Any], bytes]
"""(entity id, attribute id, event time in microseconds since 1970, quality, value) to a row."""


def row_packer(data_type: DataType, batch_no: int, tenant_id: int) -> PackRow:
    """What makes rows of a points table, in POINT_COLUMNS, of points of this type.

    A time is in microseconds since 1970; a decimal a finite Decimal; JSON its text.
    """
    before, after = _NULLS[data_type]
    fixed = _FIXED_ROWS.get(data_type)
    if fixed is None:
        return _varying(data_type, batch_no, tenant_id)
    pack, value_size = fixed.pack, _FIXED_SIZES[data_type]
    epoch_us = PG_EPOCH_US if data_type is DataType.TIME else 0

    def packed(
        entity_id: int, attribute_id: int, event_time_us: int, quality: int, value: Any
    ) -> bytes:
        return pack(
            *(_FIELDS, 4, batch_no, 4, tenant_id, 8, entity_id, 4, attribute_id),
            *(8, event_time_us - PG_EPOCH_US, 2, quality),
            *(before, value_size, value - epoch_us if epoch_us else value, after),
        )

    return packed


def _varying(data_type: DataType, batch_no: int, tenant_id: int) -> PackRow:
    before, after = _NULLS[data_type]
    encode, pack = _ENCODERS[data_type], _VARYING_HEAD.pack

    def packed(
        entity_id: int, attribute_id: int, event_time_us: int, quality: int, value: Any
    ) -> bytes:
        encoded = encode(value)
        head = pack(
            *(_FIELDS, 4, batch_no, 4, tenant_id, 8, entity_id, 4, attribute_id),
            *(8, event_time_us - PG_EPOCH_US, 2, quality),
        )
        return b"".join((head, before, _LENGTH.pack(len(encoded)), encoded, after))

    return packed


def batch_row(
    batch_no: int, tenant_id: int, known_by: BatchIdentity, sequence: int, dead: DeadLetter | None
) -> bytes:
    """A row of a batches table, in BATCH_COLUMNS; `sequence`: of the flush that is to come."""
    fields = (
        _INT.pack(batch_no),
        _INT.pack(tenant_id),
        known_by.request_id.encode() or None,
        known_by.body_hash,
        known_by.answer,
        _BIGINT.pack(sequence),
    )
    return b"".join((_BATCH_FIELDS, *map(_field, fields), _more_fields(known_by, dead)))


def _more_fields(known_by: BatchIdentity, dead: DeadLetter | None) -> bytes:
    """What most batches have nothing of."""
    producer, source = known_by.producer, known_by.source
    if producer is None and source is None and dead is None:
        return _NOTHING_MORE
    fields = (
        *(_NO_PRODUCER if producer is None else _producer_fields(producer)),
        *(_NO_SOURCE if source is None else _source_fields(source)),
        *(_NO_DEAD_LETTER if dead is None else _dead_letter_fields(dead)),
    )
    return b"".join(map(_field, fields))


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


def _field(field: bytes | None) -> bytes:
    return NULL if field is None else _LENGTH.pack(len(field)) + field


def _text(value: str) -> bytes:
    return value.encode()


def _jsonb(value: str) -> bytes:
    return _JSONB_VERSION + value.encode()


_ENCODERS: dict[DataType, Callable[[Any], bytes]] = {
    DataType.DECIMAL: numeric,
    DataType.TEXT: _text,
    DataType.JSON: _jsonb,
}
_FIXED_FORMATS = {DataType.BOOL: "?", DataType.INT: "q", DataType.DOUBLE: "d", DataType.TIME: "q"}
_FIXED_SIZES = {
    data_type: struct.calcsize(f">{value}") for data_type, value in _FIXED_FORMATS.items()
}
_NULLS = {
    data_type: (NULL * at, NULL * (len(_ORDER) - at - 1)) for at, data_type in enumerate(_ORDER)
}
"""What stands before and after the value of a type."""
_VARYING_HEAD = struct.Struct(f">{_HEAD}".replace(" ", ""))
_FIXED_ROWS = {
    data_type: struct.Struct(
        f">{_HEAD}{len(_NULLS[data_type][0])}si{value}{len(_NULLS[data_type][1])}s".replace(" ", "")
    )
    for data_type, value in _FIXED_FORMATS.items()
}
