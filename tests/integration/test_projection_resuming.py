"""Whoever works on a job may die at any moment; whoever comes next ends it all the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from atlas_devstack.database import Database
from atlas_hotcache.projection.store import JobStore

from .hotcache_rig import ACME, GLOBEX, Rig, start_rig
from .projection_rig import (
    DONE,
    FORGETFUL,
    RUNNING,
    demote,
    finish,
    flush,
    is_hot,
    job,
    look,
    new_runner,
    projected,
    promote,
    rows,
    serial,
    shown,
    truth,
)
from .waiting import eventually

BOTH = (1, 2)


class DeadError(BaseException):
    """Nothing catches this: the process is no more."""


@pytest.fixture
async def rig(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with start_rig(
        fresh_database, tmp_path, projection=FORGETFUL, patience_seconds=0.1
    ) as rig:
        yield rig


async def work_dying(
    rig: Rig, job_id: int, monkeypatch: pytest.MonkeyPatch, *, early: bool
) -> None:
    """A new process for every piece; it dies right before its first commit, or after one or two."""
    one = JobStore._one
    commits_left = 0

    async def dying(self: JobStore, *arguments: Any, **values: Any) -> Any:
        nonlocal commits_left
        if commits_left > 0:
            answer = await one(self, *arguments, **values)
            commits_left -= 1
        if not commits_left:
            raise DeadError
        return answer

    for turn in range(500):
        if (await job(rig, job_id)).state != RUNNING:
            return
        runner = new_runner(rig)
        commits_left = 0 if early else 1 + turn % 2
        with monkeypatch.context() as patch:
            if turn % 2 or not early:
                patch.setattr(JobStore, "_one", dying)
            with suppress(DeadError):
                await runner.turn()
        await look(rig)
        await asyncio.sleep(0.01)
    pytest.fail(f"the job does not come to its end: {await job(rig, job_id)}")


@pytest.mark.parametrize("early", [True, False])
async def test_promotion_and_demotion_survive_the_death_of_every_piece(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    lane = rig.lane()
    await flush(rig, lane, [serial(t, e, f"old {e}", 1) for t in BOTH for e in (1, 2, 3)])
    theirs = rows(rig, GLOBEX)
    await rig.hit(ACME, 1)  # An entry without the attribute.
    begun = await promote(rig)
    await flush(rig, lane, [serial(1, 2, "new", 2)])
    await work_dying(rig, begun.job_id, monkeypatch, early=early)
    assert ((await job(rig, begun.job_id)).state, is_hot(rig)) == (DONE, True)
    assert projected(rig) == truth(rig) == {1: "old 1", 2: "new", 3: "old 3"}
    await asyncio.sleep(0.25)
    assert await shown(rig, [1, 2, 3]) == truth(rig)

    begun = await demote(rig)
    await work_dying(rig, begun.job_id, monkeypatch, early=early)
    assert ((await job(rig, begun.job_id)).state, projected(rig)) == (DONE, {})
    assert rows(rig, GLOBEX) == theirs


async def test_a_process_that_lost_its_lease_can_do_nothing_more(rig: Rig) -> None:
    await flush(rig, rig.lane(), [serial(t, e, "old", 1) for t in BOTH for e in (1, 2, 3)])
    begun = await promote(rig)
    first = new_runner(rig)
    await first.turn()
    second = new_runner(rig)
    await second.turn()
    before = await job(rig, begun.job_id)
    assert not await first.turn()
    assert not await first.turn()  # Nor does it get the lease back while the other works.
    assert await job(rig, begun.job_id) == before
    assert (await finish(rig, begun.job_id, second)).state == DONE


async def test_of_two_processes_one_works_and_the_other_goes_on_when_it_stops(rig: Rig) -> None:
    await flush(rig, rig.lane(), [serial(t, e, "old", 1) for t in BOTH for e in (1, 2, 3)])
    runners = [new_runner(rig), rig.new_runner()]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    watching = asyncio.create_task(rig.watcher.run())
    try:
        begun = await promote(rig)
        await asyncio.sleep(0)
        tasks[0].cancel()

        async def is_over() -> bool:
            return (await job(rig, begun.job_id)).state != RUNNING

        await eventually(is_over)
        assert is_hot(rig)
    finally:
        for task in (*tasks, watching):
            task.cancel()
        await asyncio.wait([*tasks, watching])


async def test_while_the_cache_is_away_nothing_is_switched(rig: Rig) -> None:
    """Entries without the attribute are in it, and it may come back at any time."""
    lane = rig.lane()
    await flush(rig, lane, [serial(t, 1, "old", 1) for t in BOTH])
    await rig.hit(ACME, 1)
    begun, runner = await promote(rig), new_runner(rig)
    rig.valkey.pause()
    try:
        for _ in range(12):
            await runner.turn()
        seen = await job(rig, begun.job_id)
        assert (seen.step, is_hot(rig)) == ("settle", False)
        assert "cache" in seen.message
    finally:
        rig.valkey.resume()
    assert (await finish(rig, begun.job_id, runner)).state == DONE
    await asyncio.sleep(0.25)
    assert await shown(rig, [1]) == {1: "old"}


async def test_a_long_lock_on_a_row_is_waited_out(rig: Rig) -> None:
    lane = rig.lane()
    await flush(rig, lane, [serial(t, e, "old", 1) for t in BOTH for e in (1, 2)])
    begun, runner = await promote(rig), new_runner(rig)
    await flush(rig, lane, [serial(t, 1, "new", 2) for t in BOTH])
    holder = rig.connect("admin")
    holder.execute("BEGIN")
    holder.execute("SELECT FROM entity_jsonb FOR UPDATE")
    for _ in range(6):
        await runner.turn()
    seen = await job(rig, begun.job_id)
    assert (seen.state, "tries again" in seen.message) == (RUNNING, True)
    holder.execute("ROLLBACK")
    assert (await finish(rig, begun.job_id, runner)).state == DONE
    assert projected(rig) == {1: "new", 2: "old"}


async def test_the_lane_is_claimed_anew_only_after_a_failover(rig: Rig) -> None:
    """Each claim makes the cache ask the primary; a lost position must be told from a late one."""

    async def lease() -> int:
        rig.admin.execute("UPDATE projection_runner SET leased_until = '-infinity'")
        found = await rig.jobs.lease("test", 5.0)
        assert found is not None
        return found.epoch

    first = await lease()
    assert await lease() == first
    rig.admin.execute("UPDATE projection_runner SET timeline = '00000000'")  # Of another server.
    assert await lease() > first
    claims = rig.admin.execute("SELECT count(*) FROM lane_epochs WHERE lane = 255").fetchone()
    assert claims == (2,)
    assert await rig.jobs.lease("another", 5.0) is None
