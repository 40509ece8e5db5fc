"""In which steps a long range of time is read. Pure but for asking its source.

A history is read slice by slice, in order of time: the first message goes out when the first slice
is done, however long the range is, and no slice takes more memory or time than the next messages
are worth. The source, which looks for the beginning, may tell how wide the first slice is best
read; else it is small. The following ones grow or shrink with what was found. Where nothing is
found, the next point is sought, over any gap.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

POINTS_AIMED = 20_000
ROWS_AIMED = 1_000
GROWTH_MAX = 8

T = TypeVar("T")


@dataclass(slots=True)
class Slices:
    """Tells how wide the next slice is, in buckets or whatever; told what the last one had."""

    width: int = 1
    rows_aimed: int = ROWS_AIMED

    def saw(self, points: int, rows: int) -> None:
        """The last slice had so many points, which made so many rows."""
        filled = max(points / POINTS_AIMED, rows / self.rows_aimed)
        factor = GROWTH_MAX if filled == 0 else min(GROWTH_MAX, 1 / filled)
        self.width = max(1, int(self.width * factor))


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """What a slice had, and where it ended."""

    rows: list[T]
    points: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Leap:
    """Where the next slice begins, and how wide it is best read; None: as the last ones tell."""

    begin_us: int
    width: int | None = None


class Source(Protocol[T]):
    """What is read in slices; times in microseconds."""

    async def seek(self, start_us: int | None) -> Leap | None:
        """To the next slice, at `start_us` or later; None: nothing is left."""

    async def read(self, start_us: int, end_us: int, width: int, rows_max: int) -> Read[T]:
        """A slice of this width, which ends at `end_us` or before."""


async def in_slices(
    source: Source[T], start_us: int | None, end_us: int, slices: Slices, rows_max: int
) -> AsyncGenerator[list[T], None]:
    """The rows with start <= time < end, at most `rows_max`, as lists that are not empty."""
    left = rows_max
    leap = await source.seek(start_us)
    while leap is not None and leap.begin_us < end_us and left > 0:
        if leap.width is not None:
            slices.width = leap.width
        part = await source.read(leap.begin_us, end_us, slices.width, left)
        slices.saw(part.points, len(part.rows))
        left -= len(part.rows)
        if part.rows:
            yield part.rows
            leap = Leap(part.end_us)
        else:
            leap = await source.seek(part.end_us) if part.end_us < end_us else None
