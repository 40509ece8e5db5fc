"""Count and checksum of a set of rows, the same on every engine; pure, no I/O.

Each row has one canonical text:

    tenant|entity|attribute|event time|ingested at|quality|<type><octets>:<value>

with times in microseconds since 1970, and the value by its type:

    b  bool     t or f
    i  int      decimal digits
    d  double   the 64 bits as 16 hexadecimal digits (-0.0 is not 0.0), or nan, since the payload
                of a NaN may differ between engines
    n  decimal  plain notation with exactly 18 digits after the point
    s  text     UTF-8
    t  time     microseconds since 1970
    j  json     Postgres' text of the jsonb

The length before the value keeps "1" + "23" apart from "12" + "3". The row's hash is the first 120
bits of the text's MD5, as two numbers of 60 bits, so that any engine can add them up without
overflow: PostgreSQL in numeric, DuckDB in HUGEINT (2**67 rows). A sum does not depend on order,
does not lose pairs as XOR would, and the digest of a union is the sum of the digests.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cache

LIMB_BITS = 60
_LIMB_HEX_DIGITS = LIMB_BITS // 4


@dataclass(frozen=True, slots=True)
class Digest:
    """Rows, and the sums of both halves of their hashes."""

    rows: int = 0
    high: int = 0
    low: int = 0

    def __add__(self, other: "Digest") -> "Digest":
        return Digest(self.rows + other.rows, self.high + other.high, self.low + other.low)

    @property
    def checksum(self) -> str:
        """The sum of the rows' 120-bit hashes, in hexadecimal."""
        return f"{(self.high << LIMB_BITS) + self.low:x}"


class Engine(Enum):
    """Whose SQL: the functions that differ."""

    POSTGRES = "postgres"
    DUCKDB = "duckdb"

    def microseconds(self, column: str) -> str:
        """A timestamptz as microseconds since 1970, exactly."""
        if self is Engine.POSTGRES:  # extract() is numeric, not a double.
            return f"(extract(epoch FROM {column}) * 1000000)::bigint"
        return f"epoch_us({column})"

    def octets(self, text: str) -> str:
        """The length of a text in UTF-8."""
        return f"octet_length({text})" if self is Engine.POSTGRES else f"strlen({text})"

    def double_bits(self, column: str) -> str:
        """The 64 bits of a double as hexadecimal digits."""
        if self is Engine.POSTGRES:
            return f"encode(float8send({column}), 'hex')"
        return f"lower(hex({column}::BIT::BLOB))"

    def is_nan(self, column: str) -> str:
        """Whether a double is no number."""
        return f"{column} = 'NaN'" if self is Engine.POSTGRES else f"isnan({column})"

    def limb(self, text: str, number: int) -> str:
        """The first or second 60 bits of a hexadecimal MD5, as a number."""
        digits = f"substr({text}, {1 + number * _LIMB_HEX_DIGITS}, {_LIMB_HEX_DIGITS})"
        if self is Engine.POSTGRES:
            return f"('x' || {digits})::bit({LIMB_BITS})::bigint"
        return f"('0x' || {digits})::BIGINT"

    def whole_quotient(self, number: str, divisor: str) -> str:
        """Integer division."""
        return f"{number} {'/' if self is Engine.POSTGRES else '//'} {divisor}"


def canonical_sql(engine: Engine) -> str:
    """The SQL expression of a row's canonical text."""
    value = f"""CASE
        WHEN value_double IS NOT NULL THEN CASE
            WHEN {engine.is_nan("value_double")} THEN 'd3:nan'
            ELSE 'd16:' || {engine.double_bits("value_double")} END
        WHEN value_int IS NOT NULL THEN {_tagged(engine, "i", "value_int::varchar")}
        WHEN value_bool IS NOT NULL THEN CASE WHEN value_bool THEN 'b1:t' ELSE 'b1:f' END
        WHEN value_text IS NOT NULL THEN {_tagged(engine, "s", "value_text")}
        WHEN value_decimal IS NOT NULL THEN {_tagged(engine, "n", "value_decimal::varchar")}
        WHEN value_time IS NOT NULL THEN
            {_tagged(engine, "t", f"({engine.microseconds('value_time')})::varchar")}
        WHEN value_json IS NOT NULL THEN {_tagged(engine, "j", "value_json::varchar")}
        END"""
    event, ingested = engine.microseconds("event_time"), engine.microseconds("ingested_at")
    return (
        f"concat_ws('|', tenant_id, entity_id, attribute_id, {event}, {ingested}, quality, {value})"
    )


@cache
def window_digests_sql(engine: Engine, parameters: tuple[str, str, str, str]) -> str:
    """The statement that digests the windows of a tenant in a range of ingested_at, in one pass.

    `parameters` are the engine's placeholders for the tenant's id, the range's two ends (as
    timestamps, half-open) and the windows' width in microseconds. Rows: (number of the window since
    1970, rows, high, low); windows without rows are missing.
    """
    tenant_id, start, stop, width = parameters
    ingested = engine.microseconds("ingested_at")
    return f"""
        SELECT window_number, count(*), sum({engine.limb("hash", 0)}), sum({engine.limb("hash", 1)})
        FROM (
            SELECT {engine.whole_quotient(ingested, width)} AS window_number,
                md5({canonical_sql(engine)}) AS hash
            FROM entity_values_ts
            WHERE tenant_id = {tenant_id} AND ingested_at >= {start} AND ingested_at < {stop}
        ) AS hashed
        GROUP BY window_number"""  # noqa: S608 - made of our own names and placeholders.


def _tagged(engine: Engine, tag: str, text: str) -> str:
    return f"'{tag}' || {engine.octets(text)} || ':' || {text}"
