"""What keeps a copy level with its source when the stream alone cannot."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.config import SlotConfig
from atlas_cdc_reconciler.level_store import LevelStore
from atlas_cdc_reconciler.levelling import ComparableSnapshot, ComparableSource, Cutting, Leveller
from atlas_cdc_reconciler.lifecycle import AUTOMATIC, Actor, Lifecycle, Order, OrderKind
from atlas_cdc_reconciler.lifecycle_store import LifecycleStore
from atlas_cdc_reconciler.progress import CopyProgress, Phase, Progress
from atlas_cdc_reconciler.sink import SinkState
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.source import ChangeStream, SlotLostError
from atlas_cdc_reconciler.source.slot import SlotStream
from atlas_common import errors
from atlas_common.telemetry import logger

_FIRST_COPY = "first copy"
_log = logger(__name__)


class Upkeep:
    """First copy, recovery, backfill and pause, for a source and a warehouse."""

    def __init__(
        self,
        config: SlotConfig,
        source: ComparableSource,
        warehouse: DuckDbWarehouse,
        progress: Progress,
        cutting: Cutting,
        *,
        streams_first_copy: bool = False,
    ) -> None:
        self._config = config
        self._source = source
        self.streams_first_copy = streams_first_copy
        """Whether the first copy comes from the stream's source, not by comparing."""
        self._store = LevelStore(warehouse)
        self._leveller = Leveller(self._store, progress, cutting)
        self._progress = progress
        self.lifecycle = Lifecycle(LifecycleStore(warehouse), progress)

    async def level_reason(self, state: SinkState) -> str | None:
        """Why the warehouse has to be levelled before the stream; None: it has not."""
        if state.position is None:
            return _FIRST_COPY
        return await self._store.levelling()

    async def level(self, state: SinkState) -> None:
        """Make the slot anew and the warehouse level with its beginning.

        Safe to repeat and to cancel: until it has ended, `level_reason` says that it has not.
        """
        reason = await self.level_reason(state) or ""
        phase = Phase.SNAPSHOT if state.position is None else Phase.RECOVERING
        await self._store.begin(reason)
        await self._progress.move(phase=phase, sink=state, reason=reason, copy=CopyProgress())
        async with self._source.snapshot() as snapshot:
            copied = await self._leveller.level_all(snapshot)
        _log.info(
            "level with the source",
            reason=reason,
            position=str(snapshot.position.lsn),
            rows_compared=copied.rows_compared,
            rows_copied=copied.rows_copied,
            spans_copied=copied.spans_copied,
        )

    async def keep_timeline(self, state: SinkState, stream: ChangeStream) -> None:
        """Remember which fork of the log is read from now on: it is proven to hold our position."""
        known = 0 if state.position is None else state.position.timeline
        if isinstance(stream, SlotStream) and stream.timeline != known:
            await self._store.set_timeline(stream.timeline)

    async def recovers(self, error: SlotLostError) -> bool:
        """Whether the pipeline makes it good by itself; then it is stored that it has to."""
        if self._config.on_lost == "stop":
            return False
        most = self._config.recoveries_per_hour_max
        if await self.lifecycle.recent_recoveries() >= most:
            _log.critical("not recovered again", recoveries_per_hour_max=most)
            return False
        _log.critical("slot lost, recovering", reason=str(error))
        metrics.recoveries.add(1)
        await self.lifecycle.begin_recovery(Actor(AUTOMATIC, str(error)))
        return True

    async def carry_out(self, order: Order) -> None:
        """Do what does not need the stream. Raises ServiceError for what does."""
        match order.kind:
            case OrderKind.PAUSE | OrderKind.RESUME:
                paused = order.kind is OrderKind.PAUSE
                await self.lifecycle.set_paused(order.actor, paused=paused)
            case OrderKind.RECOVER:
                await self.lifecycle.begin_recovery(order.actor)
            case OrderKind.BACKFILL:
                raise errors.failed_precondition(
                    "JOB_CONFLICT", "the pipeline does not stream any more: try again later"
                )
        _log.warning("order", order=order.kind.value, actor=order.actor.name)

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[ComparableSnapshot]:
        """The source as of a point that the stream can reach.

        Raises ServiceError UNAVAILABLE if there is none in time: a transaction is open for long.
        """
        async with AsyncExitStack() as stack:
            async with self.patience():
                snapshot = await stack.enter_async_context(self._source.cut())
            yield snapshot

    @asynccontextmanager
    async def patience(self) -> AsyncIterator[None]:
        """Cutting what the stream waits for. Raises ServiceError UNAVAILABLE."""
        try:
            async with asyncio.timeout(self._config.cut_timeout_seconds):
                yield
        except TimeoutError:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE",
                f"no common point of stream and source within {self._config.cut_timeout_seconds:g}"
                " s: a long transaction on the primary, or no heartbeat",
                retry_after=5.0,
            ) from None

    async def level_part(self, snapshot: ComparableSnapshot, order: Order) -> CopyProgress:
        """Compare and copy a part; given up when nobody waits for it any more."""
        work = asyncio.ensure_future(
            self._leveller.level_part(snapshot, order.scope, dry_run=order.dry_run)
        )
        order.done.add_done_callback(lambda _: work.cancel())
        try:
            copied = await work
        except asyncio.CancelledError:
            if order.done.cancelled():
                raise errors.unavailable("DEPENDENCY_UNAVAILABLE", "the caller went away") from None
            work.cancel()
            raise
        if not order.dry_run:
            await self.lifecycle.audit_backfill(order, copied)
        return copied
