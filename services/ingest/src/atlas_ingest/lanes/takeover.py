"""How a lane comes into a worker's hands: for the first time, again, or after somebody else had it.

nothing held before          -> any free lane: flush what lies in it, begin an epoch
held, nobody claimed since   -> the epoch goes on: what the database lacks is staged and flushed
                                again, under the positions it was promised
held, somebody claimed it    -> what they flushed is settled, the rest goes through a new epoch
held, after a failover       -> nothing looked up before it can be trusted: the rest fails
"""

import asyncio
import time
from collections.abc import Callable

import psycopg

from atlas_common import errors, telemetry
from atlas_common.token import Position
from atlas_ingest import metrics
from atlas_ingest.config import FlushConfig
from atlas_ingest.lanes.batch import Flushed
from atlas_ingest.lanes.holding import Holding
from atlas_ingest.lanes.lane import LANES, LaneSessions, LaneState
from atlas_ingest.lanes.load import HALVES, Load
from atlas_ingest.lanes.settling import Settling, not_stored, outcome_unknown
from atlas_ingest.lanes.worker import Announce, FlushTotals, LaneWorker, flush, stage

_REGAIN_SECONDS = 2.0
_REGAIN_PAUSE_SECONDS = 0.05
_AVOID_SECONDS = 60.0
_log = telemetry.logger(__name__)


class TakeOver:
    """Takes lanes over for all workers of this process."""

    def __init__(
        self,
        config: FlushConfig,
        settling: Settling,
        totals: FlushTotals,
        *,
        announce: Announce,
        on_failover: Callable[[], None],
    ) -> None:
        self._config = config
        self._settling = settling
        self._totals = totals
        self._announce = announce
        self._on_failover = on_failover
        self._avoided_until: dict[int, float] = {}

    async def __call__(self, worker: LaneWorker, sessions: LaneSessions) -> Holding:
        """The lane that the worker holds now, with nothing unflushed in it but what is pending.

        Raises ServiceError, psycopg.Error, LaneLostError; it may then be called again.
        """
        former = worker.holding
        if former is None:
            return await self._claim_first_free(sessions)
        regained = await self._regain(sessions, former)
        _answer_flushed(former)
        state = await sessions.state(former.lane)
        if state.timeline != former.timeline:
            self._fail(worker, former)
        elif regained and state.epoch == former.epoch:
            if former.loads[0].sequence <= state.sequence + 1:
                await self._resume(sessions, former, state)
                former.pid = sessions.lock_pid
                return former
            await sessions.empty(former.lane)  # All of it is here.
        holding = await (
            self._claim(sessions, former.lane) if regained else self._claim_first_free(sessions)
        )
        await self._move_on(worker, sessions, former)
        return holding

    async def _claim_first_free(self, sessions: LaneSessions) -> Holding:
        now = time.monotonic()
        free = [lane for lane in LANES if self._avoided_until.get(lane, now) <= now]
        lane = await sessions.lock_first(free)
        if lane is None:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", f"none of {len(free)} lanes is free", retry_after=1.0
            )
        return await self._claim(sessions, lane)

    async def _claim(self, sessions: LaneSessions, lane: int) -> Holding:
        """Begin an epoch of a lane that is locked."""
        state = await self.flush_leftovers(sessions, lane)
        epoch, sequence = await sessions.claim(lane)
        _log.info("lane claimed", lane=lane, epoch=epoch, sequence=sequence)
        return Holding(lane, epoch, sequence, timeline=state.timeline, pid=sessions.lock_pid)

    async def flush_leftovers(self, sessions: LaneSessions, lane: int) -> LaneState:
        """Flush what an earlier owner left in the locked lane, under the positions it promised."""
        state = await sessions.state(lane)
        for count, half in enumerate(await sessions.leftovers(lane), start=1):
            position = Position(lane, state.epoch, state.sequence + count)
            try:
                flushed = await flush(
                    sessions, position, half, self._config, self._totals, durable=True
                )
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                batches = await sessions.discard(lane, half, str(error))
                _log.exception("leftovers set aside as dead letters", lane=lane, batches=batches)
                return await self.flush_leftovers(sessions, lane)
            except psycopg.Error:
                if sessions.is_connected:
                    # Nothing wrong with the data, and yet it does not go through: whatever is
                    # the matter, the writes of today take another lane meanwhile.
                    self._avoided_until[lane] = time.monotonic() + _AVOID_SECONDS
                    _log.exception("leftovers cannot be flushed", lane=lane)
                raise
            metrics.lanes_adopted.add(1)
            _log.info("leftovers flushed", lane=lane, half=half, points=flushed.point_count)
            await self._announce(flushed)
        return state

    async def _regain(self, sessions: LaneSessions, former: Holding) -> bool:
        """Lock the lane again; False if that is needless, because somebody else has claimed it.

        Raises ServiceError UNAVAILABLE while it is locked and not claimed: somebody is about to.
        """
        deadline = time.monotonic() + _REGAIN_SECONDS
        while not await sessions.lock(former.lane):
            if (await sessions.state(former.lane)).epoch != former.epoch:
                return False
            if time.monotonic() > deadline:
                raise errors.unavailable(
                    "DEPENDENCY_UNAVAILABLE",
                    f"lane {former.lane} is locked by another session",
                    retry_after=_REGAIN_SECONDS,
                )
            # The server may not know yet that our former connection is gone.
            await sessions.evict(former.lane, former.pid)
            await asyncio.sleep(_REGAIN_PAUSE_SECONDS)
        return True

    async def _resume(self, sessions: LaneSessions, holding: Holding, state: LaneState) -> None:
        """Go on with the epoch: stage and flush again what the database does not have."""
        await sessions.empty(holding.lane)
        for load in tuple(holding.loads):
            load.proof_lsn = None  # A position in a log that a crash may have cut off.
            if load.sequence <= state.sequence:
                await self._settle(load, holding.position(load))
            elif load.batches or load is not holding.open:
                await self._flush_again(sessions, holding, load)
        if holding.open.flushed is not None:
            holding.close()
        holding.open.half = HALVES[0]
        holding.forget_done()
        _log.info("lane resumed", lane=holding.lane, epoch=holding.epoch, since=state.sequence)

    async def _flush_again(self, sessions: LaneSessions, holding: Holding, load: Load) -> None:
        load.half = HALVES[0]
        load.flushed = None
        await stage(sessions, holding, load, tuple(load.batches))
        durable = load.wants_durability
        load.flushed = await flush(
            sessions,
            holding.position(load),
            load.half,
            self._config,
            self._totals,
            durable=durable,
        )
        if durable:
            holding.durable_through(load)
        metrics.points_refilled.add(load.points)
        await self._announce(load.flushed)
        load.answer(load.flushed)

    async def _move_on(self, worker: LaneWorker, sessions: LaneSessions, former: Holding) -> None:
        """Settle what others have flushed of the former epoch; the rest is pending again."""
        moving: list[Load] = []
        for load in former.loads:
            if load.batches and await sessions.reached(former.position(load)):
                await self._settle(load, former.position(load))
            else:
                moving.append(load)
        # Only now, and without a pause: a loss in between leaves everything where it was.
        rest = [batch for load in moving for batch in load.batches]
        for load in former.loads:
            if load not in moving:
                load.release()
        former.loads.clear()
        for batch in rest:
            batch.is_staged = False
        worker.pending.put_back(rest)
        metrics.points_refilled.add(sum(batch.point_count for batch in rest))

    async def _settle(self, load: Load, position: Position) -> None:
        if load.flushed is None:
            await self._settling.settle(load, position)
            load.flushed = Flushed(position, load.points, skipped={}, changes={})
            load.is_answered = True

    def _fail(self, worker: LaneWorker, former: Holding) -> None:
        """After a failover the numbers in the rows may be those of other entities."""
        _log.warning("failover: what was not answered is not stored", lane=former.lane)
        for load in former.loads:
            for batch in load.batches:
                batch.fail(outcome_unknown() if batch.is_staged else not_stored())
        former.loads.clear()
        for batch in worker.pending.take(2**62, 2**62):
            batch.fail(not_stored())
        self._on_failover()


def _answer_flushed(former: Holding) -> None:
    """Only the word to hotcache is missing, and hotcache notices that by itself."""
    for load in former.loads:
        if load.flushed is not None and not load.is_answered:
            load.answer(load.flushed)
