"""From the source into the sink, for ever: resumes exactly, waits out outages, never skips."""

import asyncio
import os
import random
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import psycopg

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.changes import Batch
from atlas_cdc_reconciler.flushes import flushes_of
from atlas_cdc_reconciler.lifecycle import Order, OrderKind
from atlas_cdc_reconciler.progress import CopyProgress, Phase, Progress
from atlas_cdc_reconciler.sink import (
    FencedError,
    Sink,
    SinkState,
    TooManyDeadLettersError,
    WarehouseError,
)
from atlas_cdc_reconciler.source import (
    ChangeStream,
    SlotLostError,
    Source,
    SourceLostError,
    SourcePosition,
)
from atlas_cdc_reconciler.upkeep import Upkeep
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.telemetry import flushes, logger, tracing
from atlas_common.token import Position

T = TypeVar("T")
_BACKOFF_SECONDS_MIN = 0.1
# An outage or a full disk passes; the work is done again from the last commit.
_PASSING = (ServiceError, psycopg.Error, OSError, TimeoutError, WarehouseError)
# These do not: going on would leave changes out, and nobody would know.
_FINAL = (SourceLostError, FencedError, TooManyDeadLettersError)
_READY = frozenset({Phase.STREAMING, Phase.BACKFILLING, Phase.PAUSED})
_log = logger(__name__)


class Pipeline:
    """Copies first, then applies batch after batch; obeys orders in between.

    Without `upkeep` there are no orders, the first copy is one transaction of the sink, and a slot
    that was lost is final: what a source and a sink can do that cannot be compared.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        progress: Progress,
        backoff_seconds_max: float,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._source = source
        self._sink = sink
        self._progress = progress
        self._backoff_seconds_max = backoff_seconds_max
        self._upkeep = upkeep
        self._epoch: int | None = None

    async def run(self) -> None:
        """Run until cancelled. When it can never go on, say so and stand still."""
        if self._upkeep is not None:
            await self._upkeep.lifecycle.load()
        backoff = _BACKOFF_SECONDS_MIN
        while True:
            version = self._progress.now.version
            try:
                await self._work()
                continue  # An order wants it to begin anew.
            except _FINAL as error:
                if not await self._recovers(error):
                    await self._stop(error)
                continue
            except _PASSING as error:
                if self._progress.now.version > version + 1:  # It had been working.
                    backoff = _BACKOFF_SECONDS_MIN
                _log.warning("pipeline interrupted", error=str(error), retry_in_seconds=backoff)
                await self._progress.move(reason=f"interrupted: {error}")
            # Jitter: what made us fail may hit many at once.
            await asyncio.sleep(backoff * random.uniform(0.8, 1.2))  # noqa: S311
            backoff = min(backoff * 2, self._backoff_seconds_max)

    async def check(self) -> None:
        """A readiness check: raises ServiceError UNAVAILABLE while there is nothing to read.

        A pause is no outage: what is read says how old it is.
        """
        standing = self._progress.now
        if standing.phase not in _READY:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE",
                f"pipeline is in phase {standing.phase}: {standing.reason}",
            )

    async def _work(self) -> None:
        if self._epoch is None:  # Once: who is fenced off must not claim the sink back.
            self._epoch = await self._sink.claim(f"{socket.gethostname()}/{os.getpid()}")
        await self._obey()
        position = await self._begun()
        if position is None:
            return
        state = await self._sink.state()
        async with self._source.stream(position) as stream:
            if self._upkeep is not None:
                await self._upkeep.keep_timeline(state, stream)
            await self._progress.move(phase=Phase.STREAMING, sink=state, reason="")
            while True:
                batch = await self._unless_ordered(stream.next_batch())
                if batch is not None:
                    await self._apply(stream, batch)
                elif not await self._backfilled(stream):
                    return

    async def _begun(self) -> SourcePosition | None:
        """Where to stream from, once there is a whole copy; None if an order comes first."""
        state = await self._sink.state()
        if self._upkeep is None:
            return state.position or await self._copy()
        before: Coroutine[Any, Any, object] | None = None
        if state.position is None and self._upkeep.streams_first_copy:
            before = self._copy()
        elif await self._upkeep.level_reason(state) is not None:
            before = self._upkeep.level(state)
        if before is not None:
            await self._unless_ordered(before)
            if self._upkeep.lifecycle.waiting:
                return None
        return (await self._sink.state()).position

    async def _apply(self, stream: ChangeStream, batch: Batch) -> SinkState:
        started = time.monotonic()
        with flushes.apply_span(_flushes_of(batch), batch.change_count):
            state = await self._sink.apply(batch)
        metrics.apply_seconds.record(time.monotonic() - started)
        metrics.batch_changes.record(batch.change_count)
        # Only now, when it is stored: the source forgets what is confirmed.
        stream.confirm(batch.position)
        await self._progress.move(sink=state)
        return state

    async def _copy(self) -> SourcePosition:
        await self._progress.move(phase=Phase.SNAPSHOT, reason="making the first copy")
        rows_total = 0
        async with (
            self._source.snapshot() as snapshot,
            self._sink.load(snapshot.position) as load,
        ):
            async for copied in snapshot.rows():
                await load.append(copied)
                rows_total += copied.rows.num_rows
        _log.info("first copy made", rows=rows_total, position=str(snapshot.position.at))
        return snapshot.position

    # When it cannot go on -------------------------------------------------------------------------

    async def _recovers(self, error: Exception) -> bool:
        """Whether the pipeline makes it good by itself."""
        if self._upkeep is None or not isinstance(error, SlotLostError):
            return False
        return await self._upkeep.recovers(error)

    async def _stop(self, error: Exception) -> None:
        """Stand still until somebody orders something."""
        reason = str(error)
        if self._upkeep is not None and isinstance(error, SourceLostError):
            reason += "; `atlas pipeline recover` copies what differs and goes on from there"
        _log.critical("pipeline stopped", reason=reason)
        await self._progress.move(phase=Phase.STOPPED, reason=reason)
        if self._upkeep is None:
            await asyncio.get_running_loop().create_future()
            return
        await self._upkeep.lifecycle.arrival()

    # Orders ---------------------------------------------------------------------------------------

    async def _obey(self) -> None:
        """Carry out what was ordered; return once the pipeline is to run."""
        if self._upkeep is None:
            return
        lifecycle = self._upkeep.lifecycle
        while True:
            order = lifecycle.waiting
            if order is not None:
                try:
                    await self._upkeep.carry_out(order)
                    await self._tell_pause()
                except BaseException as error:
                    lifecycle.fail(order, _told(error))
                    raise
                lifecycle.end(order)
            if lifecycle.pause is None:
                return
            await self._tell_pause()
            await lifecycle.arrival()

    async def _tell_pause(self) -> None:
        assert self._upkeep is not None
        state = await self._sink.state()
        pause = self._upkeep.lifecycle.pause
        if pause is None:
            await self._progress.move(phase=Phase.STARTING, sink=state, reason="")
            return
        why = f": {pause.reason}" if pause.reason else ""
        await self._progress.move(phase=Phase.PAUSED, sink=state, reason=f"by {pause.actor}{why}")

    async def _backfilled(self, stream: ChangeStream) -> bool:
        """Carry out an order within the stream; False if it is one that ends it."""
        assert self._upkeep is not None
        order = self._upkeep.lifecycle.waiting
        if order is None or order.kind is not OrderKind.BACKFILL:
            return False
        await self._progress.move(
            phase=Phase.BACKFILLING,
            reason=f"{'comparing' if order.dry_run else 'copying'} {order.scope}",
        )
        try:
            copied = await self._backfill(stream, order)
        except asyncio.CancelledError as error:
            self._upkeep.lifecycle.fail(order, _told(error))
            raise
        except Exception as error:
            _log.warning("backfill failed", error=str(error))
            self._upkeep.lifecycle.fail(order, _told(error))
            raise
        self._upkeep.lifecycle.end(order, copied)
        await self._progress.move(phase=Phase.STREAMING, reason="")
        return True

    async def _backfill(self, stream: ChangeStream, order: Order) -> CopyProgress:
        """Let the stream reach a point at which the source can be seen; level; let it go on."""
        assert self._upkeep is not None
        rest: Batch | None = None
        async with self._upkeep.cut() as snapshot:
            async with self._upkeep.patience():
                state = await self._sink.state()
                while state.position is not None and state.position.at < snapshot.position.at:
                    batch, rest = (await stream.next_batch()).cut(snapshot.position.at)
                    state = await self._apply(stream, batch)
            copied = await self._upkeep.level_part(snapshot, order)
        if rest is not None:
            await self._apply(stream, rest)
        return copied

    async def _unless_ordered(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work returns; None, and the work is cancelled, if an order arrives first."""
        if self._upkeep is None:
            return await work
        working = asyncio.ensure_future(work)
        arriving = asyncio.ensure_future(self._upkeep.lifecycle.arrival())
        try:
            await asyncio.wait({working, arriving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arriving.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
        # It may have come to its end all the same: a batch that was taken must not get lost.
        return None if working.cancelled() else working.result()


def _flushes_of(batch: Batch) -> Sequence[Position]:
    """For its span alone: what cannot be read here is the sink's to refuse."""
    if not tracing.is_exported():
        return ()
    try:
        return list(flushes_of(batch))
    except ValueError:
        return ()


def _told(error: BaseException) -> ServiceError:
    """What the caller of an order hears: not the error's text, which may have SQL or paths.

    Nor the pipeline's own cancellation: it would end the caller's handler without any status.
    """
    if isinstance(error, ServiceError):
        return error
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "the order was not carried out, the log says why: try again",
        retry_after=1.0,
    )
