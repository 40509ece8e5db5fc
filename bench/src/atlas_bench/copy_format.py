"""Rows of entity_values_ts in Postgres' binary COPY format, for the raw baseline.

Encoded once, before anything is timed: the baseline is to be what the server can take, not what a
Python loop can encode. Format: https://www.postgresql.org/docs/current/sql-copy.html
"""

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
from psycopg.types.numeric import DecimalBinaryDumper

from atlas_bench.template import Template
from atlas_bench.workload import ATTRIBUTES, Scalar, Shape, entity_values
from atlas_client import DataType

_VALUE_TYPES = ("bool", "int", "double", "decimal", "text", "time", "json")
COLUMNS = (
    *("tenant_id", "entity_id", "attribute_id", "event_time", "ingested_at", "quality"),
    *(f"value_{name}" for name in _VALUE_TYPES),
)

POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
POSTGRES_EPOCH_US = int(POSTGRES_EPOCH.timestamp()) * 1_000_000

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
# Up to the length of event_time; the time itself, the length and the value of ingested_at follow.
_KEY = struct.Struct(">h iiiqiii")
_DECIMALS = DecimalBinaryDumper(Decimal)


def copy_template(shape: Shape, tenant_ids: Sequence[int]) -> Template:
    """Return the points of one round of Write calls as one COPY, without their times.

    The template has two times for each row, event_time and ingested_at: microseconds since
    POSTGRES_EPOCH. Entity ids count from 1, attribute ids too.
    """
    body = bytearray(_HEADER)
    offsets: list[int] = []
    for tenant_index, tenant_id in enumerate(tenant_ids):
        for entity_index in range(shape.entities):
            values = entity_values(tenant_index, entity_index)
            for number, (attribute, value) in enumerate(zip(ATTRIBUTES, values, strict=True), 1):
                body += _KEY.pack(len(COLUMNS), 4, tenant_id, 8, entity_index + 1, 4, number, 8)
                offsets.append(len(body))
                body += bytes(8) + struct.pack(">i", 8)
                offsets.append(len(body))
                body += bytes(8) + struct.pack(">ih", 2, 0)
                body += _value_fields(
                    {attribute.data_type.value: encode(attribute.data_type, value)}
                )
    return Template(bytes(body + _TRAILER), np.array(offsets, dtype=np.int64))


def encode(data_type: DataType, value: Scalar) -> bytes:
    """Return a value as its column's type has it on the wire."""
    match value:
        case bool():
            return struct.pack(">?", value)
        case int():
            return struct.pack(">q", value)
        case float():
            return struct.pack(">d", value)
        case Decimal():
            return bytes(_DECIMALS.dump(value) or b"")
        case datetime():
            return struct.pack(">q", round((value - POSTGRES_EPOCH).total_seconds() * 1e6))
        case str():
            version = b"\x01" if data_type is DataType.JSON else b""
            return version + value.encode()


def _value_fields(encoded: Mapping[str, bytes]) -> bytes:
    return b"".join(
        struct.pack(">i", len(value)) + value if (value := encoded.get(name)) is not None else _NULL
        for name in _VALUE_TYPES
    )
