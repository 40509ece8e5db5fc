"""Slices begin small, grow while little is found, and shrink when much is."""

from hypothesis import given
from hypothesis import strategies as st

from atlas_query.slices import (
    GROWTH_MAX,
    POINTS_AIMED,
    ROWS_AIMED,
    Leap,
    Read,
    Slices,
    in_slices,
)


def test_the_first_slice_is_one_bucket_and_sparse_ones_grow() -> None:
    slices = Slices()
    assert slices.width == 1
    slices.saw(points=10, rows=1)
    assert slices.width == GROWTH_MAX
    slices.saw(points=80, rows=8)
    assert slices.width == GROWTH_MAX**2


def test_full_slices_shrink_but_never_below_a_bucket() -> None:
    slices = Slices(100)
    slices.saw(points=POINTS_AIMED * 10, rows=100)
    assert slices.width == 10
    slices.saw(points=POINTS_AIMED * 1000, rows=10)
    assert slices.width == 1


@given(per_bucket=st.integers(1, 10_000), attributes=st.integers(1, 500))
def test_an_even_series_is_read_in_slices_of_the_size_aimed_at(
    per_bucket: int, attributes: int
) -> None:
    slices = Slices()
    for _ in range(20):
        rows = slices.width * attributes
        slices.saw(points=rows * per_bucket, rows=rows)
    rows = slices.width * attributes
    assert rows <= 2 * ROWS_AIMED or slices.width == 1
    assert rows * per_bucket <= 2 * POINTS_AIMED or slices.width == 1


class Points:
    """A source of given times; tells what it was asked, and how wide to read if it `knows`."""

    def __init__(self, times: list[int], *, knows: bool = False) -> None:
        self.times = sorted(times)
        self.knows = knows
        self.asked = 0

    async def seek(self, start_us: int | None) -> Leap | None:
        self.asked += 1
        ahead = [t for t in self.times if start_us is None or t >= start_us]
        if not ahead:
            return None
        return Leap(ahead[0], ahead[:ROWS_AIMED][-1] - ahead[0] + 1 if self.knows else None)

    async def read(self, start_us: int, end_us: int, width: int, rows_max: int) -> Read[int]:
        self.asked += 1
        end_us = min(end_us, start_us + width)
        found = [t for t in self.times if start_us <= t < end_us][:rows_max]
        return Read(found, len(found), end_us)


async def collected(source: Points, start: int | None, end: int, rows_max: int) -> list[int]:
    parts = in_slices(source, start, end, Slices(), rows_max)
    return [row async for part in parts for row in part]


@given(
    times=st.lists(st.integers(-100, 3_000), max_size=60),
    start=st.none() | st.integers(-100, 3_000),
    end=st.integers(-100, 3_100),
    rows_max=st.integers(1, 70),
    knows=st.booleans(),
)
async def test_slices_are_the_range_whatever_their_widths(
    times: list[int], start: int | None, end: int, rows_max: int, knows: bool
) -> None:
    wanted = [t for t in sorted(times) if (start is None or t >= start) and t < end]
    source = Points(times, knows=knows)
    assert await collected(source, start, end, rows_max) == wanted[:rows_max]


async def test_what_its_source_knows_is_read_at_once() -> None:
    """Sixty points, a minute apart: sought and read, nothing is asked twice."""
    source = Points([minute * 60_000_000 for minute in range(60)], knows=True)
    assert await collected(source, None, 3_600_000_000, 1_000) == source.times
    assert source.asked <= 3


async def test_a_gap_is_one_leap() -> None:
    source = Points([0, 10**15, 2 * 10**15])
    assert await collected(source, None, 10**16, 100) == source.times
    assert source.asked < 40
