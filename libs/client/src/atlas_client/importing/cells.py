"""One cell to one typed value; and the type that fits all cells of a new attribute."""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

from atlas_client.importing.errors import CellError
from atlas_client.values import DataType, Json, Value, data_type_of, from_us, to_us

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_INT = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = frozenset({"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})
_YEAR_1_US = to_us(datetime.min.replace(tzinfo=UTC))
_YEAR_10000_US = to_us(datetime.max.replace(tzinfo=UTC)) + 1
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


class TimeUnit(StrEnum):
    """What a time that is a bare number counts, since 1970."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"


_US_PER_UNIT = {
    TimeUnit.SECONDS: Decimal(1_000_000),
    TimeUnit.MILLISECONDS: Decimal(1_000),
    TimeUnit.MICROSECONDS: Decimal(1),
    TimeUnit.NANOSECONDS: Decimal("0.001"),
}


def parse_time(cell: Any, unit: TimeUnit) -> int:
    """Return microseconds since 1970: of ISO 8601 (UTC where it names no zone), or a number.

    Raises CellError.
    """
    if isinstance(cell, datetime):
        return to_us(cell if cell.tzinfo else cell.replace(tzinfo=UTC))
    if cell is None:
        raise CellError("INVALID_FIELD", "the time is empty")
    text = str(cell).strip()
    try:
        if _NUMBER.fullmatch(text):
            return _bounded_us(Decimal(text) * _US_PER_UNIT[unit])
        moment = datetime.fromisoformat(text)
    except (ValueError, ArithmeticError):
        raise CellError(
            "INVALID_FIELD", f"{_shown(text)} is no time (ISO 8601, or a number)"
        ) from None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _bounded_us(microseconds: Decimal) -> int:
    # Before int(): "1e999999999" is a short text of a number that would fill the memory.
    if not _YEAR_1_US <= microseconds < _YEAR_10000_US:
        raise ValueError("outside the years 1 to 9999")
    return int(microseconds)


def parser(data_type: DataType, unit: TimeUnit) -> Callable[[Any], Value]:
    """Return the function from a cell to a value of the type; it raises CellError."""
    if data_type is DataType.TIME:
        return lambda cell: from_us(_value_time(cell, unit))
    return _PARSERS[data_type]


def _value_time(cell: Any, unit: TimeUnit) -> int:
    try:
        return parse_time(cell, unit)
    except CellError as error:
        raise CellError("TYPE_MISMATCH", str(error)) from error


def _bool(cell: Any) -> bool:
    if isinstance(cell, bool):
        return cell
    found = _BOOLS.get(str(cell).strip().lower())
    if found is None:
        raise CellError("TYPE_MISMATCH", f"{_shown(cell)} is no BOOL: write true or false")
    return found


def _int(cell: Any) -> int:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # Tables with gaps keep their integers as floats.
    if isinstance(cell, bool) or not isinstance(cell, (int, str)):
        raise CellError("TYPE_MISMATCH", f"{_shown(cell)} is no INT")
    if isinstance(cell, str) and not _INT.fullmatch(cell.strip()):
        raise CellError("TYPE_MISMATCH", f"{_shown(cell)} is no INT")
    try:
        value = int(cell)
    except ValueError:  # Python refuses to read thousands of digits.
        value = _INT64_MAX + 1
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise CellError("VALUE_OUT_OF_RANGE", f"{_shown(cell)} is beyond 64 bits")
    return value


def _double(cell: Any) -> float:
    if isinstance(cell, (int, float, Decimal)) and not isinstance(cell, bool):
        return float(cell)
    text = str(cell).strip()
    if isinstance(cell, str) and (_NUMBER.fullmatch(text) or text.lower() in _NOT_FINITE):
        return float(text)
    raise CellError("TYPE_MISMATCH", f"{_shown(cell)} is no DOUBLE")


def _decimal(cell: Any) -> Decimal:
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float, Decimal)):
        raise CellError("TYPE_MISMATCH", f"{_shown(cell)} is no DECIMAL")
    text = repr(cell) if isinstance(cell, float) else str(cell).strip()
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise CellError("DECIMAL_INVALID", f"{_shown(cell)} is no DECIMAL") from None
    if not value.is_finite():
        raise CellError("VALUE_NOT_FINITE", f"{_shown(cell)}: a DECIMAL is finite")
    return value


def _text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    raise CellError("TYPE_MISMATCH", f"{_shown(cell)} is no TEXT")


def _json(cell: Any) -> Json:
    try:
        document = json.loads(cell, parse_constant=_no_constant) if isinstance(cell, str) else cell
        json.dumps(document, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise CellError("JSON_INVALID", f"{_shown(cell)} is no JSON") from None
    return Json(document)


def _no_constant(name: str) -> Any:
    raise ValueError(name)


_PARSERS: dict[DataType, Callable[[Any], Value]] = {
    DataType.BOOL: _bool,
    DataType.INT: _int,
    DataType.DOUBLE: _double,
    DataType.DECIMAL: _decimal,
    DataType.TEXT: _text,
    DataType.JSON: _json,
}


def cell_type(cell: Any) -> DataType:
    """Return the narrowest type of a cell that is not empty."""
    if isinstance(cell, str):
        return _text_type(cell.strip())
    if isinstance(cell, int) and not _INT64_MIN <= cell <= _INT64_MAX:
        return DataType.DOUBLE
    try:
        return data_type_of(cell)
    except TypeError:
        return DataType.JSON


def _text_type(text: str) -> DataType:
    for recognize, data_type in _RECOGNIZERS:
        if recognize(text):
            return data_type
    return DataType.TEXT


def _is_json(text: str) -> bool:
    return text[:1] in {"{", "["} and _parses(_json, text)


def _is_time(text: str) -> bool:
    return len(text) >= len("2024-01-01") and _parses(datetime.fromisoformat, text)


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


_RECOGNIZERS: tuple[tuple[Callable[[str], object], DataType], ...] = (
    # Longer ones are identifiers rather than counts; as doubles they would lose digits.
    (lambda text: len(text) > 18 and _INT.fullmatch(text), DataType.TEXT),
    (_INT.fullmatch, DataType.INT),
    (lambda text: _NUMBER.fullmatch(text) and math.isfinite(float(text)), DataType.DOUBLE),
    (lambda text: text.lower() in _NOT_FINITE, DataType.DOUBLE),
    (lambda text: text.lower() in {"true", "false"}, DataType.BOOL),
    (_is_json, DataType.JSON),
    (_is_time, DataType.TIME),
)


def joined(one: DataType | None, other: DataType) -> DataType:
    """Return the type that holds values of both."""
    if one is None or one is other:
        return other
    if {one, other} == {DataType.INT, DataType.DOUBLE}:
        return DataType.DOUBLE
    if {one, other} == {DataType.INT, DataType.DECIMAL}:
        return DataType.DECIMAL
    return DataType.TEXT


def _shown(cell: Any) -> str:
    text = cell if isinstance(cell, str) else repr(cell)
    return repr(text if len(text) <= 40 else text[:40] + "...")
