"""Group commit: concurrent writes share one COPY and one flush, again and again.

    append -> [pending] -> stage (COPY into a half) -> flush (the half) -> announce -> callers

The three steps run side by side: while one half is flushed the other is filled. Everything in a
session belongs to one claim of a lane. When anything is lost, the session ends, its callers are
told to come again, and the next claim first flushes what this one left in staging.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psycopg

from atlas_common import errors, sqlstate, telemetry
from atlas_common.config import DatabaseConfig
from atlas_common.errors import ServiceError
from atlas_ingest import metrics
from atlas_ingest.batch import Batch, Flushed
from atlas_ingest.config import FlushConfig
from atlas_ingest.lane import HALVES, LANES, Lane, LaneLostError, claimed

_BATCH_NUMBER_MAX = 2**31 - 1  # integer in the database.
_RETRY_SECONDS_MIN, _RETRY_SECONDS_MAX = 0.05, 1.0
_RECLAIM_SECONDS_MIN, _RECLAIM_SECONDS_MAX = 0.1, 5.0
_ANNOUNCED_WAITING_MAX = 4
_RETRY_AFTER_SECONDS = 0.5
_AVOID_SECONDS = 60.0
_log = telemetry.logger(__name__)

Announce = Callable[[Flushed], Awaitable[None]]


@dataclass(slots=True)
class FlushTotals:
    """Since this process started."""

    flushed_points: int = 0
    last_flush_seconds: float = 0.0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class _Filled:
    half: str
    batches: Sequence[Batch]


class FlushSession:
    """One claim of a lane, and the batches that go through it."""

    def __init__(
        self, lane: Lane, config: FlushConfig, announce: Announce, totals: FlushTotals
    ) -> None:
        self.lane = lane
        self._config = config
        self._announce = announce
        self._totals = totals
        self._pending: deque[Batch] = deque()
        self._pending_points = self._pending_bytes = 0
        self._alive: set[Batch] = set()
        self._is_closed = False
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._free = {half: asyncio.Semaphore(1) for half in HALVES}
        self._filled: asyncio.Queue[_Filled] = asyncio.Queue(maxsize=1)
        self._flushed: asyncio.Queue[tuple[_Filled, Flushed]] = asyncio.Queue(
            maxsize=_ANNOUNCED_WAITING_MAX
        )

    @property
    def oldest_appended_at(self) -> float | None:
        """When the oldest unanswered batch came, by time.monotonic(); None if there is none."""
        return min((batch.appended_at for batch in self._alive), default=None)

    def append(self, batch: Batch) -> None:
        """Put a batch on its way; `batch.done` tells its end. Raises ServiceError UNAVAILABLE.

        The bound is the caller's: it has room in the budget for the batch.
        """
        if self._is_closed:
            # The numbers in its rows were looked up before something was lost; they may have been
            # lost with it (see Resolver.forget_all), so the batch must not enter a later session.
            raise _not_stored()
        self._pending.append(batch)
        self._pending_points += batch.point_count
        self._pending_bytes += len(batch.rows)
        self._alive.add(batch)
        self._arrived.set()
        if self._is_enough(self._pending_points, self._pending_bytes):
            self._enough.set()

    async def flush_leftovers(self) -> None:
        """Flush what earlier owners of the lane left. Before anything of ours is staged."""
        for half in HALVES:
            flushed = await self._flush_half(half, durable=True)
            if flushed.point_count:
                _log.info(
                    "leftovers flushed",
                    lane=self.lane.number,
                    half=half,
                    points=flushed.point_count,
                )
            await self._announce(flushed)

    async def run(self) -> None:
        """Work until cancelled, or until the lane or a connection is lost, which raises."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._stage_forever(), name="stage")
            tasks.create_task(self._flush_forever(), name="flush")
            tasks.create_task(self._announce_forever(), name="announce")

    def close(self) -> None:
        """Tell all who still wait that nothing more happens here."""
        self._is_closed = True
        for batch in tuple(self._alive):
            if batch.flushed is not None:
                batch.store(batch.flushed)  # Only the word to hotcache is missing.
            else:
                batch.fail(_outcome_unknown() if batch.is_staging else _not_stored())
        self._alive.clear()
        self._pending.clear()

    async def _stage_forever(self) -> None:
        loop = asyncio.get_running_loop()
        interval_seconds = self._config.interval_ms / 1000
        begun_at = -interval_seconds
        for half in itertools.cycle(HALVES):
            # One batch at least in each round, so a half is never handed on empty.
            staged: Sequence[Batch] = ()
            while not staged:
                await self._arrived.wait()
                await self._gather(begun_at + interval_seconds)
                await self._free[half].acquire()
                begun_at = loop.time()
                staged = await self._stage(half, self._take())
                if not staged:
                    self._free[half].release()
            await self._filled.put(_Filled(half, staged))

    async def _gather(self, until: float) -> None:
        """Let others join until then. After a pause that is past: the first write need not wait."""
        try:
            async with asyncio.timeout_at(until):
                await self._enough.wait()
        except TimeoutError:
            pass

    def _take(self) -> list[Batch]:
        taken: list[Batch] = []
        points = size = 0
        while self._pending and not self._is_enough(points, size):
            batch = self._pending.popleft()
            self._pending_points -= batch.point_count
            self._pending_bytes -= len(batch.rows)
            if batch.is_abandoned:
                self._end(batch)
                continue
            taken.append(batch)
            points += batch.point_count
            size += len(batch.rows)
        if not self._pending:
            self._arrived.clear()
        if not self._is_enough(self._pending_points, self._pending_bytes):
            self._enough.clear()
        return taken

    def _is_enough(self, points: int, size_bytes: int) -> bool:
        """Whether a flush of these is large enough: larger ones only take longer."""
        return points >= self._config.points or size_bytes >= self._config.bytes

    async def _stage(self, half: str, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Copy the batches; the answer is those that are in the half now."""
        if not batches:
            return ()
        for batch in batches:
            batch.is_staging = True
        started = time.monotonic()
        try:
            await self.lane.stage(half, batches)
        except psycopg.Error as error:
            if not self.lane.is_connected:
                raise
            if isinstance(error, psycopg.DataError) and len(batches) > 1:
                # Postgres refuses a value that validation let through. It must not take the
                # writes of others with it: one by one, only its own write fails.
                return [b for single in batches for b in await self._stage(half, [single])]
            _log.warning("staging refused", error=str(error), batches=len(batches))
            for batch in batches:
                batch.fail(sqlstate.to_service_error(error) or _not_stored())
                self._end(batch)
            return ()
        metrics.stage_seconds.record(time.monotonic() - started)
        return batches

    async def _flush_forever(self) -> None:
        while True:
            filled = await self._filled.get()
            durable = any(batch.durable and not batch.is_abandoned for batch in filled.batches)
            flushed = await self._flush_half(filled.half, durable=durable)
            self._free[filled.half].release()
            for batch in filled.batches:
                batch.flushed = flushed
            await self._flushed.put((filled, flushed))

    async def _flush_half(self, half: str, *, durable: bool) -> Flushed:
        started = time.monotonic()
        for attempt in itertools.count(1):
            try:
                flushed = await self.lane.flush(half, durable=durable)
                break
            except psycopg.Error as error:
                self._totals.last_error = str(error)
                if not self._may_retry(error, attempt):
                    raise
                metrics.flush_retries.add(1)
                _log.warning("flush tried again", attempt=attempt, error=str(error))
            await asyncio.sleep(min(_RETRY_SECONDS_MIN * 2**attempt, _RETRY_SECONDS_MAX))
        self._totals.flushed_points += flushed.point_count
        self._totals.last_flush_seconds = time.monotonic() - started
        self._totals.last_error = ""
        metrics.flush_seconds.record(self._totals.last_flush_seconds)
        metrics.flush_points.record(flushed.point_count)
        return flushed

    def _may_retry(self, error: psycopg.Error, attempt: int) -> bool:
        if attempt >= self._config.attempts_max or not self.lane.is_connected:
            return False
        failure = sqlstate.to_service_error(error)
        return failure is not None and failure.reason != "INTERNAL"

    async def _announce_forever(self) -> None:
        # One after another: the positions of a lane must arrive in their order.
        while True:
            filled, flushed = await self._flushed.get()
            await self._announce(flushed)
            for batch in filled.batches:
                batch.store(flushed)
                self._alive.discard(batch)

    def _end(self, batch: Batch) -> None:
        batch.admission.release()
        self._alive.discard(batch)


class Flusher:
    """Keeps a session going for as long as the process lives."""

    def __init__(
        self,
        config: FlushConfig,
        direct: DatabaseConfig,
        *,
        announce: Announce,
        on_claim: Callable[[], None],
    ) -> None:
        self.totals = FlushTotals()
        self._config = config
        self._direct = direct
        self._announce = announce
        self._on_claim = on_claim
        self._session: FlushSession | None = None
        self._number = 0
        self._avoided_until: dict[int, float] = {}

    @property
    def current(self) -> FlushSession | None:
        """The session, while a lane is held."""
        return self._session

    def session(self) -> FlushSession:
        """The session. Raises ServiceError UNAVAILABLE while no lane is held."""
        if self._session is None:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE",
                "no staging lane is held: the database is away, or ingest has just started",
                retry_after=_RETRY_AFTER_SECONDS,
            )
        return self._session

    async def check(self) -> None:
        """Return if writes can be taken; a readiness check. Raises ServiceError UNAVAILABLE."""
        self.session()

    def next_number(self) -> int:
        """A number for a batch that no other batch nearby has."""
        self._number = self._number % _BATCH_NUMBER_MAX + 1
        return self._number

    async def run(self) -> None:
        """Claim a lane and serve it, again and again, until cancelled."""
        pause_seconds = _RECLAIM_SECONDS_MIN
        while True:
            started = time.monotonic()
            try:
                await self._serve_one_claim()
            except* (psycopg.Error, ServiceError, LaneLostError, OSError) as lost:
                cause = _first(lost)
                self.totals.last_error = str(cause)
                _log.warning("lane session ended", error=str(cause), kind=type(cause).__name__)
            if time.monotonic() - started > _RECLAIM_SECONDS_MAX:
                pause_seconds = _RECLAIM_SECONDS_MIN
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _RECLAIM_SECONDS_MAX)

    def _lanes(self) -> list[int]:
        now = time.monotonic()
        return [lane for lane in LANES if self._avoided_until.get(lane, now) <= now]

    async def _serve_one_claim(self) -> None:
        lanes = self._lanes()
        async with claimed(self._direct, name="ingest lane", lanes=lanes) as lane:
            session = FlushSession(lane, self._config, self._announce, self.totals)
            try:
                await session.flush_leftovers()
            except psycopg.Error:
                if lane.is_connected:
                    # What lies in there cannot be flushed, now or ever. Its data waits for a
                    # person; the writes of today take another lane.
                    self._avoided_until[lane.number] = time.monotonic() + _AVOID_SECONDS
                    _log.exception("leftovers cannot be flushed", lane=lane.number)
                raise
            self._on_claim()  # Before the first write can use what was remembered.
            self._session = session
            metrics.lane_claims.add(1)
            _log.info("lane claimed", lane=lane.number, epoch=lane.epoch, sequence=lane.sequence)
            try:
                await session.run()
            finally:
                self._session = None
                session.close()


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first error of a group that is no group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error


def _not_stored() -> ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "the write was not stored: the connection to the database was lost",
        retry_after=_RETRY_AFTER_SECONDS,
        stored="no",
    )


def _outcome_unknown() -> ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "the connection to the database was lost while the write was under way; whether it is"
        " stored is not known: repeat it with the same request_id",
        retry_after=_RETRY_AFTER_SECONDS,
        stored="unknown",
    )
