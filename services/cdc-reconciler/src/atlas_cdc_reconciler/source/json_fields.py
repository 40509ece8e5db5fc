"""Columns of JSON values as Debezium writes Postgres' types, as Arrow arrays; pure, no I/O.

https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-data-types
with `decimal.handling.mode=string` and the default `time.precision.mode=adaptive`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from atlas_cdc_reconciler.columns import FieldError, arrow_type
from atlas_cdc_reconciler.tables import ColumnType

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_TEXT_DOUBLES = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
# What Java's ISO_OFFSET_DATE_TIME writes: other years than four digits have a sign, and there is a
# year 0, which is 1 BC.
_ZONED = re.compile(
    r"([+-]?\d{4,6})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))"
)
_DAY_SECONDS = 86_400


def to_arrow(column_type: ColumnType, fields: Sequence[Any]) -> pa.Array:
    """One column of the warehouse from JSON values. Raises FieldError."""
    if fields.count(None) == len(fields):
        return pa.nulls(len(fields), arrow_type(column_type))
    try:
        return _BUILDERS[column_type](fields)
    except (ValueError, TypeError, InvalidOperation, OverflowError) as error:
        raise FieldError(f"no {column_type.name}: {error}") from error


def microseconds(text: str) -> int:
    """A time of any year, in microseconds since 1970. Raises FieldError."""
    match = _ZONED.fullmatch(text)
    if match is None:
        raise FieldError("no time with a zone, or one beyond what the warehouse can hold")
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, zone_hours, zone_minutes = match.groups()[6:]
    if not (1 <= month <= 12 and 1 <= day <= _days_in(year, month)):
        raise FieldError(f"no day {year}-{month}-{day}")
    if hour > 23 or minute > 59 or second > 59:
        raise FieldError(f"no time of a day {hour}:{minute}:{second}")
    nanoseconds = int((fraction or "0").ljust(9, "0"))
    if nanoseconds % 1_000:
        raise FieldError("a time finer than a microsecond")
    seconds = _days_since_1970(year, month, day) * _DAY_SECONDS
    seconds += hour * 3_600 + minute * 60 + second
    if sign:
        offset = int(zone_hours) * 3_600 + int(zone_minutes) * 60
        seconds += offset if sign == "-" else -offset
    return seconds * 1_000_000 + nanoseconds // 1_000


def _days_since_1970(year: int, month: int, day: int) -> int:
    """In the proleptic Gregorian calendar; https://howardhinnant.github.io/date_algorithms.html."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _days_in(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _only(fields: Iterable[Any], *types: type) -> None:
    """Make sure of the types: Arrow would take a bool for a number, and more."""
    others = {type(field) for field in fields} - {type(None), *types}
    if others:
        raise FieldError(f"a JSON {', '.join(sorted(each.__name__ for each in others))}")


def _plain(column_type: ColumnType, python_type: type) -> Callable[[Sequence[Any]], pa.Array]:
    def build(fields: Sequence[Any]) -> pa.Array:
        _only(fields, python_type)
        return pa.array(fields, type=arrow_type(column_type))

    return build


def _double(fields: Sequence[Any]) -> pa.Array:
    _only(fields, float, int, str)
    numbers = [_number(field) if isinstance(field, str) else field for field in fields]
    return pa.array(numbers, type=pa.float64(), from_pandas=False)


def _number(text: str) -> float:
    if text not in _TEXT_DOUBLES:
        raise FieldError(f"a JSON string {text[:40]!r}")
    return _TEXT_DOUBLES[text]


def _decimals(fields: Sequence[Any]) -> list[Decimal | None]:
    others = {type(field) for field in fields} - {type(None), str}
    if others:
        raise FieldError("a JSON number: Debezium needs decimal.handling.mode=string")
    values = [None if field is None else Decimal(field) for field in fields]
    if not all(value is None or value.is_finite() for value in values):
        raise FieldError("NaN or infinite")
    return values


def _decimal(fields: Sequence[Any]) -> pa.Array:
    return pa.array(_decimals(fields), type=arrow_type(ColumnType.DECIMAL))


def _numeric_text(fields: Sequence[Any]) -> pa.Array:
    texts = [None if value is None else format(value, "f") for value in _decimals(fields)]
    return pa.array(texts, type=pa.string())


def _text_array(fields: Sequence[Any]) -> pa.Array:
    _only(fields, list, tuple)
    _only((item for field in fields if field is not None for item in field), str)
    return pa.array(fields, type=arrow_type(ColumnType.TEXT_ARRAY))


def _time(fields: Sequence[Any]) -> pa.Array:
    """Texts with a zone, or microseconds since 1970 (a timestamp without time zone, in UTC)."""
    _only(fields, str, int)
    time_type = arrow_type(ColumnType.TIME)
    try:
        return pa.array(fields, type=pa.string()).cast(time_type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # Numbers, or years that Arrow does not read.
        moments = [microseconds(f) if isinstance(f, str) else f for f in fields]
    if not all(moment is None or _INT64_MIN < moment <= _INT64_MAX for moment in moments):
        raise FieldError("a time beyond what the warehouse can hold")
    return pa.array(moments, type=pa.int64()).cast(time_type)


def _other(_: Sequence[Any]) -> pa.Array:
    raise FieldError("a column whose type the source's schema does not tell")


_BUILDERS: dict[ColumnType, Callable[[Sequence[Any]], pa.Array]] = {
    ColumnType.BOOL: _plain(ColumnType.BOOL, bool),
    ColumnType.INT2: _plain(ColumnType.INT2, int),
    ColumnType.INT4: _plain(ColumnType.INT4, int),
    ColumnType.INT8: _plain(ColumnType.INT8, int),
    ColumnType.DOUBLE: _double,
    ColumnType.DECIMAL: _decimal,
    ColumnType.NUMERIC_TEXT: _numeric_text,
    ColumnType.TEXT: _plain(ColumnType.TEXT, str),
    ColumnType.TEXT_ARRAY: _text_array,
    ColumnType.TIME: _time,
    ColumnType.JSON: _plain(ColumnType.JSON, str),
    ColumnType.OTHER: _other,
}
