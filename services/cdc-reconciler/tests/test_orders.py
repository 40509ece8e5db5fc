"""Orders to the pipeline that cannot be carried out: what their callers are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import duckdb
import grpc
import psycopg
import pytest

from atlas_cdc_reconciler.lifecycle import Actor, Lifecycle, OrderKind
from atlas_cdc_reconciler.lifecycle_store import LifecycleStore, Pause
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.pipeline import Pipeline
from atlas_cdc_reconciler.progress import CopyProgress, Phase, Progress
from atlas_cdc_reconciler.sink import SinkState, WarehouseError
from atlas_cdc_reconciler.source import SourcePosition
from atlas_cdc_reconciler.upkeep import Upkeep
from atlas_common import errors
from atlas_common.db import NO_BEAT
from atlas_common.errors import ServiceError

SECRET = "/var/lib/atlas/w.duckdb: INSERT INTO cdc_pause"
OPERATOR = Actor("ops@example", "a drill", "request-1")
POSITION = SourcePosition("a log", LogPosition(0, Lsn(1)))


class Store(LifecycleStore):
    """Keeps nothing, but the pause; fails when it is told to, or never comes to its end."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.is_stuck = False
        self.stuck = asyncio.Event()
        self._pause: Pause | None = None

    async def pause(self) -> Pause | None:
        return self._pause

    async def set_paused(self, actor: str, reason: str, request_id: str, *, paused: bool) -> None:
        await self._work()
        self._pause = Pause(actor, reason, 0) if paused else None

    async def begin_recovery(self, actor: str, reason: str, request_id: str) -> None:
        await self._work()

    async def _work(self) -> None:
        if self.is_stuck:
            self.stuck.set()
            await asyncio.get_running_loop().create_future()
        if self.failure is not None:
            raise self.failure


class Site(Upkeep):
    """A source where nothing happens and a sink that is level with it, in one."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.store = Store()
        self.lifecycle = Lifecycle(self.store, self.progress)
        self.streams_first_copy = False

    async def level_reason(self, state: SinkState) -> str | None:
        return None

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[Any]:
        await self.store._work()
        yield None

    async def claim(self, owner: str) -> int:
        return 1

    async def state(self) -> SinkState:
        return SinkState(POSITION, NO_BEAT)

    @asynccontextmanager
    async def stream(self, position: SourcePosition) -> AsyncIterator[Any]:
        yield self

    async def next_batch(self) -> Any:
        await asyncio.get_running_loop().create_future()

    async def reached(self, phase: Phase) -> None:
        while self.progress.now.phase is not phase:
            await self.progress.after(self.progress.now.version)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Site, "asyncio.Task[None]"]]:
    """A pipeline that streams."""
    site = Site()
    parts: Any = site  # It is all of them.
    task = asyncio.create_task(Pipeline(parts, parts, site.progress, 0.2, site).run())
    async with asyncio.timeout(30):
        await site.reached(Phase.STREAMING)
        yield site, task
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


async def refused(work: "asyncio.Future[CopyProgress | None]") -> ServiceError:
    with pytest.raises(ServiceError) as refusal:
        await work
    return refusal.value


def ordered(site: Site, kind: OrderKind) -> "asyncio.Future[CopyProgress | None]":
    return asyncio.ensure_future(site.lifecycle.order(kind, OPERATOR))


@pytest.mark.parametrize("kind", OrderKind)
@pytest.mark.parametrize(
    "failure",
    [
        WarehouseError(SECRET),
        psycopg.OperationalError(SECRET),
        OSError(SECRET),
        duckdb.ConstraintException(SECRET),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_what_failed_is_unavailable_and_its_text_stays_in_the_log(
    kind: OrderKind, failure: Exception
) -> None:
    async with running() as (site, _):
        site.store.failure = failure
        refusal = await refused(ordered(site, kind))
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert (refusal.reason, refusal.retry_after) == ("DEPENDENCY_UNAVAILABLE", 1.0)
    assert "the log says why" in refusal.message
    assert SECRET not in f"{refusal.message}{refusal.metadata}"


async def test_a_refusal_that_was_made_to_be_told_is_told() -> None:
    async with running() as (site, _):
        site.store.failure = errors.failed_precondition("JOB_CONFLICT", "not while it snows")
        refusal = await refused(ordered(site, OrderKind.RECOVER))
    assert (refusal.reason, refusal.message) == ("JOB_CONFLICT", "not while it snows")


async def test_the_next_order_is_carried_out() -> None:
    async with running() as (site, _):
        site.store.failure = WarehouseError(SECRET)
        await refused(ordered(site, OrderKind.PAUSE))
        site.store.failure = None
        await site.lifecycle.order(OrderKind.PAUSE, OPERATOR)
        assert site.progress.now.phase is Phase.PAUSED


@pytest.mark.parametrize("kind", OrderKind)
async def test_an_order_hears_of_the_pipelines_end(kind: OrderKind) -> None:
    """Its caller was not cancelled: a handler that ends with a cancellation answers nothing."""
    async with running() as (site, task):
        site.store.is_stuck = True
        order = ordered(site, kind)
        await site.store.stuck.wait()
        task.cancel()
        refusal = await refused(order)
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
