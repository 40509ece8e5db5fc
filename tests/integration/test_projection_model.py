"""Random histories of flushes, jobs, deaths and cancellations: what is hot is always whole.

On the real database: its locks and snapshots are what the protocol rests on.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_common import errors
from atlas_devstack.database import Database
from atlas_hotcache.projection.runner import Runner

from .hotcache_rig import ACME, GLOBEX, Rig, start_rig
from .lane_writer import LaneWriter
from .projection_rig import (
    FORGETFUL,
    RUNNING,
    cancel,
    demote,
    finish,
    is_hot,
    job,
    new_runner,
    projected,
    promote,
    rebuild,
    serial,
    truth,
    verify,
)

ENTITIES = (1, 2, 3)

writes = st.tuples(
    st.just("write"), st.integers(0, 1), st.sampled_from(ENTITIES), st.integers(0, 3)
)
others = st.tuples(
    st.sampled_from(["work", "work", "work", "die", "promote", "demote", "cancel", "rebuild"])
)
opened = st.tuples(st.just("hold"), st.sampled_from(ENTITIES), st.integers(0, 3))
histories = st.lists(st.one_of(writes, others, opened), min_size=5, max_size=30)


class World:
    """A rig, two lanes of which one may have a flush under way, and a process that works."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.lanes: list[LaneWriter] = [rig.lane(0), rig.lane(1), rig.lane(2)]
        self.runner: Runner = new_runner(rig)
        self.last_job = 0
        self.count = 0
        self.held: Any = None

    async def begin(self) -> None:
        """As if nothing had ever been written."""
        if self.held is not None:  # Of a history that ended early.
            await self._let_go()
        admin = self.rig.admin
        admin.execute(
            "TRUNCATE entity_jsonb, entity_values_ts, projected_attributes, projection_jobs"
        )
        admin.execute("UPDATE attributes SET is_hot = attribute_id <> 3")
        self.rig.watcher.distrust("another life")
        await self.rig.watcher.step()
        self.runner = new_runner(self.rig)
        self.last_job = 0

    async def take(self, step: tuple[Any, ...]) -> None:
        match step:
            case "write", lane, entity_id, second:
                await self._flush(self.lanes[lane], entity_id, second)
            case "hold", entity_id, second:
                await self._hold(entity_id, second)
            case ("work",):
                await self.runner.turn()
                await self.rig.watcher.step()
            case ("die",):
                self.runner = new_runner(self.rig)
            case ("cancel",) if self.last_job:
                await self._try(cancel(self.rig, self.last_job))
            case ("promote",):
                self.last_job = await self._try(promote(self.rig)) or self.last_job
            case ("demote",):
                self.last_job = await self._try(demote(self.rig)) or self.last_job
            case ("rebuild",):
                await rebuild(self.rig)
        self.check()

    async def _try(self, call: Any) -> int:
        try:
            return int((await call).job_id)
        except grpc.aio.AioRpcError as error:  # Another job is in the way.
            if errors.from_rpc_error(error).reason != "JOB_CONFLICT":
                raise
            return 0

    async def _flush(self, lane: LaneWriter, entity_id: int, second: int) -> None:
        if self.held is not None:  # It has the rows: this one would wait for it.
            await self._let_go()
        self.count += 1
        flushed = lane.write([serial(t, entity_id, f"{t}-{self.count}", second) for t in (1, 2)])
        await self.rig.invalidate(lane, flushed)

    async def _hold(self, entity_id: int, second: int) -> None:
        """Begin a flush that commits later: at the next write, or at the end."""
        if self.held is not None:
            await self._let_go()
        self.count += 1
        lane = self.lanes[2]
        lane.connection.execute("BEGIN")
        # Rows are stored and the attribute's state is read, and then nothing happens for a while.
        lane.stage([serial(t, entity_id, f"{t}-{self.count}", second) for t in (1, 2)])
        self.held = lane.flush()

    async def _let_go(self) -> None:
        lane, flushed, self.held = self.lanes[2], self.held, None
        lane.connection.execute("COMMIT")
        await self.rig.invalidate(lane, flushed)

    def check(self) -> None:
        """What is hot is whole; the other tenant has no part in it."""
        if is_hot(self.rig):
            assert projected(self.rig) == truth(self.rig)
        assert projected(self.rig, GLOBEX) == {}

    async def end(self) -> None:
        """All jobs come to their end, and projection, cache and points agree."""
        if self.held is not None:
            await self._let_go()
        for (job_id,) in self.rig.admin.execute(
            "SELECT job_id FROM projection_jobs WHERE state = 'running' ORDER BY job_id"
        ).fetchall():
            await finish(self.rig, job_id, self.runner)
            self.check()
        if not is_hot(self.rig):
            assert projected(self.rig) == {}
        checked = await finish(self.rig, (await verify(self.rig)).job_id, self.runner)
        assert (checked.missing_count, checked.extra_count, checked.cache_count) == (0, 0, 0)
        assert checked.different_count == 0
        assert (await job(self.rig, checked.job_id)).state != RUNNING
        if is_hot(self.rig):
            await self._compare_reads()

    async def _compare_reads(self) -> None:
        self.rig.catalog.drop_all_attributes()
        response = await self.rig.get(ACME, ENTITIES, attributes=["serial"])
        found = {
            entity.entity_id: value.value.text_value
            for entity in response.entities
            for value in entity.values
        }
        assert found == truth(self.rig)


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.timeout(300)
def test_what_is_hot_is_always_whole(
    fresh_database: Database, tmp_path: Path, loop: asyncio.Runner
) -> None:
    stack = AsyncExitStack()
    rig = loop.run(
        stack.enter_async_context(start_rig(fresh_database, tmp_path, projection=FORGETFUL))
    )
    world = World(rig)

    async def live(history: list[tuple[Any, ...]]) -> None:
        await world.begin()
        for step in history:
            await world.take(step)
        await world.end()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(histories)
    def check(history: list[tuple[Any, ...]]) -> None:
        loop.run(live(history))

    try:
        check()
    finally:
        loop.run(stack.aclose())
