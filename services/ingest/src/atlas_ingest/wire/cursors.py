"""Reads many messages at the same time: a cursor in each, moved on field by field."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from atlas_ingest.wire import varints
from atlas_ingest.wire.varints import NotCanonicalError

Ints: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

_T = TypeVar("_T")

_ONE_BYTE_MAX = 0x7F
_DOUBLE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of the data, ascending; `ends` are exclusive."""

    starts: Ints
    ends: Ints


class Cursors:
    """Places in the data, `at`, which a reading moves behind what it has read.

    Nobody looks whether a message has ended meanwhile: what is read then is the beginning of the
    next one, which takes the cursor beyond the end, and nothing takes it back. So once all cursors
    are found at the ends of their messages, each message has been read, and nothing else.

    Behind the last message stand zeros, and further on nothing is looked at but with `peek`, which
    sees the last zero: no tag. Where a tag is found there is room for what may follow it.
    """

    def __init__(self, data: varints.Bytes, words: varints.Words, at: Ints) -> None:
        self._data = data
        self._words = words
        self.at = at

    @classmethod
    def into(cls, data: varints.Bytes, at: Ints) -> "Cursors":
        """Places in data that has MARGIN_BYTES behind the last message."""
        return cls(data, varints.words_of(data), at)

    def of(self, rows: Ints) -> "Cursors":
        """Some of them, to be moved by themselves."""
        return self.others(self.at[rows])

    def others(self, at: Ints) -> "Cursors":
        """Others in the same data."""
        return Cursors(self._data, self._words, at)

    def some(self, rows: Ints, reading: "Callable[[Cursors], _T]") -> _T:
        """Read, and move, only some of them."""
        those = self.of(rows)
        result = reading(those)
        self.at = self.at.copy()  # The places until now may be the ends of what was read before.
        self.at[rows] = those.at
        return result

    def peek(self) -> varints.Bytes:
        """The byte at each, without moving them."""
        return self._data.take(self.at, mode="clip")

    def varints(self) -> Ints:
        """A number at each."""
        numbers, self.at = varints.decode(self._data, self._words, self.at)
        return numbers

    def doubles(self) -> npt.NDArray[np.float64]:
        """A double at each."""
        numbers = self._words[self.at].view(np.float64)
        self.at = self.at + _DOUBLE_BYTES
        return numbers

    def spans(self) -> Spans:
        """A length at each, and as many bytes behind it."""
        sizes: Any = self.peek()
        if sizes.max(initial=0) <= _ONE_BYTE_MAX:
            starts = self.at + 1
        else:
            sizes, starts = self.varints(), self.at
            # One that is far too large would overflow, and take the cursor back.
            if sizes.min() < 0 or sizes.max() > len(self._data):
                raise NotCanonicalError
        self.at = starts + sizes
        return Spans(starts, self.at)

    def varint_fields(self, tag: int) -> tuple[Ints, Flags]:
        """A field of numbers: 0 where it is missing, and whether it is there."""
        is_here = self.peek() == tag
        count = np.count_nonzero(is_here)
        if count == len(is_here):
            self.at = self.at + 1
            return self.varints(), is_here
        numbers = np.zeros(len(is_here), dtype=np.int64)
        if count:
            rows = is_here.nonzero()[0]
            self.at = self.at + is_here
            numbers[rows] = self.some(rows, Cursors.varints)
        return numbers, is_here

    def span_fields(self, tag: int) -> Spans:
        """A field of bytes; an empty stretch where it is missing."""
        is_here = self.peek() == tag
        count = np.count_nonzero(is_here)
        if count == len(is_here):
            self.at = self.at + 1
            return self.spans()
        starts = self.at
        if count:
            rows = is_here.nonzero()[0]
            self.at = self.at + is_here
            starts = self.at.copy()
            starts[rows] = self.some(rows, Cursors.spans).starts
        return Spans(starts, self.at)
