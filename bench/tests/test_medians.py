"""The statistics of repeated runs."""

from typing import Any

import pytest

from atlas_bench.medians import median, medians, paired_ratio, pick, ratio
from atlas_bench.tally import Outcome, Tally


def test_one_disturbed_run_does_not_move_the_median() -> None:
    assert median([100.0, 101.0, 99.0, 100.5, 3.0]) == 100.0


def test_what_is_missing_is_left_out() -> None:
    assert median([None, 2.0, None, 4.0]) == 3.0
    assert median([None]) is None
    assert median([]) is None


def test_ratios_of_nothing_are_nothing() -> None:
    assert ratio(50.0, 200.0) == 0.25
    assert ratio(50.0, 0.0) is None
    assert ratio(None, 1.0) is None
    assert ratio(1.0, None) is None


def test_medians_look_into_runs() -> None:
    runs = [{"latency_ms": {"p99": value}} for value in (1.0, 9.0, 2.0)]
    runs_with_a_dead_one: list[dict[str, Any]] = [*runs, {"latency_ms": None}]
    assert medians(runs_with_a_dead_one, {"ack_p99_ms": "latency_ms.p99"}) == {"ack_p99_ms": 2.0}
    assert pick({"a": {"b": 0}}, "a.b") == 0.0
    assert pick({"a": {}}, "a.b") is None


def test_a_summary_has_percentiles_in_milliseconds() -> None:
    tally = Tally()
    for latency_ms in range(1, 101):
        tally.record(latency_ms / 1_000, Outcome(source="cache" if latency_ms > 25 else "replica"))
    tally.elapsed_seconds = 4.0
    summary = tally.summary()
    assert summary["calls_per_second"] == 25.0
    assert summary["latency_ms"]["p50"] == pytest.approx(50, rel=0.01)
    assert summary["latency_ms"]["p99"] == pytest.approx(99, rel=0.01)
    assert summary["latency_ms"]["max"] == pytest.approx(100, rel=0.01)
    assert summary["sources"] == {"cache": 75, "replica": 25}
    assert summary["send_lag_ms"] is None


def test_ratios_are_of_runs_that_are_neighbours() -> None:
    """Both sides become slower by the same factors: the ratio is what stays."""
    baseline = [{"repeat": n, "rows": rows} for n, rows in enumerate((100, 50, 20), 1)]
    platform = [{"repeat": n, "rows": rows} for n, rows in enumerate((40, 20, 8), 1)]
    assert paired_ratio(platform, baseline, "rows") == 0.4
    assert paired_ratio(reversed(platform), baseline, "rows") == 0.4
    assert paired_ratio(platform[:1], baseline[1:], "rows") is None
