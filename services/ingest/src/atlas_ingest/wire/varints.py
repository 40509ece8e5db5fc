"""Varints at many places at once.

A varint is a number in groups of seven bits, the lowest first; the highest bit of a byte says that
another one follows. Eight bytes are read as one word, in which the groups are pushed together by
halves; few numbers are longer.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint64]

MARGIN_BYTES = 16
"""Zeros that have to follow the last message: a varint is read together with what is behind it."""

_WORD_BYTES = 8
_ONE = np.uint64(1)
_CONTINUED = np.uint64(0x8080808080808080)
_GROUPS = np.uint64(0x7F7F7F7F7F7F7F7F)
# Lanes of 16, 32 and 64 bits, in each of which the upper half moves down to the lower one.
_HALVINGS = tuple(
    (np.uint64(lower), np.uint64(upper), np.uint64(shift))
    for lower, upper, shift in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)


class NotCanonicalError(ValueError):
    """The bytes are not as our own serializer writes a message of the known fields."""


def words_of(data: Bytes) -> Words:
    """The eight bytes from each place on, as a number; a view."""
    return np.ndarray(len(data) - _WORD_BYTES + 1, "<u8", data, strides=(1,))


def decode(data: Bytes, words: Words, at: Ints) -> tuple[Ints, Ints]:
    """The numbers at some places, as two's complement, and where each ends.

    Raises NotCanonicalError for one of more than 64 bits.
    """
    found = words[at]
    last = ~found & _CONTINUED  # The highest bit of bytes that nothing follows.
    last &= -last  # Of the first such byte; 0: of none of the eight.
    below = last - _ONE
    groups = found & below & _GROUPS
    for lower, upper, shift in _HALVINGS:
        groups = (groups & lower) | ((groups & upper) >> shift)
    ends = at + ((np.bitwise_count(below) + np.uint8(1)) >> np.uint8(3))
    numbers = groups.view(np.int64)
    if not last.all():
        _lengthen(data, last == 0, numbers, ends)
    return numbers, ends


def _lengthen(data: Bytes, is_long: npt.NDArray[np.bool_], numbers: Ints, ends: Ints) -> None:
    """Add the ninth and tenth byte to the numbers that have them; negative ones have ten."""
    rows = np.flatnonzero(is_long)
    at = ends[rows]
    ninth, tenth = data[at].astype(np.int64), data[at + 1].astype(np.int64)
    has_tenth = ninth >= 0x80
    if (tenth[has_tenth] > 1).any():
        raise NotCanonicalError
    numbers[rows] |= (ninth & 0x7F) << 56 | np.where(has_tenth, tenth, 0) << 63
    ends[rows] += 1 + has_tenth
