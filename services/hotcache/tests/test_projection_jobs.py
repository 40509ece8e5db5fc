"""The steps of jobs, their pace, and what is made of a cache entry. Without I/O."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_common.values import DataType
from atlas_hotcache.ports import HotRow, HotValue
from atlas_hotcache.projection.cache_check import (
    CachedValue,
    Verdict,
    differences,
    hot_only,
    judge,
)
from atlas_hotcache.projection.jobs import (
    Job,
    Kind,
    Progress,
    State,
    Step,
    end_state,
    next_step,
)
from atlas_hotcache.projection.pace import Pace

NOW = datetime(2026, 3, 1, tzinfo=UTC)
JOB = Job(
    tenant_id=1,
    job_id=7,
    kind=Kind.PROMOTE,
    state=State.RUNNING,
    step=Step.DRAIN,
    attribute_id=3,
    sample_percent=100,
    dry_run=False,
    repair=False,
    is_cancelled=False,
    round=0,
    last_sequence=0,
    step_seconds=0.0,
    message="",
    created_at=NOW,
    updated_at=NOW,
    finished_at=None,
    progress=Progress(),
)
ROW = HotRow(5, 10, (HotValue("pressure", DataType.DOUBLE, 1.5, 100),))


def steps(job: Job) -> list[Step]:
    """All steps of a job from its own on."""
    taken = [job.step]
    while taken[-1] is not Step.END:
        taken.append(next_step(replace(job, step=taken[-1])))
    return taken


@pytest.mark.parametrize(
    ("kind", "first", "rest"),
    [
        (Kind.PROMOTE, Step.DRAIN, ["fill", "compare", "settle", "end"]),
        (Kind.DEMOTE, Step.EXPIRE, ["withdraw", "drain", "clean", "end"]),
        (Kind.REBUILD, Step.REBUILD, ["end"]),
        (Kind.VERIFY, Step.COMPARE, ["end"]),
    ],
)
def test_each_kind_has_its_steps_in_order(kind: Kind, first: Step, rest: list[str]) -> None:
    assert [*steps(replace(JOB, kind=kind, step=first))][1:] == rest


def test_a_cancelled_promotion_is_undone_and_not_done() -> None:
    job = replace(JOB, is_cancelled=True, step=Step.WITHDRAW)
    assert steps(job) == ["withdraw", "drain", "clean", "end"]
    assert end_state(job) is State.CANCELLED
    assert end_state(JOB) is State.DONE


@pytest.mark.parametrize("kind", Kind)
def test_a_dry_run_only_compares_and_repairs_nothing(kind: Kind) -> None:
    job = replace(JOB, kind=kind, dry_run=True, repair=True, step=Step.COMPARE)
    assert steps(job) == ["compare", "end"]
    assert not job.repairs


@given(st.lists(st.one_of(st.none(), st.floats(0, 2))), st.integers(1, 1000))
def test_the_pace_stays_within_its_bounds(batches: list[float | None], most: int) -> None:
    pace = Pace(most, 0.25)
    for seconds in batches:
        before = pace.entities
        if seconds is None:
            pace.failed()
        else:
            pace.took(seconds)
        assert 1 <= pace.entities <= most
        assert pace.entities <= 2 * before
        if seconds is None or seconds > 0.25:
            assert pace.entities == max(1, before // 2)


def test_failures_are_counted_until_a_batch_is_done() -> None:
    pace = Pace(100, 0.25)
    pace.failed()
    pace.failed()
    assert pace.failures == 2
    pace.took(0.1)
    assert pace.failures == 0


def test_an_entry_ahead_of_the_primary_is_bad_whatever_it_says() -> None:
    assert judge(ROW, 10, differs=False) is Verdict.EQUAL
    assert judge(ROW, 9, differs=False) is Verdict.EQUAL
    assert judge(ROW, 10, differs=True) is Verdict.WRONG
    assert judge(ROW, 11, differs=False) is Verdict.NEWER


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        ({}, "missing"),
        ({"pressure": CachedValue("1.5", 99)}, "older"),
        ({"pressure": CachedValue("1.5", 101)}, "newer"),
        ({"pressure": CachedValue("2.5", 100)}, "wrong"),
        ({"pressure": CachedValue("1.5", 100), "state": CachedValue("on", 1)}, "extra"),
    ],
)
def test_what_differs_is_told_with_both_values(held: dict[str, CachedValue], kind: str) -> None:
    expected = {"pressure": CachedValue("1.5", 100)}
    (one,) = differences(ROW, held, expected)
    assert (one.entity_id, one.kind) == (5, kind)
    assert (one.expected, one.found) == (expected.get(one.attribute), held.get(one.attribute))
    assert differences(ROW, expected, expected) == []


def test_only_hot_attributes_are_compared() -> None:
    assert hot_only(ROW, frozenset({"state"})) == ()
    assert hot_only(ROW, frozenset({"pressure"})) == ROW.values
