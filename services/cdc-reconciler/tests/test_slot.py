"""What the server says of a slot, of a fork of the log, and what is made of it."""

from collections import Counter
from dataclasses import replace

import pytest

from atlas_cdc_reconciler.changes import Batch, ChangeKind, Relation, Run
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.source import SlotLostError
from atlas_cdc_reconciler.source.pgoutput import CODEC
from atlas_cdc_reconciler.source.slot_state import Danger, SlotState
from atlas_cdc_reconciler.source.timelines import check_reached

GIB = 2**30
SAFE = SlotState("pgoutput", True, True, "reserved", 1, retained_bytes=GIB, safe_bytes=9 * GIB)
HISTORY = (
    "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n"
)


@pytest.mark.parametrize(
    ("state", "danger"),
    [
        (SAFE, Danger.NONE),
        (replace(SAFE, retained_bytes=5 * GIB, safe_bytes=5 * GIB), Danger.WARNING),
        (replace(SAFE, retained_bytes=9 * GIB, safe_bytes=GIB), Danger.CRITICAL),
        (replace(SAFE, wal_status="unreserved", safe_bytes=-GIB), Danger.CRITICAL),
        (replace(SAFE, wal_status="lost"), Danger.CRITICAL),
        (replace(SAFE, invalidation_reason="idle_timeout"), Danger.CRITICAL),
        (replace(SAFE, safe_bytes=None), Danger.NONE),
        (replace(SAFE, retained_bytes=6 * GIB, safe_bytes=None), Danger.WARNING),
    ],
)
def test_how_near_a_slot_is_to_losing_its_log(state: SlotState, danger: Danger) -> None:
    assert state.danger(0.5, 0.8, unlimited_bytes=10 * GIB) is danger


@pytest.mark.parametrize(
    ("position", "was"), [("0/3000148", 1), ("0/1000000", 1), ("0/5000000", 2), ("0/4000000", 2)]
)
def test_what_was_read_before_the_fork_is_the_new_primarys_too(position: str, was: int) -> None:
    check_reached(Lsn.parse(position), was, 3, HISTORY)


@pytest.mark.parametrize(
    ("position", "was", "why"),
    [("0/3000149", 1, "forked off at 0/3000148"), ("0/1", 7, "no ancestor"), ("1/0", 2, "forked")],
)
def test_what_was_read_behind_the_fork_is_lost(position: str, was: int, why: str) -> None:
    with pytest.raises(SlotLostError, match=why):
        check_reached(Lsn.parse(position), was, 3, HISTORY)


def _run(commit: int) -> Run:
    relation = Relation(1, "atlas", "tenants", (), CODEC)
    return Run(relation, ChangeKind.INSERT, LogPosition.at(Lsn(commit)), [b"I%d" % commit])


@pytest.mark.parametrize(
    ("at", "before", "after"),
    [
        (10, [], [10, 20, 30]),
        (11, [10], [20, 30]),
        (30, [10, 20], [30]),
        (34, [10, 20, 30], []),
        (35, [10, 20, 30], None),
        (99, [10, 20, 30], None),
    ],
)
def test_a_batch_is_cut_between_its_transactions(
    at: int, before: list[int], after: list[int] | None
) -> None:
    runs = tuple(map(_run, (10, 20, 30)))
    start, stop, cut = (LogPosition.at(Lsn(value)) for value in (5, 35, at))
    first, rest = Batch(runs, start, stop, Counter({"tenants": 2})).cut(cut)
    assert [run.commit.offset for run in first.runs] == before
    assert first.start == start
    assert first.skipped == {"tenants": 2}
    if after is None:
        assert rest is None
        assert first.position == stop
        return
    assert rest is not None
    assert [run.commit.offset for run in rest.runs] == after
    assert (first.position, rest.start, rest.position) == (cut, cut, stop)
    assert not rest.skipped
