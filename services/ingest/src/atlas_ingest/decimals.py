"""Decimals as text: parsed without ever expanding an exponent ("1e999999" costs nothing)."""

import re
from decimal import Decimal
from typing import NamedTuple

INTEGER_DIGITS_MAX = 20
FRACTION_DIGITS_MAX = 18
BYTES_MAX = 64

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]*))?|\.(?P<bare>[0-9]+))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,9}))?"
)
_NOT_FINITE = re.compile(r"[+-]?(?:s?nan[0-9]*|inf(?:inity)?)", re.IGNORECASE | re.ASCII)


class Parts(NamedTuple):
    """A number as sign, digits without zeros at either end, and the power of ten of the last one.

    Zero has no digits.
    """

    negative: bool
    digits: str
    exponent: int

    @property
    def integer_digits(self) -> int:
        """Digits before the point."""
        return max(0, len(self.digits) + self.exponent) if self.digits else 0

    @property
    def fraction_digits(self) -> int:
        """Digits after the point."""
        return max(0, -self.exponent) if self.digits else 0

    def to_decimal(self) -> Decimal:
        """The number. Exact: neither context nor precision plays a part."""
        return Decimal((int(self.negative), tuple(map(int, self.digits)), self.exponent))


def split(text: str) -> Parts | None:
    """The parts of a number in plain or exponent notation; None if the text is no number."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    fraction = match["bare"] or match["fraction"] or ""
    digits = (match["whole"] or "") + fraction
    significant = digits.rstrip("0")
    exponent = int(match["exponent"] or 0) - len(fraction) + len(digits) - len(significant)
    significant = significant.lstrip("0")
    return Parts(match["sign"] == "-", significant, exponent if significant else 0)


def is_not_finite(text: str) -> bool:
    """Whether the text names NaN or an infinity."""
    return _NOT_FINITE.fullmatch(text) is not None
