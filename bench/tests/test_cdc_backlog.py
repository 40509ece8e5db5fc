"""A backlog's way is cut into parts of equal length, and drawn out only where it is straight."""

import pytest

from atlas_bench.cdc.backlog import Sight, extrapolated, parts


def sights(rows: int, step: int, rows_per_s: float = 100_000.0) -> list[Sight]:
    return [
        Sight(done / rows_per_s, done, 300 + done / 1e6, 10 * done / 1e6)
        for done in range(step, rows + 1, step)
    ]


def test_parts_are_of_equal_length_and_cover_the_way() -> None:
    seen = sights(1_000_000, 10_000)
    found = parts(seen, 5, "backlog")
    assert [run["repeat"] for run in found] == [1, 2, 3, 4, 5]
    # What was applied before the first sight has no time.
    assert sum(run["rows"] for run in found) == 990_000
    assert {run["rows_per_s"] for run in found} == {100_000.0}
    assert all(abs(run["rows"] - 198_000) <= 10_000 for run in found)


def test_a_stall_is_in_the_part_in_which_it_was() -> None:
    seen = sights(1_000_000, 10_000)
    stalled = [
        Sight(each.at + (10 if each.rows > 500_000 else 0), each.rows, 0.0, 0.0) for each in seen
    ]
    rates = [run["rows_per_s"] for run in parts(stalled, 5, "backlog")]
    assert [rate < 20_000 for rate in rates] == [False, False, True, False, False]


def test_fewer_sights_than_parts_are_fewer_parts() -> None:
    assert len(parts(sights(30, 10), 5, "slot")) == 2


def test_a_straight_line_is_drawn_out_and_a_short_way_is_not() -> None:
    far = extrapolated(sights(10_000_000, 100_000), 500.0)
    assert far == pytest.approx(
        {
            "measured_to_rows": 10_000_000,
            "rss_mb": 400.0,
            "rss_mb_per_million": 1.0,
            "file_mb": 1000.0,
            "file_mb_per_million": 10.0,
        }
    )
    assert extrapolated(sights(1_000_000, 10_000), 500.0) == {}


def test_memory_does_not_grow_beyond_the_cache() -> None:
    far = extrapolated(sights(10_000_000, 100_000), 20.0)
    assert far["rss_mb"] == pytest.approx(320.1)
