"""A cold attribute becomes hot while points come in, and cold again; reads are right throughout."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common import errors
from atlas_common.tenant import Tenant
from atlas_devstack.database import Database

from .hotcache_rig import ACME, GLOBEX, T0, Rig, start_rig
from .lane_writer import LaneWriter, RawPoint
from .projection_rig import (
    CANCELLED,
    DONE,
    FORGETFUL,
    RUNNING,
    SERIAL,
    cancel,
    demote,
    finish,
    flush,
    is_hot,
    job,
    meta,
    new_runner,
    projected,
    promote,
    rows,
    serial,
    shown,
    truth,
    until_step,
    verify,
)
from .waiting import eventually

BOTH = (1, 2)


@pytest.fixture
async def rig(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with start_rig(fresh_database, tmp_path, projection=FORGETFUL) as rig:
        yield rig


async def refusal(call: object) -> errors.ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return errors.from_rpc_error(caught.value)


async def test_what_was_stored_before_is_answered_once_the_attribute_is_hot(rig: Rig) -> None:
    lane = rig.lane()
    old = [serial(t, e, f"{t}-{e}", e) for t in BOTH for e in (1, 2)]
    await flush(rig, lane, old)
    await flush(rig, lane, [serial(t, 1, f"late {t}", -5) for t in BOTH])
    await rig.hit(ACME, 1)  # An entry without the attribute, of before.
    theirs = rows(rig, GLOBEX)
    error = await refusal(rig.get(attributes=["serial"]))
    assert error.reason == "ATTRIBUTE_NOT_HOT"

    begun = await promote(rig)
    assert (begun.state, begun.attribute, is_hot(rig)) == (RUNNING, "serial", False)
    ended = await finish(rig, begun.job_id)
    assert (ended.state, ended.step, ended.entities_changed) == (DONE, "end", 2)
    assert (ended.missing_count, ended.different_count) == (0, 0)
    assert is_hot(rig)
    assert projected(rig) == truth(rig) == {1: "1-1", 2: "1-2"}
    await asyncio.sleep(0.25)  # The catalog's time to live: it says "cold" until then.
    assert await shown(rig, [1, 2, 3]) == {1: "1-1", 2: "1-2"}
    assert (rows(rig, GLOBEX), is_hot(rig, GLOBEX)) == (theirs, False)


async def test_flushes_project_from_the_beginning_and_reads_wait_for_the_end(rig: Rig) -> None:
    lane = rig.lane()
    await flush(rig, lane, [serial(t, e, "old", 1) for t in BOTH for e in (1, 2)])
    begun, runner = await promote(rig), new_runner(rig)
    await flush(rig, lane, [serial(t, 1, "new", 2) for t in BOTH])
    assert projected(rig) == {1: "new"}
    everything = await rig.get(ACME, [1, 2])
    assert [v.attribute for e in everything.entities for v in e.values] == []
    error = await refusal(rig.get(attributes=["serial"]))
    assert error.reason == "ATTRIBUTE_NOT_HOT"
    await until_step(rig, begun.job_id, "fill", runner)
    await flush(rig, lane, [serial(t, 2, "late", 0) for t in BOTH])  # Late, and projected first.
    assert projected(rig) == {1: "new", 2: "late"}
    await finish(rig, begun.job_id, runner)
    assert projected(rig) == truth(rig) == {1: "new", 2: "old"}
    assert projected(rig, GLOBEX) == {}


async def test_a_flush_that_began_before_is_waited_for(rig: Rig) -> None:
    """It has read that the attribute is cold, and commits its points after the promotion began."""
    lane = rig.lane()
    lane.stage([serial(t, 1, "under way", 1) for t in BOTH])
    lane.connection.execute("BEGIN")
    flushed = lane.flush()
    begun, runner = await promote(rig), new_runner(rig)
    for _ in range(5):
        assert not await runner.turn()
    seen = await job(rig, begun.job_id)
    assert (seen.step, "1 flushes" in seen.message) == ("drain", True)
    lane.connection.execute("COMMIT")
    await rig.invalidate(lane, flushed)
    assert (await finish(rig, begun.job_id, runner)).state == DONE
    assert projected(rig) == {1: "under way"}


@pytest.mark.parametrize("has_row", [True, False])
async def test_of_equal_event_times_the_last_to_arrive_wins_against_the_filling_in(
    rig: Rig, has_row: bool
) -> None:
    """The flush projects first and commits after the batch has begun to wait for its row."""
    lane = rig.lane()
    if has_row:
        await flush(rig, lane, [RawPoint(t, 1, 1, T0, 1.5) for t in BOTH])
    await flush(rig, lane, [serial(t, 1, "first", 1) for t in BOTH])
    begun, runner = await promote(rig), new_runner(rig)
    await until_step(rig, begun.job_id, "fill", runner)
    lane.stage([serial(t, 1, "second", 1) for t in BOTH])
    lane.connection.execute("BEGIN")
    flushed = lane.flush()
    batch = asyncio.create_task(runner.turn())
    await waits_for_lock(rig)
    lane.connection.execute("COMMIT")
    await batch
    assert projected(rig) == truth(rig) == {1: "second"}, "not only after the comparison"
    await rig.invalidate(lane, flushed)
    ended = await finish(rig, begun.job_id, runner)
    assert (ended.state, ended.different_count) == (DONE, 0)
    assert projected(rig) == {1: "second"}


async def test_a_flush_after_a_batch_applies_its_rule_to_what_that_wrote(
    rig: Rig,
) -> None:
    lane = rig.lane()
    await flush(rig, lane, [serial(t, 1, "first", 1) for t in BOTH])
    begun, runner = await promote(rig), new_runner(rig)
    await until_step(rig, begun.job_id, "fill", runner)
    await runner.turn()  # The batch has written "first".
    for value, second in (("second", 1), ("late", 0)):
        await flush(rig, lane, [serial(t, 1, value, second) for t in BOTH])
    await finish(rig, begun.job_id, runner)
    assert projected(rig) == truth(rig) == {1: "second"}


async def waits_for_lock(rig: Rig) -> None:
    def waits() -> bool:
        return bool(
            rig.admin.execute(
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND query LIKE '%write_projection_batch%'"
            ).fetchall()
        )

    await eventually(waits)


async def test_flushes_of_two_lanes_and_batches_never_wait_in_a_circle(rig: Rig) -> None:
    entity_ids = list(range(1, 201))
    make_entities(rig, 200)
    lanes = [rig.lane(0), rig.lane(1)]
    await flush(rig, lanes[0], [serial(t, e, "0", 0) for t in BOTH for e in entity_ids])
    stopped = False

    async def write(lane: LaneWriter, order: int) -> int:
        count = 0
        while not stopped:
            count += 1
            points = [serial(1, e, f"{lane.lane}-{count}", count) for e in entity_ids[::order]]
            flushed = await asyncio.to_thread(lane.write, points)
            await rig.invalidate(lane, flushed)
        return count

    writers = [
        asyncio.create_task(write(lane, order)) for lane, order in zip(lanes, (1, -1), strict=True)
    ]
    for _ in range(3):
        ended = await finish(rig, (await promote(rig)).job_id)
        assert ended.state == DONE, ended
        assert (await finish(rig, (await demote(rig)).job_id)).state == DONE
    ended = await finish(rig, (await promote(rig)).job_id)
    stopped = True
    counts = await asyncio.gather(*writers)  # A deadlock would be raised here.
    assert min(counts) > 2
    assert ended.state == DONE
    checked = await finish(rig, (await verify(rig, repair=True)).job_id)
    assert checked.different_count <= len(entity_ids), "at most ties of two lanes"
    assert projected(rig) == truth(rig)


async def test_a_demotion_keeps_readers_right_who_have_not_heard_of_it(rig: Rig) -> None:
    lane = rig.lane()
    await flush(rig, lane, [serial(t, 1, "one", 1) for t in BOTH])
    await finish(rig, (await promote(rig)).job_id)
    await asyncio.sleep(0.25)
    assert await shown(rig, [1]) == {1: "one"}  # Its catalog says "hot" from now on.
    table = await rig.catalog.attributes(Tenant(1, ACME))
    begun, runner = await demote(rig), new_runner(rig)
    assert not is_hot(rig)
    # Another process, whose catalog was read just before.
    rig.catalog.put_attributes(Tenant(1, ACME), table.by_name.values())
    await flush(rig, lane, [serial(t, 1, "two", 2) for t in BOTH])
    assert await shown(rig, [1], staleness=0) == {1: "two"}
    await runner.turn()
    assert (await job(rig, begun.job_id)).step == "expire"
    ended = await finish(rig, begun.job_id, runner)
    assert (ended.state, projected(rig), projected(rig, GLOBEX)) == (DONE, {}, {})
    assert (await refusal(rig.get(attributes=["serial"]))).reason == "ATTRIBUTE_NOT_HOT"
    await flush(rig, lane, [serial(t, 1, "three", 3) for t in BOTH])
    assert projected(rig) == {}


async def test_a_demotion_waits_for_flushes_that_still_project(rig: Rig) -> None:
    lane = rig.lane()
    await flush(rig, lane, [serial(t, 1, "one", 1) for t in BOTH])
    await finish(rig, (await promote(rig)).job_id)
    begun, runner = await demote(rig), new_runner(rig)
    lane.stage([serial(t, e, "two", 2) for t in BOTH for e in (1, 2)])
    lane.connection.execute("BEGIN")
    flushed = lane.flush()
    await until_step(rig, begun.job_id, "drain", runner)
    for _ in range(3):
        assert not await runner.turn()
    lane.connection.execute("COMMIT")
    await rig.invalidate(lane, flushed)
    assert (await finish(rig, begun.job_id, runner)).state == DONE
    assert projected(rig) == {}


async def test_promoted_demoted_and_promoted_again(rig: Rig) -> None:
    lane = rig.lane()
    for second in range(3):
        await flush(rig, lane, [serial(t, 1, f"v{second}", second) for t in BOTH])
        await finish(rig, (await promote(rig)).job_id)
        await asyncio.sleep(0.25)
        assert await shown(rig, [1, 2]) == projected(rig) == truth(rig)
        await flush(rig, lane, [serial(t, 2, f"w{second}", second) for t in BOTH])
        await finish(rig, (await demote(rig)).job_id)
        assert projected(rig) == {}
    assert projected(rig, GLOBEX) == {}


async def test_the_same_call_again_answers_the_same_job_and_then_one_that_is_done(
    rig: Rig,
) -> None:
    first, second = await promote(rig), await promote(rig)
    assert first.job_id == second.job_id
    error = await refusal(demote(rig))
    assert (error.reason, error.metadata["job_id"]) == ("JOB_CONFLICT", str(first.job_id))
    await finish(rig, first.job_id)
    again = await promote(rig)
    assert (again.state, again.job_id > first.job_id) == (DONE, True)
    assert "already" in again.message
    assert (await demote(rig, "pressure", dry_run=True)).state == RUNNING
    assert (await refusal(promote(rig, "nothing"))).reason == "ATTRIBUTE_UNKNOWN"


async def test_a_dry_run_counts_and_changes_nothing(rig: Rig) -> None:
    lane = rig.lane()
    await flush(
        rig, lane, [serial(t, e, "x" * 10, n) for t in BOTH for e in (1, 2) for n in (1, 2)]
    )
    before = {tenant: rows(rig, tenant) for tenant in (ACME, GLOBEX)}
    ended = await finish(rig, (await promote(rig, dry_run=True)).job_id)
    assert (ended.state, ended.entities_changed, ended.point_count) == (DONE, 2, 4)
    assert 20 <= ended.byte_count <= 64
    assert not is_hot(rig)
    assert {tenant: rows(rig, tenant) for tenant in (ACME, GLOBEX)} == before
    assert rig.admin.execute("SELECT count(*) FROM projected_attributes").fetchone() == (0,)
    await flush(rig, lane, [RawPoint(t, 1, 1, T0, 1.5) for t in BOTH])
    before = {tenant: rows(rig, tenant) for tenant in (ACME, GLOBEX)}
    ended = await finish(rig, (await demote(rig, "pressure", dry_run=True)).job_id)
    assert (ended.state, ended.entities_changed) == (DONE, 1), ended
    assert is_hot(rig, attribute_id=1)
    assert {tenant: rows(rig, tenant) for tenant in (ACME, GLOBEX)} == before


@pytest.mark.parametrize("step", ["drain", "fill", "compare", "settle"])
async def test_a_cancelled_promotion_leaves_nothing_behind(rig: Rig, step: str) -> None:
    lane = rig.lane()
    await flush(rig, lane, [serial(t, 1, "one", 1) for t in BOTH])
    begun, runner = await promote(rig), new_runner(rig)
    await until_step(rig, begun.job_id, step, runner)
    await flush(rig, lane, [serial(t, 2, "two", 2) for t in BOTH])
    assert (await cancel(rig, begun.job_id)).state == RUNNING
    ended = await finish(rig, begun.job_id, runner)
    assert (ended.state, is_hot(rig), projected(rig)) == (CANCELLED, False, {})
    await flush(rig, lane, [serial(t, 2, "three", 3) for t in BOTH])
    assert projected(rig) == {}
    await finish(rig, (await promote(rig)).job_id)
    assert projected(rig) == {1: "one", 2: "three"}


async def test_a_demotion_cannot_be_cancelled_and_others_jobs_are_unknown(rig: Rig) -> None:
    await finish(rig, (await promote(rig)).job_id)
    begun = await demote(rig)
    error = await refusal(cancel(rig, begun.job_id))
    assert (error.reason, "promote" in error.message) == ("JOB_CONFLICT", True)
    assert (await refusal(job(rig, begun.job_id, GLOBEX))).reason == "JOB_UNKNOWN"
    assert (await refusal(cancel(rig, 10**9))).reason == "JOB_UNKNOWN"


async def test_ten_thousand_entities_in_bounded_batches(rig: Rig) -> None:
    make_entities(rig, 10_050)
    rig.admin.execute(
        "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time, ingested_at,"
        " value_text) SELECT t, %s, e, now(), now(), t || '-' || e"
        " FROM generate_series(1, 10050) AS e, (VALUES (1), (2)) AS t (t)",
        [SERIAL],
    )
    before = rig.admin.execute("SELECT coalesce(max(sequence), 0) FROM flush_positions").fetchone()
    ended = await finish(rig, (await promote(rig)).job_id)
    assert (ended.state, ended.entities_changed) == (DONE, 10_050)
    after = rig.admin.execute("SELECT sequence FROM flush_positions WHERE lane = 255").fetchone()
    assert before is not None
    assert after is not None
    assert after[0] - before[0] >= 10_050 / 500, "never more than 500 entities at once"
    assert len(projected(rig)) == 10_050
    assert projected(rig, GLOBEX) == {}


def make_entities(rig: Rig, count: int) -> None:
    rig.admin.execute(
        "INSERT INTO entities (tenant_id, entity_id, key)"
        " SELECT t, e, 'pump-' || e FROM generate_series(4, %s) AS e, (VALUES (1), (2)) AS t (t)",
        [count],
    )


async def test_lists_are_paged_and_of_one_tenant(rig: Rig) -> None:
    for number in range(3):
        await finish(rig, (await verify(rig, request_id=f"r{number}")).job_id)
    again = await verify(rig, request_id="r1")
    request = pb.ListProjectionJobsRequest(page_size=2)
    page = (await rig.projection.ListProjectionJobs(request, metadata=meta())).jobs
    request.before_job_id = page[-1].job_id
    rest = (await rig.projection.ListProjectionJobs(request, metadata=meta())).jobs
    assert [len(page), len(rest), again.job_id] == [2, 1, page[1].job_id]
    theirs = await rig.projection.ListProjectionJobs(
        pb.ListProjectionJobsRequest(), metadata=meta(GLOBEX)
    )
    assert list(theirs.jobs) == []
