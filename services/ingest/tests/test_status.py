"""A lane that does not shrink says why: what has to be put right first."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from atlas_ingest.status import Flow, LaneRow, reason_of_others, reason_of_ours

ROW = LaneRow(
    lane=3,
    owned=True,
    epoch=1,
    sequence=7,
    flushed_at=datetime(2026, 3, 1, tzinfo=UTC),
    staged_points=10,
    staged_bytes=8192,
    age_seconds=4.0,
    waits_for="",
)
FINE = Flow(
    backlog_points=100,
    oldest_age_seconds=0.1,
    last_error="",
    last_flush_seconds=0.05,
    lanes=1,
    lanes_max=4,
    points_per_flush=20_000,
    interval_seconds=0.1,
)
WAITING = replace(ROW, waits_for="waiting for a lock held by process 7")
FULL = "could not extend file: No space left on device\nHINT: Check free disk space."
SLOW = replace(FINE, backlog_points=50_000, last_flush_seconds=1.5)


def test_nothing_is_said_of_a_lane_that_is_fine() -> None:
    assert reason_of_ours(ROW, FINE, "") == ""
    assert reason_of_others(ROW) == ""


@pytest.mark.parametrize(
    ("row", "flow", "unreachable", "begins"),
    [
        (WAITING, replace(SLOW, last_error="x"), "the database does not answer", "the database"),
        (WAITING, replace(SLOW, last_error="x"), "", "waiting for a lock held by process 7"),
        (ROW, replace(SLOW, last_error=FULL), "", "the disk of the database is full: could not"),
        (ROW, replace(SLOW, last_error="lost"), "", "the flush fails and is tried again: lost"),
        (ROW, SLOW, "", "flushes are slower than writes arrive: 50000 points wait, the last flush"),
        (ROW, replace(FINE, oldest_age_seconds=2.1), "", "flushes are slower"),
    ],
)
def test_what_has_to_be_put_right_first_is_named(
    row: LaneRow, flow: Flow, unreachable: str, begins: str
) -> None:
    assert reason_of_ours(row, flow, unreachable).startswith(begins)


def test_values_of_a_row_do_not_show() -> None:
    error = "null value violates a constraint\nDETAIL: Failing row contains (1, secret)."
    assert "secret" not in reason_of_ours(ROW, replace(FINE, last_error=error), "")


def test_a_lane_without_an_owner_is_told() -> None:
    assert reason_of_others(replace(ROW, owned=False)).startswith("no owner")
    assert reason_of_others(replace(ROW, owned=False, staged_points=0)) == ""
    assert reason_of_others(WAITING) == WAITING.waits_for
