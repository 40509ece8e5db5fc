"""The lanes of this process: how many there are, and which batch goes through which."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from atlas_common import errors, telemetry
from atlas_common.config import DatabaseConfig
from atlas_ingest import metrics
from atlas_ingest.config import FlushConfig
from atlas_ingest.lanes.batch import Batch
from atlas_ingest.lanes.settling import RETRY_AFTER_SECONDS, Settling, not_stored
from atlas_ingest.lanes.takeover import TakeOver
from atlas_ingest.lanes.worker import Announce, FlushTotals, LaneWorker

_BATCH_NUMBER_MAX = 2**31 - 1  # integer in the database.
_LOOK_SECONDS = 0.05
_IDLE_SECONDS = 30.0
_DRAIN_SECONDS = 5.0
_STOP_SECONDS = 0.5
_log = telemetry.logger(__name__)


@dataclass(slots=True)
class _Order:
    """The lane that batches of one order go through, while any is under way."""

    worker: LaneWorker
    count: int = 0


class Flusher:
    """A pool of lane workers that grows and shrinks with the backlog, within its bounds."""

    def __init__(
        self,
        config: FlushConfig,
        direct: DatabaseConfig,
        settling: Settling,
        *,
        announce: Announce,
        on_failover: Callable[[], None],
    ) -> None:
        self.totals = FlushTotals()
        self.generation = 0
        self._config = config
        self._direct = direct
        self._announce = announce
        self._forget_names = on_failover
        self.take_over = TakeOver(
            config, settling, self.totals, announce=announce, on_failover=self._failed_over
        )
        self._workers: dict[LaneWorker, asyncio.Task[None]] = {}
        self._orders: dict[Hashable, _Order] = {}
        self._number = 0
        self._was_ready = False

    @property
    def workers(self) -> Sequence[LaneWorker]:
        """Those that there are now."""
        return tuple(self._workers)

    def worker_of(self, lane: int) -> LaneWorker | None:
        """Who holds the lane; None if it is not held here."""
        for worker in self._workers:
            if worker.holding is not None and worker.holding.lane == lane:
                return worker
        return None

    async def check(self) -> None:
        """Return if writes can be taken; a readiness check. Raises ServiceError UNAVAILABLE."""
        if not any(worker.is_live for worker in self._workers):
            raise _no_lane()

    def admit(self) -> int:
        """What `append` wants to know: since when names are looked up.

        Writes are taken while the database is away for a while; but not before it was ever there:
        raises ServiceError UNAVAILABLE.
        """
        self._was_ready = self._was_ready or any(worker.is_live for worker in self._workers)
        if not self._was_ready:
            raise _no_lane()
        return self.generation

    def next_number(self) -> int:
        """A number for a batch that no other batch nearby has."""
        self._number = self._number % _BATCH_NUMBER_MAX + 1
        return self._number

    def append(self, batch: Batch, generation: int) -> None:
        """Put a batch on its way; `batch.done` tells its end. Raises ServiceError UNAVAILABLE.

        `generation`: of before its names were looked up. The numbers in its rows may have been lost
        with a failover since, and may even be those of other names now.
        """
        if generation != self.generation:
            raise not_stored()
        worker = self._worker_for(batch)
        worker.append(batch)

    def _worker_for(self, batch: Batch) -> LaneWorker:
        key = batch.order_key
        if key is None:
            return self._least_loaded()
        order = self._orders.setdefault(key, _Order(self._least_loaded()))
        order.count += 1
        batch.on_settled = lambda: self._settled(key, order)
        return order.worker

    def _settled(self, key: Hashable, order: _Order) -> None:
        order.count -= 1
        if not order.count:
            del self._orders[key]

    def _least_loaded(self) -> LaneWorker:
        live = [worker for worker in self._workers if worker.is_live]
        return min(live or self._workers, key=lambda worker: worker.backlog_points)

    async def run(self) -> None:
        """Keep the workers going until cancelled; then flush what is left, if that is soon done."""
        try:
            for _ in range(self._config.lanes_min):
                self._start()
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                self._look()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await asyncio.gather(*(worker.quiet() for worker in self._workers))
            for worker in self.workers:
                await self._stop(worker)

    def _look(self) -> None:
        for task in self._workers.values():
            if task.done():
                task.result()  # A worker ends by a fault of its own only: let it be seen.
        backlogs = [worker.backlog_points for worker in self._workers if worker.is_live]
        if len(backlogs) < len(self._workers):
            return  # One is on its way.
        if len(backlogs) < self._config.lanes_max and min(backlogs) > self._config.points:
            self._start()
            return
        self._share_out()
        self._stop_an_idle_one()

    def _start(self) -> None:
        worker = LaneWorker(
            self._config,
            self._direct,
            announce=self._announce,
            take_over=self.take_over,
            totals=self.totals,
        )
        self._workers[worker] = asyncio.create_task(worker.run(), name="lane worker")
        _log.info("lane added", lanes=len(self._workers))

    def _share_out(self) -> None:
        """Give an idle lane some of what waits for a busy one."""
        idle = min(self._workers, key=lambda worker: worker.backlog_points)
        busy = max(self._workers, key=lambda worker: worker.pending.points)
        if idle is not busy and not idle.backlog_points:
            for batch in busy.pending.give_away(busy.pending.points // 2):
                idle.append(batch)

    def _stop_an_idle_one(self) -> None:
        if len(self._workers) <= self._config.lanes_min:
            return
        bound = {order.worker for order in self._orders.values()}
        now = time.monotonic()
        for worker in self._workers:
            if worker.is_quiet and worker not in bound and now - worker.idle_since > _IDLE_SECONDS:
                task = self._workers.pop(worker)
                task.cancel()
                _log.info("lane given back", lanes=len(self._workers))
                return

    async def _stop(self, worker: LaneWorker) -> None:
        task = self._workers.pop(worker)
        while not task.done():
            # Again and again: a task group whose child fails while it is cancelled forgets that.
            task.cancel()
            await asyncio.wait([task], timeout=_STOP_SECONDS)
        for batch in worker.pending.take(2**62, 2**62):
            batch.fail(not_stored())

    def _failed_over(self) -> None:
        self.generation += 1
        metrics.failovers.add(1)
        self._forget_names()


def _no_lane() -> errors.ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "no staging lane is held: the database is away, or ingest has just started",
        retry_after=RETRY_AFTER_SECONDS,
    )
