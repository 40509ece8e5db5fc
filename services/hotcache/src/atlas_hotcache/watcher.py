"""Follows the primary, and makes the cache forget whatever is not proven any more."""

import asyncio
from collections.abc import Callable

from atlas_common import telemetry
from atlas_hotcache.lag import NO_PROOF, PollHistory, PrimaryView, Proof
from atlas_hotcache.marks import CacheState, lost
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import (
    Cache,
    CacheUnavailableError,
    Primary,
    PrimaryUnavailableError,
    ServerStatus,
)

_log = telemetry.logger(__name__)


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
        cache: Cache,
        *,
        interval_seconds: float,
        patience_seconds: float,
        clock: Callable[[], float],
        counts: Counts,
        on_new_history: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_new_history`: called when the primary has another one, before it is believed."""
        self._primary = primary
        self._cache = cache
        self._interval_seconds = interval_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._counts = counts
        self._on_new_history = on_new_history
        self._state: CacheState | None = None
        self._distrusted: str | None = None
        self._wake = asyncio.Event()
        self._problem: str | None = None
        self.history = PollHistory()
        self.evicted_count: int | None = None
        """What the cache server had evicted when it was asked last; None if never."""
        self.is_connected = False
        """Whether the cache server answered when it was asked last."""

    def proof(self) -> Proof:
        """What the state that was read last proves now."""
        return self.history.proof(self._state.marks, self._clock()) if self._state else NO_PROOF

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
        """Look at both sides once. Raises PrimaryUnavailableError, CacheUnavailableError."""
        # What the cache held before the primary is asked: only that must be found there.
        before = self._state or (await self._ask_cache_if_it_answers())
        view = await self.look()
        status = await self._ask_cache()
        reason = self._distrust(before, view, status)
        if reason is None:
            self._state = status.state
            return
        self._distrusted = None
        marks = tuple(view.positions.values())
        if await self._cache.forget(status.state, status.run_id, view.source, marks):
            self._counts.forgot()
            _log.info("generation began", reason=reason)
        self._state = None

    async def look(self) -> PrimaryView:
        """Ask the primary now. Raises PrimaryUnavailableError."""
        view = await self._primary.view()
        if self.history.source not in {None, view.source}:
            # First: entries of the new history are believed from the next line on, and a failover
            # may have lost a promotion's last batches, which the remembered catalog counts on.
            self._on_new_history()
        self.history.observe(view)
        return view

    def distrust(self, reason: str) -> None:
        """Forget everything at once; returns before it is done."""
        self._distrusted = reason
        self._wake.set()

    def wake(self) -> None:
        """Look now rather than at the next turn: something does not fit."""
        self._wake.set()

    def _distrust(
        self, before: CacheState | None, view: PrimaryView, status: ServerStatus
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
        if self._distrusted is None and overdue > self._patience_seconds:
            return f"an invalidation is {overdue:.1f} s overdue"
        return self._distrusted

    async def _ask_cache(self) -> ServerStatus:
        try:
            status = await self._cache.status()
        except CacheUnavailableError:
            self.is_connected = False
            raise
        self.is_connected = True
        self.evicted_count = status.evicted_count
        return status

    async def _ask_cache_if_it_answers(self) -> CacheState | None:
        try:
            return (await self._ask_cache()).state
        except CacheUnavailableError:
            return None  # The primary is looked at all the same: its history must not have holes.

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
