"""GetStagingStatus says what waits, and why, whatever the database is doing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_devstack.database import Database
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions

from .ingest_rig import Rig, point, start_rig
from .lane_writer import LaneWriter, RawPoint
from .partition_rig import T0
from .waiting import eventually


@pytest.fixture
async def rig(fresh_database: Database) -> AsyncIterator[Rig]:
    async with start_rig(fresh_database) as rig:
        yield rig


async def lanes(rig: Rig) -> dict[int, pb.LaneStatus]:
    answer = await rig.client.ingest.GetStagingStatus(pb.GetStagingStatusRequest(), timeout=10)
    return {lane.lane: lane for lane in answer.lanes}


async def reasons(rig: Rig) -> str:
    """Of our own lanes."""
    return "; ".join(lane.reason for lane in (await lanes(rig)).values() if lane.owned)


async def write_both(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        await rig.client.write(tenant, [point("pressure")])


async def test_a_lane_that_waits_names_who_is_in_its_way(rig: Rig) -> None:
    await write_both(rig)
    assert await reasons(rig) == ""
    async with await psycopg.AsyncConnection.connect(rig.database.admin_dsn) as blocker:
        await blocker.execute("SELECT 'a secret' FROM entity_jsonb FOR UPDATE")
        pid = blocker.info.backend_pid
        waiting = asyncio.gather(
            *(rig.client.write(t, [point("pressure")]) for t in rig.client.tenants)
        )

        async def is_told() -> bool:
            return f"a lock held by process {pid}" in await reasons(rig)

        await eventually(is_told)
        told = await reasons(rig)
        assert "idle in transaction" in told
        assert "secret" not in told
        (ours,) = [lane for lane in (await lanes(rig)).values() if lane.owned]
        assert ours.staged_points > 0
        assert ours.staged_bytes > 0
        assert ours.oldest_age.ToMilliseconds() > 0
        await blocker.rollback()
        await waiting

    async def is_well() -> bool:
        return await reasons(rig) == ""

    await eventually(is_well)


async def test_a_lane_without_an_owner_is_told(rig: Rig) -> None:
    with psycopg.connect(rig.database.dsn("atlas_ingest"), autocommit=True) as connection:
        writer = LaneWriter(connection, 60)
        writer.stage([RawPoint(tenant, 1, 1, T0, 1.0) for tenant in (1, 2)])

    async def is_told() -> bool:  # The server may take a moment to see its session end.
        left = (await lanes(rig))[60]
        assert left.staged_points == 2
        return left.reason.startswith("no owner")

    await eventually(is_told)


async def test_a_database_that_does_not_answer_is_told(
    start_stack: StartStack, server_options: ServerOptions
) -> None:
    alone = replace(server_options.postgres, replicas=0)
    servers = replace(server_options, postgres=alone, valkey=False)
    stack = await asyncio.to_thread(start_stack, services=(), servers=servers, spans=False)
    async with start_rig(stack.database) as rig:
        await write_both(rig)
        stack.postgres.primary.pause()
        try:

            async def is_told() -> bool:
                return "the database does not answer" in await reasons(rig)

            await eventually(is_told)
        finally:
            stack.postgres.primary.resume()

        async def is_well() -> bool:
            return await reasons(rig) == ""

        await eventually(is_well)
        await write_both(rig)
