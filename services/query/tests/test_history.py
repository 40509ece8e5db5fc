"""A history that is cut loses nothing and repeats nothing."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_query.history import GroupTooLargeError, HistoryCut


class Point(NamedTuple):
    event_us: int
    number: int


def page(
    points: list[Point], start_us: int, limit: int, chunk: int
) -> tuple[list[Point], int | None]:
    """One call, as the store and the cut make it together."""
    cut = HistoryCut[Point](limit)
    rows = [point for point in points if point.event_us >= start_us][: cut.rows_max]
    sent: list[Point] = []
    for at in range(0, len(rows), chunk):
        sent += cut.feed(rows[at : at + chunk])
    rest, next_start = cut.end()
    return sent + rest, next_start


def test_a_cut_lies_between_event_times() -> None:
    points = [Point(1, 0), Point(2, 1), Point(2, 2), Point(3, 3)]
    assert page(points, 0, 2, 10) == ([Point(1, 0)], 2)
    assert page(points, 2, 2, 10) == ([Point(2, 1), Point(2, 2)], 3)
    assert page(points, 3, 2, 10) == ([Point(3, 3)], None)


def test_a_limit_that_is_just_reached_is_no_cut() -> None:
    assert page([Point(1, 0), Point(1, 1)], 0, 2, 1) == ([Point(1, 0), Point(1, 1)], None)


def test_nothing_has_no_more() -> None:
    assert page([], 0, 5, 1) == ([], None)


def test_one_event_time_with_more_points_than_the_limit_is_an_error() -> None:
    with pytest.raises(GroupTooLargeError) as raised:
        page([Point(7, 0), Point(7, 1), Point(7, 2)], 0, 2, 1)
    assert raised.value.event_us == 7


@given(
    times=st.lists(st.integers(0, 12), max_size=60),
    limit=st.integers(1, 20),
    chunk=st.integers(1, 7),
)
def test_pages_together_are_the_history(times: list[int], limit: int, chunk: int) -> None:
    points = [Point(time, number) for number, time in enumerate(sorted(times))]
    most = max((sum(p.event_us == time for p in points) for time in times), default=0)
    seen: list[Point] = []
    start_us: int | None = 0
    try:
        while start_us is not None:
            sent, start_us = page(points, start_us, limit, chunk)
            assert len(sent) <= limit
            seen += sent
    except GroupTooLargeError:
        assert most > limit
    else:
        assert seen == points
