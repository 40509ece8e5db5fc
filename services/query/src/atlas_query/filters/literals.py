"""Values as jsonpath literals, in the form of hot_value() in db: equal values, equal literals."""

import json
from decimal import Decimal
from math import isfinite, isnan
from typing import Any

from atlas_common import errors
from atlas_common.values import DataType, decimal_text
from atlas_query.filters.tree import Operand

_DECIMAL_DIGITS_BEFORE_MAX = 20
_DECIMAL_DIGITS_AFTER_MAX = 18


def literal(operand: Operand) -> str:
    """The literal of any value but a JSON document.

    Raises ServiceError INVALID_ARGUMENT: TEXT_HAS_NUL, DECIMAL_INVALID, VALUE_NOT_FINITE.
    """
    value = operand.value
    match operand.data_type:
        case DataType.BOOL:
            return "true" if value else "false"
        case DataType.INT | DataType.TIME:
            return str(value)
        case DataType.DOUBLE:
            return _double(float(value))
        case DataType.DECIMAL:
            assert isinstance(value, Decimal)
            return _decimal(value, operand.field)
        case DataType.TEXT:
            return _text(str(value), operand.field)
        case DataType.JSON:
            raise AssertionError("jsonpath has no literals of documents")


def string(text: str) -> str:
    """A string literal, in ASCII, with escapes that jsonpath shares with JSON: none ends early."""
    return json.dumps(text)


def document(operand: Operand) -> Any:
    """A JSON document, parsed; its numbers are Decimals. Raises ServiceError JSON_INVALID."""
    try:
        return json.loads(
            str(operand.value),
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=_no_constant,
        )
    except (ValueError, ArithmeticError, RecursionError):
        raise errors.invalid_argument(
            "JSON_INVALID", "the JSON value does not parse", field=operand.field
        ) from None


def _double(value: float) -> str:
    if isfinite(value):
        return repr(value + 0.0)  # The projection knows no negative zero.
    return '"NaN"' if isnan(value) else ('"Infinity"' if value > 0 else '"-Infinity"')


def _decimal(value: Decimal, field: str) -> str:
    if not value.is_finite():
        raise errors.invalid_argument(
            "VALUE_NOT_FINITE", "a decimal is never NaN or infinite", field=field
        )
    if value and (
        value.adjusted() >= _DECIMAL_DIGITS_BEFORE_MAX
        or _digits_after_point(value) > _DECIMAL_DIGITS_AFTER_MAX
    ):
        raise errors.invalid_argument(
            "DECIMAL_INVALID",
            f"a decimal has at most {_DECIMAL_DIGITS_BEFORE_MAX} digits before and"
            f" {_DECIMAL_DIGITS_AFTER_MAX} after the point",
            field=field,
        )
    return decimal_text(value) if value else "0"


def _digits_after_point(value: Decimal) -> int:
    # Not Decimal.normalize(): it rounds to its context's 28 digits, and fails beyond its exponents.
    _sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    trailing_zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    return -(exponent + trailing_zeros)


def _text(text: str, field: str) -> str:
    if "\0" in text:
        raise errors.invalid_argument("TEXT_HAS_NUL", "the value holds U+0000", field=field)
    return string(text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
