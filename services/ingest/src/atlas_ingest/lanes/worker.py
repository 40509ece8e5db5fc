"""One lane at work: batches are copied into one half while the other is flushed.

    append -> [pending] -> stage (COPY into the open load) -> flush the load -> announce -> callers
                                                                             -> durable -> forgotten

Whatever is lost on the way, the worker connects again, takes its lane over (takeover.py) and goes
on: callers only wait longer.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psycopg

from atlas_common import errors, sqlstate, telemetry
from atlas_common.config import DatabaseConfig
from atlas_common.errors import ServiceError
from atlas_common.telemetry import flushes
from atlas_common.token import Position
from atlas_ingest import metrics
from atlas_ingest.config import FlushConfig
from atlas_ingest.lanes.batch import Batch, Flushed, Stored
from atlas_ingest.lanes.holding import Holding
from atlas_ingest.lanes.lane import LaneLostError, LaneSessions, lane_sessions
from atlas_ingest.lanes.load import Half, Load
from atlas_ingest.lanes.pending import Pending

_RETRY_SECONDS_MIN, _RETRY_SECONDS_MAX = 0.05, 1.0
_RECONNECT_SECONDS_MIN, _RECONNECT_SECONDS_MAX = 0.05, 1.0
_ANNOUNCED_WAITING_MAX = 4
_PROOF_SECONDS = 0.1
_LOAD_FLUSHES_MAX = 10  # A load grows to so many flushes' worth while STAGED callers wait.
_log = telemetry.logger(__name__)

Announce = Callable[[Flushed], Awaitable[None]]


@dataclass(slots=True)
class FlushTotals:
    """Of this process, since it started."""

    flushed_points: int = 0
    last_flush_seconds: float = 0.0
    last_error: str = ""


class UnflushableError(Exception):
    """A load that the database refuses for its data; it has been set aside."""


TakeOver = Callable[["LaneWorker", LaneSessions], Awaitable[Holding]]


class LaneWorker:
    """Holds a lane for as long as it runs; keeps every batch in memory until it is durable."""

    def __init__(
        self,
        config: FlushConfig,
        direct: DatabaseConfig,
        *,
        announce: Announce,
        take_over: TakeOver,
        totals: FlushTotals,
    ) -> None:
        self.pending = Pending()
        self.holding: Holding | None = None
        self.idle_since = time.monotonic()
        self._config = config
        self._direct = direct
        self._announce = announce
        self._take_over = take_over
        self._totals = totals
        self._is_live = False
        self._copying = asyncio.Lock()  # Of the open load; it changes under this lock only.
        self._gathered = asyncio.Event()  # Look again whether enough has been gathered.
        self._filled = asyncio.Event()  # The open load holds something.
        self._enough = asyncio.Event()  # The open load is worth a flush by its size.
        self._changed = asyncio.Event()  # Loads were forgotten.
        self._is_flushing = False
        self._flush_begun_at = 0.0
        self._waiting: asyncio.Queue[Load] = asyncio.Queue(_ANNOUNCED_WAITING_MAX)

    @property
    def is_live(self) -> bool:
        """Whether the lane is held and served now."""
        return self._is_live

    @property
    def backlog_points(self) -> int:
        """Points not flushed yet."""
        loads = self.holding.unflushed_points if self.holding else 0
        return self.pending.points + loads

    @property
    def is_quiet(self) -> bool:
        """Whether all it was given is flushed, answered and durable."""
        return not self.pending and (self.holding is None or self.holding.is_empty)

    async def quiet(self) -> None:
        """Return once it is so."""
        while not self.is_quiet:
            self._changed.clear()
            await self._changed.wait()

    @property
    def oldest_appended_at(self) -> float | None:
        """When the oldest batch not flushed yet came, by time.monotonic(); None: there is none."""
        batches = [*(self.holding.unflushed if self.holding else ()), *self.pending]
        return min((batch.appended_at for batch in batches), default=None)

    def append(self, batch: Batch) -> None:
        """Put a batch on its way; `batch.done` tells its end.

        The bound is the caller's: it has room in the budget for the batch.
        """
        self.pending.append(batch)
        # Else nobody is woken for it: batches come by the thousand between two flushes.
        if self._is_live and self._may_copy():
            self.look_again()

    def look_again(self) -> None:
        """Something came or went: there may be enough to copy now."""
        self._gathered.set()

    async def run(self) -> None:
        """Work until cancelled."""
        pause_seconds = _RECONNECT_SECONDS_MIN
        while True:
            try:
                await self._connected()
            except* (psycopg.Error, ServiceError, LaneLostError, UnflushableError, OSError) as lost:
                cause = _first(lost)
                self._totals.last_error = str(cause)
                _log.warning("lane session ended", error=str(cause), kind=type(cause).__name__)
            if self._was_live_since_pause():
                pause_seconds = _RECONNECT_SECONDS_MIN
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _RECONNECT_SECONDS_MAX)

    def _was_live_since_pause(self) -> bool:
        was_live, self._is_live = self._is_live, False
        return was_live

    async def _connected(self) -> None:
        async with lane_sessions(self._direct, name="ingest lane") as sessions:
            self.holding = await self._take_over(self, sessions)
            self._reset()
            self._is_live = True
            self._totals.last_error = ""
            metrics.lane_claims.add(1)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._stage_forever(sessions), name="stage")
                tasks.create_task(self._flush_forever(sessions), name="flush")
                tasks.create_task(self._announce_forever(), name="announce")
                tasks.create_task(self._prove_forever(sessions), name="prove")

    def _reset(self) -> None:
        """Nothing is on its way between the steps now; what was is in the holding."""
        self._copying = asyncio.Lock()
        self._filled.clear()
        self._enough.clear()
        self._gathered.set()
        self._is_flushing = False
        self._waiting = asyncio.Queue(_ANNOUNCED_WAITING_MAX)

    # Stage -------------------------------------------------------------------------------------

    async def _stage_forever(self, sessions: LaneSessions) -> None:
        while True:
            await self.pending.wait()
            await self._gather()
            async with self._copying:
                load = self._held.open
                batches = self.pending.take(self._config.points, self._config.bytes)
                load.add(batches)
                await stage(sessions, self._held, load, batches)
                if load.batches:
                    self._filled.set()
                if self._open_is_enough:
                    self._enough.set()

    async def _gather(self) -> None:
        """Let others join until a flush is due; after a pause the first write need not wait.

        A caller who waits for the copy alone does not wait for a flush.
        """
        while not self._may_copy():
            self._gathered.clear()
            # A flush that begins, ends or is needed wakes us; only its time comes by itself.
            waits_for_time = not (self._is_flushing or self._open_is_enough)
            try:
                async with asyncio.timeout(max(0.0, self._due_in()) if waits_for_time else None):
                    await self._gathered.wait()
            except TimeoutError:
                pass

    def _may_copy(self) -> bool:
        pending = self.pending
        if not pending:
            return True  # Nothing to wait for.
        if self._open_is_full:
            return False
        if pending.is_urgent:
            return True
        if self._open_is_enough:
            return False
        if self._is_enough(pending.points, pending.size_bytes):
            return True
        return not self._is_flushing and self._due_in() <= 0

    @property
    def _open_is_enough(self) -> bool:
        return self._is_enough(self._held.open.points, self._held.open.size_bytes)

    @property
    def _open_is_full(self) -> bool:
        load = self._held.open
        return (
            load.points >= self._config.points * _LOAD_FLUSHES_MAX
            or load.size_bytes >= self._config.bytes * _LOAD_FLUSHES_MAX
        )

    def _due_in(self) -> float:
        """Seconds until the next flush may begin."""
        return self._flush_begun_at + self._config.interval_ms / 1000 - time.monotonic()

    def _is_enough(self, points: int, size_bytes: int) -> bool:
        """Whether a flush of these is large enough: larger ones only take longer."""
        return points >= self._config.points or size_bytes >= self._config.bytes

    # Flush -------------------------------------------------------------------------------------

    async def _flush_forever(self, sessions: LaneSessions) -> None:
        while True:
            await self._filled.wait()
            await self._until_due()
            async with self._copying:
                load = self._held.close()
                self._filled.clear()
                self._enough.clear()
            self._flush_begun_at = time.monotonic()
            self._is_flushing = True
            self.look_again()
            durable = load.wants_durability
            load.flushed = await self._flush(sessions, load, durable=durable)
            self._is_flushing = False
            self.look_again()
            if durable:
                self._held.durable_through(load)
            await self._waiting.put(load)

    async def _until_due(self) -> None:
        try:
            async with asyncio.timeout(max(0.0, self._due_in())):
                await self._enough.wait()
        except TimeoutError:
            pass

    async def _flush(self, sessions: LaneSessions, load: Load, *, durable: bool) -> Flushed:
        position = self._held.position(load)
        callers = (batch.caller for batch in load.batches)
        try:
            with flushes.flush_span(position, load.points, callers):
                return await flush(
                    sessions, position, load.half, self._config, self._totals, durable=durable
                )
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            await sessions.discard(position.lane, load.half, str(error))
            self._held.set_aside(load, _refused(error, "it was set aside as a dead letter"))
            raise UnflushableError(str(error)) from error

    async def _announce_forever(self) -> None:
        # One after another: the positions of a lane must arrive in their order.
        while True:
            load = await self._waiting.get()
            assert load.flushed is not None
            with flushes.within(load.flushed.position):
                await self._announce(load.flushed)
            load.answer(load.flushed)
            self._forget_done()
            self.idle_since = time.monotonic()

    async def _prove_forever(self, sessions: LaneSessions) -> None:
        """Forget what is durable. Asked on the lane's own session: it would not outlive a crash."""
        while True:
            await asyncio.sleep(_PROOF_SECONDS)
            loads = self._held.unproven
            if loads:
                async with self._copying:
                    written, flushed = await sessions.wal_proof()
                self._held.prove(loads, written, flushed)
                self._forget_done()

    def _forget_done(self) -> None:
        self._held.forget_done()
        self._changed.set()

    @property
    def _held(self) -> Holding:
        assert self.holding is not None
        return self.holding


async def stage(
    sessions: LaneSessions, holding: Holding, load: Load, batches: Sequence[Batch]
) -> None:
    """Copy the batches of the load. Those that Postgres refuses fail and leave it.

    Raises psycopg.Error for anything but refused data: what was copied is not known then.
    """
    if not batches:
        return
    started = time.monotonic()
    try:
        await sessions.stage(holding.lane, load.half, batches, load.sequence)
    except psycopg.DataError as error:
        if not sessions.is_connected:
            raise
        if len(batches) == 1:
            _log.warning("staging refused", error=str(error))
            load.remove(batches[0])
            batches[0].fail(_refused(error, "nothing was stored"))
            return
        # Postgres refuses a value that validation let through. It must not take the writes of
        # others with it: one by one, only its own write fails.
        for batch in batches:
            await stage(sessions, holding, load, [batch])
        return
    metrics.stage_seconds.record(time.monotonic() - started)
    position = holding.position(load)
    for batch in batches:
        batch.is_staged = True
        if batch.asks_staged:
            batch.answer(Stored(position))


async def flush(
    sessions: LaneSessions,
    position: Position,
    half: Half,
    config: FlushConfig,
    totals: FlushTotals,
    *,
    durable: bool,
) -> Flushed:
    """Flush a half, again and again while that may help. Raises psycopg.Error, LaneLostError."""
    started = time.monotonic()
    for attempt in itertools.count(1):
        try:
            flushed = await sessions.flush(position, half, durable=durable)
            break
        except psycopg.Error as error:
            totals.last_error = str(error)
            if not (
                attempt < config.attempts_max and sessions.is_connected and _is_transient(error)
            ):
                raise
            metrics.flush_retries.add(1)
            _log.warning("flush tried again", attempt=attempt, error=str(error))
        await asyncio.sleep(min(_RETRY_SECONDS_MIN * 2**attempt, _RETRY_SECONDS_MAX))
    totals.flushed_points += flushed.point_count
    totals.last_flush_seconds = time.monotonic() - started
    totals.last_error = ""
    metrics.flush_seconds.record(totals.last_flush_seconds)
    metrics.flush_points.record(flushed.point_count)
    return flushed


def _refused(error: psycopg.Error, fate: str) -> ServiceError:
    """The database refuses the data. Its own words may show other callers' values: not told."""
    meant = sqlstate.to_service_error(error)
    return meant or errors.internal("INTERNAL", f"the database refuses the write: {fate}")


def _is_transient(error: psycopg.Error) -> bool:
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return False
    failure = sqlstate.to_service_error(error)
    return failure is not None and failure.reason != "INTERNAL"


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first error of a group that is no group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
