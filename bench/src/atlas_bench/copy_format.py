"""Rows of entity_values_ts in Postgres' binary COPY format, for the raw baseline.

Encoded once, before anything is timed: the baseline is to be what the server can take, not what a
Python loop can encode. Format: https://www.postgresql.org/docs/current/sql-copy.html
"""

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from psycopg.types.numeric import DecimalBinaryDumper

from atlas_bench.workload import Scalar
from atlas_client import DataType

VALUE_TYPES = ("bool", "int", "double", "decimal", "text", "time", "json")
COLUMNS = (
    *("tenant_id", "entity_id", "attribute_id", "event_time", "ingested_at", "quality"),
    *(f"value_{name}" for name in VALUE_TYPES),
)

POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
POSTGRES_EPOCH_US = int(POSTGRES_EPOCH.timestamp()) * 1_000_000

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
_WHOSE = struct.Struct(">iiiq")
WHOSE = _WHOSE.pack(4, -0x5EED5EED, 8, -0x5EED5EED5EED5EED)
"""Tenant and entity of nobody."""
_DECIMALS = DecimalBinaryDumper(Decimal)


def copy_row(attribute_id: int, data_type: DataType, value: Scalar) -> tuple[bytes, list[int]]:
    """Return a row with WHOSE in place of tenant and entity, and where its two times stand.

    The times are event_time and ingested_at, in microseconds since POSTGRES_EPOCH.
    """
    body = struct.pack(">h", len(COLUMNS)) + WHOSE + struct.pack(">iii", 4, attribute_id, 8)
    event_time = len(body)
    body += bytes(8) + struct.pack(">i", 8)
    ingested_at = len(body)
    body += bytes(8) + struct.pack(">ih", 2, 0)
    body += _value_fields({data_type.value: encode(data_type, value)})
    return body, [event_time, ingested_at]


def whose(tenant_id: int, entity_id: int) -> bytes:
    """Return what a row has in place of WHOSE."""
    return _WHOSE.pack(4, tenant_id, 8, entity_id)


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
        for name in VALUE_TYPES
    )
