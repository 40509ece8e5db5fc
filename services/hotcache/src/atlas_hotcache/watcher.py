"""Follows the primary, makes up for what the cache was not told, and makes it forget the rest.

Three paths lead from a flush to the cache. Ingest tells of it right after the commit. A flush that
stays untold is found by its position, which the poll sees and the marks do not reach; the primary
remembers of its latest flushes what each changed (recent_flushes), so exactly those entities get
their tombstones, and the mark moves. Where it does not remember, or too much, everything is
forgotten. That entries expire is the third path, and none that anything is promised by.

Why a catch-up leaves nothing stale. Positions, claims and flushes are read in one snapshot. The
mark moves from m to p only if that snapshot has a record of every flush between: a record is
written by its flush, in its transaction, and replaced only by that of a flush 64 sequences later,
which does not answer to the sequence that is asked for. So the tombstones of all these flushes are
put before the mark has passed any of them, each with the version that its flush gave: what an
announcement does. It holds whatever happens meanwhile:

- Ingest's own call comes late, before, between or after: it puts the same tombstones again, and
  moves the mark to where it is or not at all.
- The lane goes on, and a later call moves the mark: ours, which is for the mark it was made for
  only, does nothing, and the next turn looks again.
- Another generation begins: ours does nothing either. Tombstones of the former one would be none in
  the new one, and its marks may be behind ours.
- A fill that began before the flush is under way: it meets the tombstone, or a mark that its
  snapshot does not cover (see marks.py).
- The primary loses the flush: then it has another history, by which no entry of before is believed.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from atlas_common import telemetry
from atlas_common.token import Position
from atlas_hotcache.lag import NO_PROOF, PollHistory, PrimaryView, Proof
from atlas_hotcache.marks import CacheState, is_between, lost, moves_over
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import (
    CacheUnavailableError,
    Missed,
    Primary,
    PrimaryUnavailableError,
    ServerStatus,
)
from atlas_hotcache.shards import Shard, Shards

_log = telemetry.logger(__name__)


class CatchUp(NamedTuple):
    """When missing flushes are made up for, and how many entities they may have changed."""

    after_seconds: float
    entities_max: int


class Watcher:
    """Polls the primary's positions and the cache's state.

    To forget is to begin a new generation whose marks are the primary's positions. The order makes
    it safe, whatever runs at the same time (see marks.py): first the positions are read, then the
    generation is changed; whoever fills under the new one takes its snapshot after that, so its
    values reflect those positions. Two watchers of two instances cannot undo each other's work: a
    generation is only ended by whom it was named to.
    """

    def __init__(
        self,
        primary: Primary,
        shards: Shards,
        *,
        interval_seconds: float,
        patience_seconds: float,
        catch_up: CatchUp,
        clock: Callable[[], float],
        counts: Counts,
        on_new_history: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_new_history`: called when the primary has another one, before it is believed."""
        self._primary = primary
        self._shards = shards
        self._interval_seconds = interval_seconds
        self._patience_seconds = patience_seconds
        self._catch_up_when = catch_up
        self._clock = clock
        self._counts = counts
        self._on_new_history = on_new_history
        self._wake = asyncio.Event()
        self._problem: str | None = None
        self.history = PollHistory()

    @property
    def is_connected(self) -> bool:
        """Whether every cache server answered when it was asked last."""
        return all(shard.is_connected for shard in self._shards)

    def proof(self) -> Proof:
        """What the states that were read last prove now, the weakest of the shards."""
        now = self._clock()
        return max(
            (
                self.history.proof(shard.state.marks, now) if shard.state else NO_PROOF
                for shard in self._shards
            ),
            key=lambda proof: proof.lag_seconds,
        )

    async def run(self) -> None:
        """Watch until cancelled, through outages of either side."""
        while True:
            self._wake.clear()
            try:
                await self.step()
            except (PrimaryUnavailableError, CacheUnavailableError) as error:
                self._tell(str(error))
            else:
                self._tell(None)
            await self._rest()

    async def step(self) -> None:
        """Look at both sides once. Raises PrimaryUnavailableError, CacheUnavailableError.

        A shard that does not answer keeps no other from being looked at.
        """
        # What the cache held before the primary is asked: only that must be found there.
        befores = await asyncio.gather(*map(self._before, self._shards))
        view = await self.look()
        looks = [
            self._tend(shard, before, view)
            for shard, before in zip(self._shards, befores, strict=True)
        ]
        outcomes = await asyncio.gather(*looks, return_exceptions=True)
        behind = [
            shard
            for shard, outcome in zip(self._shards, outcomes, strict=True)
            if outcome is None and self._is_behind(shard)
        ]
        if behind:
            await self._catch_up(behind)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def look(self) -> PrimaryView:
        """Ask the primary now. Raises PrimaryUnavailableError."""
        view = await self._primary.view()
        self._observe(view)
        return view

    def distrust(self, reason: str, shard: Shard | None = None) -> None:
        """Forget everything, or all of one shard, at once; returns before it is done."""
        for one in self._shards if shard is None else (shard,):
            one.distrusted = reason
        self._wake.set()

    def mind_gap(self, shard: Shard, reason: str) -> None:
        """Make up for what is missing in a shard at once; returns before it is done."""
        shard.gap = reason
        self._wake.set()

    def wake(self) -> None:
        """Look now rather than at the next turn: something does not fit."""
        self._wake.set()

    def _observe(self, view: PrimaryView) -> None:
        if self.history.source not in {None, view.source}:
            # First: entries of the new history are believed from the next line on, and a failover
            # may have lost a promotion's last batches, which the remembered catalog counts on.
            self._on_new_history()
        self.history.observe(view)

    async def _before(self, shard: Shard) -> CacheState | None:
        if shard.state is not None:
            return shard.state
        try:
            return (await _ask(shard)).state
        except CacheUnavailableError:
            return None  # The primary is looked at all the same: its history must not have holes.

    async def _tend(self, shard: Shard, before: CacheState | None, view: PrimaryView) -> None:
        status = await _ask(shard)
        reason = self._distrust(shard, before, view, status)
        shard.state = status.state
        if reason is not None:
            await self._forget(shard, status.run_id, view, reason)

    async def _forget(self, shard: Shard, run_id: str, view: PrimaryView, reason: str) -> None:
        state, shard.state = shard.state, None
        shard.distrusted = shard.gap = None
        marks = tuple(view.positions.values())
        try:
            ended = await shard.cache.forget(state, run_id, view.source, marks)
        except CacheUnavailableError:
            shard.distrusted = shard.distrusted or reason
            raise
        if ended:
            self._counts.forgot()
            _log.info("generation began", reason=reason)

    def _distrust(
        self,
        shard: Shard,
        before: CacheState | None,
        view: PrimaryView,
        status: ServerStatus,
    ) -> str | None:
        """Why the current generation is not believed any more, or None."""
        state = status.state
        if state is None:
            return "the cache is empty"
        if state.run_id != status.run_id or state.source != view.source:
            which = "cache server" if state.run_id != status.run_id else "primary"
            return f"another {which}"
        if before is not None and before.generation == state.generation:
            position = lost(before, view.positions, view.claims)
            if position is not None:
                return f"the primary lost sequence {position.sequence} of lane {position.lane}"
        overdue = self.history.overdue_seconds(state.marks, self._clock())
        if shard.distrusted is None and overdue > self._patience_seconds:
            return f"an invalidation is {overdue:.1f} s overdue"
        return shard.distrusted

    def _is_behind(self, shard: Shard) -> bool:
        """Whether something is missing in the shard that nobody seems to be about to tell."""
        if shard.state is None:
            return False
        if shard.gap is not None:
            return True
        overdue = self.history.overdue_seconds(shard.state.marks, self._clock())
        when = self._catch_up_when
        return when.entities_max > 0 and overdue > when.after_seconds

    async def _catch_up(self, behind: Sequence[Shard]) -> None:
        """Make up for what these shards were not told; one question to the primary for all."""
        after: dict[int, int] = {}
        for shard in behind:
            marks = shard.state.marks if shard.state else {}
            for lane in self.history.positions:
                sequence = marks[lane].sequence if lane in marks else 0
                after[lane] = min(after.get(lane, sequence), sequence)
        missed = await self._primary.missed(after, self._catch_up_when.entities_max)
        self._observe(missed.view)
        positions = {lane: missed.view.positions[lane] for lane in after}
        outcomes = await asyncio.gather(
            *(self._make_up(shard, missed, positions) for shard in behind), return_exceptions=True
        )
        for failure in outcomes:
            if failure is not None:
                raise failure

    async def _make_up(
        self, shard: Shard, missed: Missed, positions: Mapping[int, Position]
    ) -> None:
        state, view = shard.state, missed.view
        if state is None or state.source != view.source:
            return  # The next turn sees to it.
        known = {(one.position.lane, one.position.sequence) for one in missed.flushes}
        moves, unknown = moves_over(state.marks, positions, view.claims, known)
        flushes = [flush for flush in missed.flushes if is_between(flush.position, moves)]
        changes = [
            change
            for flush in flushes
            for change in flush.changes
            if self._shards.of(change.tenant_id) is shard
        ]
        if moves and not await shard.cache.make_up(state.generation, moves, changes):
            return  # Somebody else moved on. The next turn looks again.
        if flushes:
            self._counts.caught_up(len(flushes))
            _log.info("caught up", flushes=len(flushes), entities=len(changes))
        if unknown is None:
            shard.gap = None
        elif shard.gap is not None:
            await self._forget(shard, state.run_id, view, shard.gap)
        # Else it may still be told: patience has the last word.

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._interval_seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _tell(self, problem: str | None) -> None:
        """Log a change, not every turn."""
        if problem is not None and self._problem is None:
            _log.warning("cannot watch", problem=problem)
        elif problem is None and self._problem is not None:
            _log.info("watching again")
        self._problem = problem


async def _ask(shard: Shard) -> ServerStatus:
    try:
        status = await shard.cache.status()
    except CacheUnavailableError:
        shard.is_connected = False
        raise
    shard.is_connected = True
    shard.evicted_count = status.evicted_count
    return status
