"""Count and checksum of a set of rows, the same on every engine; pure, no I/O.

Each row has one canonical text:

    tenant|entity|attribute|event time|ingested at|quality|<type><octets>:<value>

with times as 16 hexadecimal digits, the microseconds since 2000 in two's complement (what Postgres
stores, so that it has nothing to compute), and the value by its type:

    b  bool     t or f
    i  int      decimal digits
    d  double   the 64 bits as 16 hexadecimal digits (-0.0 is not 0.0), or nan, since the payload
                of a NaN may differ between engines
    n  decimal  plain notation with exactly 18 digits after the point
    s  text     UTF-8
    t  time     16 hexadecimal digits, as the other times
    j  json     Postgres' text of the jsonb

The length before the value keeps "1" + "23" apart from "12" + "3". The row's hash is the text's MD5
as a number, little-endian, without its lowest byte: two numbers of 60 bits, so that any engine can
add them up without overflow: PostgreSQL in numeric, DuckDB in HUGEINT, Redshift in NUMERIC(38)
(2**66 rows). A sum does not depend on order, does not lose pairs as XOR would, and the digest of a
union is the sum of the digests. `canonical` has the same in Python, which tests hold all engines
against.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar

LIMB_BITS = 60
_LIMB_MAX = 2**LIMB_BITS - 1
_EPOCH_2000_US = 946_684_800_000_000
_EPOCH = "1970-01-01 00:00:00+00"


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


_GroupT = TypeVar("_GroupT", int, str)


def digests_of(rows: Iterable[tuple[_GroupT, int, Any, Any]]) -> dict[_GroupT, Digest]:
    """Digests by group, of rows (group, rows, high, low) as any engine answers them."""
    return {group: Digest(count, int(high), int(low)) for group, count, high, low in rows}


class Engine(Enum):
    """Whose SQL: the functions that differ."""

    POSTGRES = "postgres"
    DUCKDB = "duckdb"
    REDSHIFT = "redshift"

    def microseconds(self, column: str) -> str:
        """A timestamptz as microseconds since 1970, exactly."""
        match self:
            case Engine.POSTGRES:  # extract() is numeric, not a double.
                return f"(extract(epoch FROM {column}) * 1000000)::bigint"
            case Engine.DUCKDB:
                return f"epoch_us({column})"
            case Engine.REDSHIFT:  # extract(epoch) has whole seconds there.
                return f"datediff(microsecond, '{_EPOCH}'::timestamptz, {column})"

    def time_digits(self, column: str) -> str:
        """A timestamptz as 16 hexadecimal digits: microseconds since 2000, two's complement."""
        since_2000 = f"{self.microseconds(column)} - {_EPOCH_2000_US}"
        match self:
            case Engine.POSTGRES:  # Its very bytes: three times as fast as arithmetic in numeric.
                return f"encode(timestamptz_send({column}), 'hex')"
            case Engine.DUCKDB:
                return f"lower(hex(({since_2000})::BIT::BLOB))"
            case Engine.REDSHIFT:
                return f"lpad(to_hex({since_2000}), 16, '0')"

    def octets(self, text: str) -> str:
        """The length of a text in UTF-8."""
        return f"strlen({text})" if self is Engine.DUCKDB else f"octet_length({text})"

    def double_bits(self, column: str) -> str:
        """The 64 bits of a double as hexadecimal digits.

        Redshift has no function for them: its table holds them beside, see `sink/redshift`.
        """
        match self:
            case Engine.POSTGRES:
                return f"encode(float8send({column}), 'hex')"
            case Engine.DUCKDB:
                return f"lower(hex({column}::BIT::BLOB))"
            case Engine.REDSHIFT:
                return f"lpad(to_hex({column}_bits), 16, '0')"

    def is_nan(self, column: str) -> str:
        """Whether a double is no number."""
        return f"isnan({column})" if self is Engine.DUCKDB else f"{column} = 'NaN'::float8"

    def hash(self, text: str) -> str:
        """The MD5 of a text, as `limb` takes it apart.

        As few texts as possible: to read a number from hexadecimal digits takes an engine longer
        than to hash a row.
        """
        match self:
            case Engine.POSTGRES:  # Bytes, the highest first.
                return f"reverse(decode(md5({text}), 'hex'))"
            case Engine.DUCKDB:  # A number, which it takes to be little-endian.
                return f"md5_number({text})"
            case Engine.REDSHIFT:  # 32 hexadecimal digits, the lowest byte first.
                return f"md5({text})"

    def limb(self, hashed: str, number: int) -> str:
        """The first or second 60 bits of a hash without its lowest byte, as a number."""
        match self:
            case Engine.POSTGRES:  # Casting 8 bytes to a number is new in PostgreSQL 18.
                word = f"substr({hashed}, {8 if number else 1}, 8)::bigint"
                return f"{word if number else f'({word} >> 4)'} & {_LIMB_MAX}"
            case Engine.DUCKDB:
                return f"(({hashed} >> {8 if number else 68}) & {_LIMB_MAX})::BIGINT"
            case Engine.REDSHIFT:
                return f"strtol({' || '.join(_limb_digits(hashed, number))}, 16)"

    def joined(self, parts: Sequence[str]) -> str:
        """Values joined by bars; none of them is NULL."""
        if self is Engine.REDSHIFT:  # It has no concat_ws.
            return " || '|' || ".join(f"({part})::varchar" for part in parts)
        return f"concat_ws('|', {', '.join(parts)})"

    def window(self, column: str, width: str) -> str:
        """What is the same for all moments of a window; `width` in microseconds."""
        match self:
            case Engine.POSTGRES:  # Twice as fast as extract(), which then is for windows only.
                stride = f"{width} * interval '1 microsecond'"
                return f"date_bin({stride}, {column}, '{_EPOCH}'::timestamptz)"
            case Engine.DUCKDB:
                return f"{self.microseconds(column)} // {width}"
            case Engine.REDSHIFT:
                return f"{self.microseconds(column)} / {width}"

    def window_number(self, window: str, width: str) -> str:
        """The number since 1970 of what `window` gave."""
        return f"{self.microseconds(window)} / {width}" if self is Engine.POSTGRES else window

    @property
    def fence(self) -> str:
        """What ends a subquery whose columns are to be computed once.

        Postgres would pull it up, and then hash each row once for each sum; and, not knowing how
        few windows there are, sort the rows. Not a plain 0, which keeps it from going parallel.
        """
        return "OFFSET '0'::bigint" if self is Engine.POSTGRES else ""


def value_sql(engine: Engine) -> str:
    """The SQL expression of a row's value: <type><octets>:<value>."""
    return f"""CASE
        WHEN value_double IS NOT NULL THEN CASE
            WHEN {engine.is_nan("value_double")} THEN 'd3:nan'
            ELSE 'd16:' || {engine.double_bits("value_double")} END
        WHEN value_int IS NOT NULL THEN {_tagged(engine, "i", "value_int::varchar")}
        WHEN value_bool IS NOT NULL THEN CASE WHEN value_bool THEN 'b1:t' ELSE 'b1:f' END
        WHEN value_text IS NOT NULL THEN {_tagged(engine, "s", "value_text")}
        WHEN value_decimal IS NOT NULL THEN {_tagged(engine, "n", "value_decimal::varchar")}
        WHEN value_time IS NOT NULL THEN 't16:' || {engine.time_digits("value_time")}
        WHEN value_json IS NOT NULL THEN {_tagged(engine, "j", "value_json::varchar")}
        END"""


def canonical_sql(engine: Engine) -> str:
    """The SQL expression of a row's canonical text."""
    times = engine.time_digits("event_time"), engine.time_digits("ingested_at")
    parts = ["tenant_id", "entity_id", "attribute_id", *times, "quality", value_sql(engine)]
    return engine.joined(parts)


@dataclass(frozen=True, slots=True)
class Range:
    """An engine's placeholders: a tenant's id, and the ends (timestamps, half-open) of a range."""

    tenant_id: str
    start: str
    stop: str

    @property
    def condition(self) -> str:
        """The SQL condition of rows within."""
        return (
            f"tenant_id = {self.tenant_id}"
            f" AND ingested_at >= {self.start} AND ingested_at < {self.stop}"
        )


@cache
def window_digests_sql(engine: Engine, parameters: tuple[str, str, str, str]) -> str:
    """The statement that digests the windows of a tenant in a range of ingested_at, in one pass.

    `parameters` are the engine's placeholders for the tenant's id, the range's two ends (as
    timestamps, half-open) and the windows' width in microseconds. Rows: (number of the window since
    1970, rows, high, low); windows without rows are missing.
    """
    *of_rows, width = parameters
    rows = Range(*of_rows)
    return f"""
        SELECT {engine.window_number("bin", width)}, count(*),
            sum({engine.limb("hash", 0)}), sum({engine.limb("hash", 1)})
        FROM (
            SELECT {engine.window("ingested_at", width)} AS bin,
                {engine.hash(canonical_sql(engine))} AS hash
            FROM entity_values_ts
            WHERE {rows.condition}
            {engine.fence}
        ) AS hashed
        GROUP BY bin"""  # noqa: S608 - made of our own names and placeholders.


@cache
def bucket_digests_sql(engine: Engine, rows: Range, digits: str) -> str:
    """The statement that digests the rows of a range by the first digits of their MD5.

    `digits` is the placeholder of how many. Rows: (those digits, rows, high, low).
    """
    return f"""
        SELECT bucket, count(*),
            sum({engine.limb("hash", 0)}), sum({engine.limb("hash", 1)})
        FROM (
            SELECT substr(md5({canonical_sql(engine)}), 1, {digits}) AS bucket,
                {engine.hash(canonical_sql(engine))} AS hash
            FROM entity_values_ts
            WHERE {rows.condition}
            {engine.fence}
        ) AS hashed
        GROUP BY bucket"""  # noqa: S608 - made of our own names and placeholders.


@cache
def rows_sql(engine: Engine, rows: Range, digits: str, is_wanted: str, rows_max: str) -> str:
    """The statement that reads rows of a range: as many as `rows_max` at most.

    `is_wanted` is a condition on `bucket`, the first `digits` digits of a row's MD5. Rows:
    (ingested at, entity_id, attribute_id, event time, quality, value), times and value as in the
    canonical text.
    """
    event, ingested = engine.time_digits("event_time"), engine.time_digits("ingested_at")
    return f"""
        SELECT ingested, entity_id, attribute_id, event, quality, value
        FROM (
            SELECT {ingested} AS ingested, entity_id, attribute_id, {event} AS event, quality,
                {value_sql(engine)} AS value,
                substr(md5({canonical_sql(engine)}), 1, {digits}) AS bucket
            FROM entity_values_ts
            WHERE {rows.condition}
            {engine.fence}
        ) AS hashed
        WHERE {is_wanted}
        LIMIT {rows_max}"""  # noqa: S608 - made of our own names and placeholders.


def _tagged(engine: Engine, tag: str, text: str) -> str:
    return f"'{tag}' || {engine.octets(text)} || ':' || {text}"


def _limb_digits(text: str, number: int) -> list[str]:
    """The digits of a limb in a hexadecimal text of 16 bytes, the highest first.

    The limbs share the 9th byte: the first one ends in it, the second one begins in it.
    """
    if number == 0:
        whole = [f"substr({text}, {place}, 2)" for place in range(31, 17, -2)]
        return [*whole, f"substr({text}, 17, 1)"]
    return [
        f"substr({text}, 18, 1)",
        *(f"substr({text}, {place}, 2)" for place in range(15, 1, -2)),
    ]
