"""Decimals of 128 bits to the binary form of Postgres' numeric, by the column.

A numeric is its digits to the base of 10,000, the power of its first, its sign, and how many
decimal digits stand after the point ("dscale"; here never with zeros at the end, as
atlas_ingest.decimals has it). numpy has no integers of 128 bits: a number is worked on as words of
32 bits in arrays of 64, so that no product and no remainder overflows.
"""

import math
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas_ingest import decimals

Ints: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]
Flags: TypeAlias = npt.NDArray[np.bool_]

PRECISION_MAX = 38
_GROUP_DIGITS = 4
_LIMB = 10**8  # Two groups; below 2^32, so that a remainder and a word fit 64 bits.
_WORD_BITS = 32
_WORD = 2**_WORD_BITS - 1
_SIGN = 2**63
_WIDE = Context(prec=1_000)  # Wider than any bound of a definition.
_NEGATIVE = 0x4000
_HEAD_WORDS = 4  # Of 16 bits: count of digits, weight, sign, dscale.

# How many zeros a group of four digits ends in, and, for the first group, how many digits it has.
_GROUPS = np.arange(10**_GROUP_DIGITS)
_ZEROS = sum((_GROUPS % 10**power == 0).astype(np.int64) for power in range(1, 5))
_WIDTHS = sum((10**power <= _GROUPS).astype(np.int64) for power in range(4))


@dataclass(frozen=True)
class Scaled:
    """Numbers times 10^scale, as two's complement: `high` is signed, `low` is not."""

    high: Ints
    low: Words
    scale: int

    def take(self, at: Ints) -> "Scaled":
        """The numbers at some positions."""
        return Scaled(self.high[at], self.low[at], self.scale)

    def decimal(self, at: int) -> Decimal:
        """The number at a position."""
        number = int(self.high[at]) << 64 | int(self.low[at])
        return Decimal(number).scaleb(-self.scale, _WIDE)

    def between(self, limbs: Words) -> Flags:
        """Which numbers lie within their bounds.

        `limbs`: of each number low and high of the least and of the greatest, see limbs_of().
        """
        high = self.high.view(np.uint64) ^ np.uint64(_SIGN)
        least_low, least_high, most_low, most_high = limbs.T
        above = (high > least_high) | ((high == least_high) & (self.low >= least_low))
        below = (high < most_high) | ((high == most_high) & (self.low <= most_low))
        flags: Flags = above & below
        return flags

    def has_digits_in_bounds(self, precision: int) -> Flags:
        """Which numbers have no more digits before and after the point than are stored."""
        if (
            self.scale <= decimals.FRACTION_DIGITS_MAX
            and precision - self.scale <= decimals.INTEGER_DIGITS_MAX
        ):
            return np.ones(len(self.low), dtype=bool)
        digits = self._digits
        flags: Flags = (digits.dscale <= decimals.FRACTION_DIGITS_MAX) & (
            digits.integer_digits <= decimals.INTEGER_DIGITS_MAX
        )
        return flags

    def encoded(self) -> Any:
        """A pa.BinaryArray of numerics."""
        digits = self._digits
        sizes = _HEAD_WORDS + digits.counts
        words = np.empty((len(sizes), _HEAD_WORDS + digits.groups.shape[1]), dtype=">u2")
        words[:, 0] = digits.counts
        words[:, 1] = digits.weights.astype(np.int16).view(np.uint16)
        words[:, 2] = np.where((self.high < 0), _NEGATIVE, 0)
        words[:, 3] = digits.dscale
        words[:, _HEAD_WORDS:] = digits.groups
        at = np.arange(words.shape[1])
        start, end = _HEAD_WORDS + digits.first, _HEAD_WORDS + digits.first + digits.counts
        is_kept = (at < _HEAD_WORDS) | ((at >= start[:, None]) & (at < end[:, None]))
        offsets = np.zeros(len(sizes) + 1, dtype=np.int32)
        np.cumsum(2 * sizes, out=offsets[1:])
        return pa.Array.from_buffers(
            pa.binary(),
            len(sizes),
            [None, pa.py_buffer(offsets), pa.py_buffer(words[is_kept])],
        )

    @cached_property
    def _digits(self) -> "_Digits":
        return _digits(self)


@dataclass(frozen=True, slots=True)
class _Digits:
    """Numbers to the base of 10,000.

    `groups`: a row for each number, the same power of the base in one column. A number's own groups
    are `counts` of them from `first` on.
    """

    groups: npt.NDArray[np.uint16]
    first: Ints
    counts: Ints
    weights: Ints
    dscale: Ints
    integer_digits: Ints


def scaled_range(bounds: tuple[Decimal | None, Decimal | None], scale: int) -> tuple[int, int]:
    """The least and the greatest number between the bounds, times 10^scale; None is no bound."""
    low, high = bounds
    limit = 10**PRECISION_MAX
    least = -limit if low is None else math.ceil(low.scaleb(scale, _WIDE))
    most = limit if high is None else math.floor(high.scaleb(scale, _WIDE))
    return max(least, -limit), min(most, limit)


def limbs_of(bounds: tuple[int, int]) -> tuple[int, int, int, int]:
    """Bounds for Scaled.between(): low and high of each, the high ones ordered without a sign."""
    least, most = bounds
    mask = 2**64 - 1
    return (
        least & mask,
        (least >> 64 & mask) ^ _SIGN,
        most & mask,
        (most >> 64 & mask) ^ _SIGN,
    )


def scaled_of(array: Any) -> Scaled:
    """The numbers of a pa.Decimal128Array; what is null is any number."""
    words = np.frombuffer(array.buffers()[1], dtype="<u8")
    pairs = words[2 * array.offset : 2 * (array.offset + len(array))].reshape(-1, 2)
    return Scaled(pairs[:, 1].view(np.int64), pairs[:, 0], array.type.scale)


def _digits(numbers: Scaled) -> _Digits:
    fraction_groups = -(-numbers.scale // _GROUP_DIGITS)
    limbs = _limbs(numbers, _GROUP_DIGITS * fraction_groups - numbers.scale, fraction_groups)
    count = len(numbers.low)
    groups = np.empty((count, 2 * len(limbs)), dtype=np.uint16)
    for index, limb in enumerate(reversed(limbs)):
        upper = limb // 10_000
        groups[:, 2 * index] = upper
        groups[:, 2 * index + 1] = limb - upper * 10_000
    is_digit = groups != 0
    width = groups.shape[1]
    first = is_digit.argmax(axis=1)
    end = width - is_digit[:, ::-1].argmax(axis=1)  # Behind the last that is not zero.
    is_zero = ~is_digit.any(axis=1)
    counts = np.where(is_zero, 0, end - first)
    weights = np.where(is_zero, 0, width - fraction_groups - 1 - first)
    rows = np.arange(count)
    behind_point = _GROUP_DIGITS * (end - (width - fraction_groups))
    dscale = np.maximum(behind_point - _ZEROS[groups[rows, end - 1]], 0)
    before_point = _GROUP_DIGITS * weights + _WIDTHS[groups[rows, first]]
    return _Digits(
        groups=groups,
        first=first,
        counts=counts,
        weights=weights,
        dscale=np.where(is_zero, 0, dscale),
        integer_digits=np.where(is_zero, 0, np.maximum(before_point, 0)),
    )


def _limbs(numbers: Scaled, padding: int, fraction_groups: int) -> list[Words]:
    """|number| times 10^padding to the base of 10^8, the least first; at least the fraction."""
    is_negative = numbers.high < 0
    # Of two's complement: invert, add one, and the carry goes up only from a low of zero.
    low = np.where(is_negative, ~numbers.low + np.uint64(1), numbers.low)
    high = numbers.high.view(np.uint64)
    high = np.where(is_negative, ~high + (low == 0), high)
    least = -(-fraction_groups // 2)
    factor = np.uint64(10**padding)
    if not high.any() and (not len(low) or int(low.max()) * 10**padding < 2**64):
        return _divided([low * factor], least)
    mask, shift = np.uint64(_WORD), np.uint64(_WORD_BITS)
    words = [low & mask, low >> shift, high & mask, high >> shift]
    carry = np.zeros_like(low)
    for index, word in enumerate(words):
        product = word * factor + carry
        words[index] = product & mask
        carry = product >> shift
    return _divided([*words, carry], least)


def _divided(words: list[Words], least: int) -> list[Words]:
    """Words, the least first, as limbs: divided by 10^8 until nothing is left."""
    limbs: list[Words] = []
    limb, shift = np.uint64(_LIMB), np.uint64(_WORD_BITS)
    while words or len(limbs) < max(least, 1):
        if not words:
            limbs.append(np.zeros_like(limbs[0]))
            continue
        remainder = np.zeros_like(words[0])
        for index in reversed(range(len(words))):
            dividend = words[index] if len(words) == 1 else remainder << shift | words[index]
            words[index] = dividend // limb
            remainder = dividend - words[index] * limb
        limbs.append(remainder)
        while words and not words[-1].any():
            words.pop()
    return limbs
