"""Group commit, bounds, and what happens to writes when connections, callers and processes die."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest

from atlas.hotcache.v1 import hotcache_service_pb2 as hotcache_pb
from atlas.hotcache.v1 import hotcache_service_pb2_grpc
from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.freshness import FreshnessToken, Position
from atlas_devstack.database import Database

from .ingest_rig import (
    Client,
    Rig,
    client_on,
    ingest_process,
    point,
    refusal,
    start_rig,
)
from .waiting import eventually


@pytest.fixture
async def rig(fresh_database: Database) -> AsyncIterator[Rig]:
    async with start_rig(fresh_database, interval_ms=20) as rig:
        yield rig


@asynccontextmanager
async def client_of(target: str) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        yield client_on(channel)


def positions_of(token: bytes) -> list[Position]:
    return [segment.position for segment in FreshnessToken.decode(token).segments]


async def until_stored(client: Client, tenant: str, request_id: str, **value: Any) -> bool:
    """Repeat a write until it is acknowledged; say whether it had been stored before."""
    async with asyncio.timeout(20):
        while True:
            try:
                answer = await client.write(tenant, [point(**value)], request_id=request_id)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.02)
            else:
                return answer.duplicate


async def test_fifty_concurrent_calls_share_few_flushes(rig: Rig) -> None:
    _, before = await rig.position()
    await asyncio.gather(
        *(rig.client.write(t, [point(key=f"e-{n}")]) for n in range(25) for t in rig.client.tenants)
    )
    _, after = await rig.position()
    assert after - before <= 10
    for tenant in rig.client.tenants:
        assert await rig.count(tenant) == 25


async def test_beyond_the_bound_callers_are_told_to_come_back(fresh_database: Database) -> None:
    async with start_rig(fresh_database, interval_ms=5, pending_points_max=10_000) as rig:
        with rig.flushes_held():
            waiting = [
                asyncio.create_task(rig.client.write(tenant, [point()] * 4_000))
                for tenant in rig.client.tenants
            ]
            await eventually(rig.waiting_flushes)
            await eventually(lambda: rig.service.ingest.pending_points == 8_000)
            error = await refusal(rig.client.write(rig.client.acme, [point()] * 4_000))
            assert (error.code, error.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
            )
            assert error.retry_after is not None
            status = await rig.client.ingest.GetStagingStatus(pb.GetStagingStatusRequest())
            assert (status.pending_points, status.pending_points_max) == (8_000, 10_000)
            (lane,) = status.lanes
            assert lane.oldest_age.ToTimedelta().total_seconds() > 0
        await asyncio.gather(*waiting)
        await rig.client.write(rig.client.acme, [point()] * 4_000)
        for tenant, count in zip(rig.client.tenants, (8_000, 4_000), strict=True):
            assert await rig.count(tenant) == count
        assert rig.service.ingest.pending_points == 0


async def test_a_cancelled_caller_takes_no_other_write_along(rig: Rig) -> None:
    with rig.flushes_held():
        first = asyncio.create_task(rig.client.write(rig.client.acme, [point()]))
        await eventually(rig.waiting_flushes)
        waiting = [asyncio.create_task(rig.client.write(t, [point()])) for t in rig.client.tenants]
        doomed = asyncio.create_task(
            rig.client.write(rig.client.acme, [point("count", int_value=1)])
        )
        await eventually(lambda: rig.service.ingest.pending_points == 4)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        error = await refusal(rig.client.write(rig.client.acme, [point()], timeout=0.3))
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.gather(first, *waiting)
    await eventually(lambda: rig.service.ingest.pending_points == 0)
    assert await rig.count(rig.client.globex) == 1
    assert await rig.count(rig.client.acme) in {2, 3, 4}


@pytest.mark.parametrize("session", ["copy", "flush"])
async def test_a_lost_session_stores_nothing_twice(rig: Rig, session: str) -> None:
    epoch, _ = await rig.position()
    writes = [
        asyncio.create_task(
            until_stored(rig.client, tenant, f"r{n}", int_value=n, attribute="count")
        )
        for n in range(100)
        for tenant in rig.client.tenants
    ]
    await eventually(lambda: sum(write.done() for write in writes) > 10)
    await rig.end_session(session)
    await asyncio.gather(*writes)
    for tenant in rig.client.tenants:
        assert sorted(int(row[3]) for row in await rig.stored(tenant)) == list(range(100))

    # Nobody else claimed the lane: the epoch went on, and with it every position that was promised.
    assert (await rig.position())[0] == epoch


@pytest.mark.parametrize("session", ["copy", "flush"])
async def test_a_session_lost_in_a_flush_only_delays_its_callers(rig: Rig, session: str) -> None:
    """Also those whose write cannot be repeated: what memory holds is staged and flushed again."""
    _, sequence = await rig.position()
    with rig.flushes_held():
        writes = [
            asyncio.create_task(rig.client.write(tenant, [point()]))
            for tenant in rig.client.tenants
        ]
        await eventually(rig.waiting_flushes)
        await eventually(lambda: rig.service.ingest.pending_points == 2)
        await rig.end_session(session)
    for tenant, answer in zip(rig.client.tenants, await asyncio.gather(*writes), strict=True):
        (position,) = positions_of(answer.token)
        assert position.sequence in {sequence + 1, sequence + 2}
        assert await rig.count(tenant) == 1
    assert rig.service.ingest.pending_points == 0


async def test_another_owner_of_the_lane_stops_the_flush(rig: Rig) -> None:
    """A claim with a newer epoch: ours is told AT003, and what it had goes through a new one."""
    lane, (epoch, _) = rig.lane, await rig.position()
    await rig.query("SELECT * FROM claim_lane(%s::smallint)", lane)
    for tenant in rig.client.tenants:
        await rig.client.write(tenant, [point()], request_id="r1")
        assert await rig.count(tenant) == 1
    assert (await rig.position())[0] > epoch


async def test_a_load_that_the_database_refuses_is_set_aside_and_blocks_nothing(rig: Rig) -> None:
    await rig.admin.execute(
        "ALTER TABLE entity_values_ts ADD CONSTRAINT poison CHECK (value_double <> 666) NOT VALID"
    )
    error = await refusal(
        rig.client.write(rig.client.acme, [point(double_value=666)], request_id="bad")
    )
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "666" not in error.message
    for tenant in rig.client.tenants:
        await rig.client.write(tenant, [point()], request_id="good")
        assert await rig.count(tenant) == 1
    letters = await rig.query("SELECT tenant_id, request_id, raw FROM ingest_dead_letters")
    ((tenant_id, request_id, raw),) = letters
    assert (tenant_id, request_id) == (await rig.tenant_id(rig.client.acme), "bad")
    assert [row["value_double"] for row in json.loads(raw)] == [666]


async def test_a_busy_process_takes_more_lanes_and_stores_everything_once(
    fresh_database: Database,
) -> None:
    async with start_rig(fresh_database, points=50, lanes_max=3) as rig:
        writes: list[asyncio.Task[pb.WriteResponse]] = []

        def write_more(count: int) -> None:
            for _ in range(count):
                for tenant in rig.client.tenants:
                    points = [point(key=f"e-{len(writes)}")] * 10
                    writes.append(asyncio.create_task(rig.client.write(tenant, points)))

        def is_spread() -> bool:
            write_more(1)  # What has been given to a lane stays there: more is only added for more.
            return sum(worker.is_live for worker in rig.service.flusher.workers) == 3

        with rig.flushes_held():
            write_more(50)
            await eventually(is_spread)
        await asyncio.gather(*writes)
        for tenant in rig.client.tenants:
            assert await rig.count(tenant) == 10 * len(writes) / 2
        lanes = await rig.query("SELECT lane FROM flush_positions WHERE sequence > 0")
        assert len(lanes) == 3


async def test_staged_is_answered_before_the_flush_and_its_token_comes_true(rig: Rig) -> None:
    with rig.flushes_held():
        answers = [
            await rig.client.write(tenant, [point()], ack=pb.ACK_LEVEL_STAGED)
            for tenant in rig.client.tenants
        ]
        assert {answer.ack for answer in answers} == {pb.ACK_LEVEL_STAGED}
        for tenant in rig.client.tenants:
            assert await rig.count(tenant) == 0
    for tenant, answer in zip(rig.client.tenants, answers, strict=True):
        (position,) = positions_of(answer.token)

        async def reached(position: Position = position) -> bool:
            rows = await rig.query(
                "SELECT position_state(%s::smallint, %s, %s)",
                position.lane,
                position.epoch,
                position.sequence,
            )
            return bool(rows[0][0] == "reached")

        await eventually(reached)
        assert await rig.count(tenant) == 1


async def test_a_staged_token_comes_true_when_another_process_adopts_the_lane(
    rig: Rig, fresh_database: Database, tmp_path: Path
) -> None:
    async with (
        ingest_process(fresh_database, tmp_path) as process,
        client_of(process.target) as client,
    ):
        client.acme, client.globex = rig.client.tenants
        with rig.flushes_held():
            tokens = {
                tenant: (await client.write(tenant, [point()], ack=pb.ACK_LEVEL_STAGED)).token
                for tenant in client.tenants
            }
            process.kill()

    async def adopted() -> bool:
        await rig.service.adoption.adopt()
        return await rig.count(rig.client.globex) == 1

    await eventually(adopted)
    for tenant, token in tokens.items():
        assert await rig.count(tenant) == 1
        for found in positions_of(token):
            rows = await rig.query(
                "SELECT position_state(%s::smallint, %s, %s)",
                found.lane,
                found.epoch,
                found.sequence,
            )
            assert rows == [("reached",)]


async def killed_with_staged_points(rig: Rig, database: Database, directory: Path) -> None:
    """A process of its own copies r1 of both tenants into staging and dies before the flush.

    Of acme it is in the half whose flush waits, of globex, which is not kept by that, in the other.
    """
    async with (
        ingest_process(database, directory) as process,
        client_of(process.target) as client,
    ):
        acme, globex = client.acme, client.globex = rig.client.tenants
        with rig.flushes_held():
            unanswered = asyncio.create_task(
                refusal(client.write(acme, [point()], request_id="r1"))
            )
            await eventually(rig.waiting_flushes)
            await client.write(globex, [point()], request_id="r1", ack=pb.ACK_LEVEL_STAGED)
            rows = await rig.query("SELECT sum(staged_points) FROM staging_status()")
            assert rows[0][0] == 2
            process.kill()
            assert (await unanswered).code is grpc.StatusCode.UNAVAILABLE


async def test_what_a_killed_process_left_in_staging_is_adopted_while_we_run(
    rig: Rig, fresh_database: Database, tmp_path: Path
) -> None:
    await killed_with_staged_points(rig, fresh_database, tmp_path)

    async def adopted() -> bool:
        await rig.service.adoption.adopt()
        return await rig.count(rig.client.globex) == 1

    await eventually(adopted)
    for tenant in rig.client.tenants:
        assert await until_stored(rig.client, tenant, "r1")  # It had been stored.
        assert await rig.count(tenant) == 1


async def test_the_next_owner_of_a_lane_flushes_what_lies_in_it(
    fresh_database: Database, tmp_path: Path
) -> None:
    async with start_rig(fresh_database) as rig:
        await killed_with_staged_points(rig, fresh_database, tmp_path)
        tenants = rig.client.tenants

        async def left_alone() -> bool:
            rows = await rig.query(
                "SELECT count(*) FROM staging_status() WHERE staged_points = 2 AND NOT owned"
            )
            return bool(rows[0][0] == 1)

        await eventually(left_alone)
        async with start_rig(fresh_database) as next_owner:
            assert next_owner.lane == 1
            for tenant in tenants:
                assert await rig.count(tenant) == 1
                assert await until_stored(next_owner.client, tenant, "r1")
                assert await rig.count(tenant) == 1


class RecordingHotCache(hotcache_service_pb2_grpc.HotCacheServiceServicer):
    """Takes note of what it is told."""

    def __init__(self) -> None:
        self.told: list[hotcache_pb.InvalidateEntitiesRequest] = []

    async def InvalidateEntities(  # noqa: N802
        self, request: hotcache_pb.InvalidateEntitiesRequest, context: Any
    ) -> hotcache_pb.InvalidateEntitiesResponse:
        self.told.append(request)
        return hotcache_pb.InvalidateEntitiesResponse()

    async def GetEntities(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    async def GetCacheStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError


async def test_hotcache_hears_of_every_flush_in_order_before_the_caller_does(
    fresh_database: Database,
) -> None:
    server = grpc.aio.server()
    hotcache = RecordingHotCache()
    hotcache_service_pb2_grpc.add_HotCacheServiceServicer_to_server(hotcache, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with start_rig(fresh_database, hotcache=f"127.0.0.1:{port}", interval_ms=1) as rig:
            for n in range(5):
                for tenant in rig.client.tenants:
                    await rig.client.write(tenant, [point("pressure", f"e-{n}"), point()])
                    assert len(hotcache.told[-1].changes) == 1
    finally:
        await server.stop(0)
    sequences = [told.sequence for told in hotcache.told]
    assert sequences == list(range(1, len(sequences) + 1))
    changes = [change for told in hotcache.told for change in told.changes]
    assert {change.tenant_id for change in changes} == {1, 2}
    # Only hot values change the projection, so each flush changed one entity.
    assert [len(change.entity_ids) for change in changes] == [1] * 10
    assert all(change.versions[0] > 0 for change in changes)


async def test_a_dead_hotcache_delays_few_callers(fresh_database: Database) -> None:
    async with start_rig(fresh_database, hotcache="127.0.0.1:1", interval_ms=1) as rig:
        for _ in range(20):
            for tenant in rig.client.tenants:
                await rig.client.write(tenant, [point("pressure")], timeout=5)
        for tenant in rig.client.tenants:
            assert await rig.count(tenant) == 20


async def test_a_crash_of_postgres_loses_nothing_that_was_durable(start_stack: Any) -> None:
    stack = start_stack(services=("ingest",), heal_services=False, tenants=("acme", "globex"))
    target = stack.services["ingest"].target
    async with client_of(target) as client:
        client.acme, client.globex = "acme", "globex"
        await client.set_up()
        done: dict[str, set[int]] = {tenant: set() for tenant in client.tenants}

        async def write(tenant: str, n: int) -> None:
            await until_stored(client, tenant, f"r{n}", attribute="count", int_value=n)
            done[tenant].add(n)

        writes = [
            asyncio.create_task(write(tenant, n)) for n in range(50) for tenant in client.tenants
        ]
        await eventually(lambda: len(done["globex"]) > 1)
        await asyncio.to_thread(stack.postgres.primary.kill)
        await asyncio.to_thread(stack.postgres.primary.start)
        await asyncio.gather(*writes)
    with psycopg.connect(stack.database.admin_dsn) as connection:
        for tenant in ("acme", "globex"):
            rows = connection.execute(
                "SELECT value_int FROM entity_values_ts JOIN tenants AS t USING (tenant_id)"
                " WHERE t.key = %s ORDER BY value_int",
                [tenant],
            ).fetchall()
            assert [row[0] for row in rows] == list(range(50))
