"""What an attribute's definition demands of its values."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeAlias

import re2

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType, Scalar, decimal_text
from atlas_ingest import decimals, documents

TEXT_BYTES_MAX = 65_536
REGEX_MEMORY_BYTES_MAX = 2**18
# Steps of the compiled pattern. RE2 never backtracks, but a byte of text can cost that many: with
# 1,600 steps, 50 kB took 0.4 s here.
REGEX_STEPS_MAX = 2_000
_CLIP_CHARS = 40
# Years 1 to 9999: the range of google.protobuf.Timestamp, inside that of Postgres.
TIME_SECONDS_MIN, TIME_SECONDS_MAX = -62_135_596_800, 253_402_300_799


class RefusedError(ValueError):
    """A value breaks a rule; `reason` is a name of ErrorReason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


Accept: TypeAlias = Callable[[Any], Scalar]


@dataclass(frozen=True, slots=True)
class Rule:
    """An attribute as validation sees it.

    `accept` turns a value as it came into the one that is stored, or raises RefusedError; None:
    every value of the type is stored as it came. `attribute_id` and `definition` are None for an
    attribute that is not registered yet; the definition is what `accept` was made of, for those who
    check values by the set. `steps_per_byte`: of matching, at most.
    """

    attribute_id: int | None
    data_type: DataType
    accept: Accept | None
    definition: AttributeDef | None = None
    steps_per_byte: int = 0


def new_rule(data_type: DataType) -> Rule:
    """The rule of an attribute that a point is about to register."""
    accept = _UNBOUND[data_type]
    return Rule(None, data_type, accept)


def rule_of(definition: AttributeDef) -> Rule:
    """The rule of a registered attribute."""
    pattern = definition.validation_regex
    return Rule(
        definition.attribute_id,
        definition.data_type,
        _accept(definition),
        definition,
        regex_of(pattern).programsize if pattern else 0,
    )


@lru_cache(maxsize=500)
def regex_of(pattern: str) -> Any:
    """The compiled RE2. Raises re2.error."""
    options = re2.Options()
    options.max_mem = REGEX_MEMORY_BYTES_MAX
    options.log_errors = False
    return re2.compile(pattern, options)


def clip(value: object) -> str:
    """A value for an error's text: printable, and short."""
    text = value if isinstance(value, str) else str(value)
    shown = text[:_CLIP_CHARS].encode("unicode_escape").decode()
    return f"'{shown}'..." if len(text) > _CLIP_CHARS else f"'{shown}'"


def _accept(definition: AttributeDef) -> Accept | None:
    low, high = definition.min_value, definition.max_value
    if definition.data_type is DataType.INT and not (low is None and high is None):
        return _int_between(low, high)
    if definition.data_type is DataType.DOUBLE and not (low is None and high is None):
        return _double_between(low, high)
    if definition.data_type is DataType.DECIMAL and not (low is None and high is None):
        return _decimal_between(low, high)
    if definition.data_type is DataType.TEXT:
        return _text(definition.allowed_values, definition.validation_regex)
    return _UNBOUND[definition.data_type]


def int_range(low: Decimal | None, high: Decimal | None) -> tuple[int, int]:
    """The least and the greatest 64-bit integer between the bounds; None is no bound."""
    # As ints: Python compares int with Decimal exactly, but ten times slower.
    least = math.ceil(low) if low is not None else -(2**63)
    most = math.floor(high) if high is not None else 2**63 - 1
    return least, most


def double_range(low: Decimal | None, high: Decimal | None) -> tuple[float, float]:
    """The least and the greatest double between the bounds; None is no bound."""
    least = -math.inf if low is None else _nearest_double(low, towards=math.inf)
    most = math.inf if high is None else _nearest_double(high, towards=-math.inf)
    return least, most


def _int_between(low: Decimal | None, high: Decimal | None) -> Accept:
    least, most = int_range(low, high)

    def accept(value: int) -> int:
        if least <= value <= most:
            return value
        raise _out_of_range(value, low, high)

    return accept


def _double_between(low: Decimal | None, high: Decimal | None) -> Accept:
    least, most = double_range(low, high)

    def accept(value: float) -> float:
        if least <= value <= most:  # False for NaN.
            return value
        raise _out_of_range(value, low, high)

    return accept


def _nearest_double(bound: Decimal, *, towards: float) -> float:
    """The double next to the bound, on the side that is inside."""
    try:
        near = float(bound)
    except OverflowError:
        near = math.copysign(math.inf, bound)
    outside = Decimal(near) < bound if towards > 0 else Decimal(near) > bound
    return math.nextafter(near, towards) if outside else near


def _decimal(value: str) -> Decimal:
    parts = decimals.split(value) if len(value) <= decimals.BYTES_MAX else None
    if parts is None:
        if decimals.is_not_finite(value):
            raise RefusedError(
                "VALUE_NOT_FINITE", f"{clip(value)} is not finite: a decimal has to be"
            )
        raise RefusedError(
            "DECIMAL_INVALID",
            f"{clip(value)} is no decimal such as '-12.50' or '1e-3' of at most"
            f" {decimals.BYTES_MAX} characters",
        )
    if (
        parts.integer_digits > decimals.INTEGER_DIGITS_MAX
        or parts.fraction_digits > decimals.FRACTION_DIGITS_MAX
    ):
        raise RefusedError(
            "DECIMAL_INVALID",
            f"{clip(value)} has more than {decimals.INTEGER_DIGITS_MAX} digits before or"
            f" {decimals.FRACTION_DIGITS_MAX} after the point: round it",
        )
    return parts.to_decimal()


def _decimal_between(low: Decimal | None, high: Decimal | None) -> Accept:
    def accept(value: str) -> Decimal:
        number = _decimal(value)
        if (low is None or low <= number) and (high is None or number <= high):
            return number
        raise _out_of_range(value, low, high)

    return accept


def _out_of_range(value: object, low: Decimal | None, high: Decimal | None) -> RefusedError:
    least = "any" if low is None else decimal_text(low)
    most = "any" if high is None else decimal_text(high)
    return RefusedError(
        "VALUE_OUT_OF_RANGE",
        f"{clip(value)} is outside the attribute's range, {_short(least)} to {_short(most)}",
    )


def _short(number: str) -> str:
    return number if len(number) <= _CLIP_CHARS else number[:_CLIP_CHARS] + "..."


def _plain_text(value: str) -> str:
    if "\0" in value:
        raise RefusedError("TEXT_HAS_NUL", f"{clip(value)} holds U+0000: remove it")
    # Four bytes a character at most: short texts need not be encoded to be measured.
    if len(value) * 4 > TEXT_BYTES_MAX:
        _check_size(value)
    return value


def _check_size(value: str) -> None:
    size = len(value.encode())
    if size > TEXT_BYTES_MAX:
        raise RefusedError(
            "VALUE_OUT_OF_RANGE", f"has {size} bytes, at most {TEXT_BYTES_MAX} are stored"
        )


def _text(allowed_values: tuple[str, ...], pattern: str) -> Accept:
    if not allowed_values and not pattern:
        return _plain_text
    allowed = frozenset(allowed_values)
    examples = ", ".join(clip(value) for value in allowed_values[:3])

    def accept(value: str) -> str:
        _plain_text(value)
        if allowed and value not in allowed:
            raise RefusedError(
                "VALUE_NOT_ALLOWED",
                f"{clip(value)} is none of the {len(allowed)} allowed values, such as {examples}",
            )
        if pattern and regex_of(pattern).fullmatch(value) is None:
            raise RefusedError(
                "REGEX_MISMATCH", f"{clip(value)} does not match {clip(pattern)} as a whole"
            )
        return value

    return accept


def _time(value: tuple[int, int]) -> int:
    seconds, nanoseconds = value
    if not 0 <= nanoseconds < 1_000_000_000:
        raise RefusedError("INVALID_FIELD", f"nanos is {nanoseconds}, not in 0..999999999")
    if not TIME_SECONDS_MIN <= seconds <= TIME_SECONDS_MAX:
        raise RefusedError(
            "VALUE_OUT_OF_RANGE", f"{seconds} s since 1970 is outside the years 1 to 9999"
        )
    return seconds * 1_000_000 + nanoseconds // 1_000


def _json(value: str) -> str:
    if len(value) * 4 > TEXT_BYTES_MAX:
        _check_size(value)
    try:
        documents.check(value)
    except documents.DocumentError as error:
        raise RefusedError(error.reason, f"{clip(value)} {error}") from None
    return value


_UNBOUND: dict[DataType, Accept | None] = {
    DataType.BOOL: None,
    DataType.INT: None,
    DataType.DOUBLE: None,
    DataType.DECIMAL: _decimal,
    DataType.TEXT: _plain_text,
    DataType.TIME: _time,
    DataType.JSON: _json,
}
