"""Applies what flushes changed."""

from collections.abc import Sequence

from atlas_common.token import Position
from atlas_hotcache.marks import Outcome, follows
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import Cache, Change, PrimaryUnavailableError
from atlas_hotcache.watcher import Watcher


class Invalidator:
    """Puts tombstones and moves marks; asks the watcher to forget where that is not enough."""

    def __init__(self, cache: Cache, watcher: Watcher, counts: Counts, changes_max: int) -> None:
        self._cache = cache
        self._watcher = watcher
        self._counts = counts
        self._changes_max = changes_max

    async def apply(self, position: Position, changes: Sequence[Change]) -> None:
        """Apply one flush. May be repeated. Raises CacheUnavailableError when it is not applied.

        A call that is lost altogether is noticed by the watcher, and by the lane's next call.
        """
        self._counts.invalidated(len(changes))
        if len(changes) > self._changes_max:
            self._watcher.distrust("a flush changed too many entities")
            return
        outcome = await self._cache.invalidate(position, changes)
        if outcome is Outcome.CLAIMED:
            outcome = await self._follow(position)
        if outcome is Outcome.GAP:
            self._watcher.distrust(f"lane {position.lane} came to {position.sequence} over a gap")

    async def _follow(self, position: Position) -> Outcome:
        """The lane has a new owner: its first position follows the mark if the primary says so."""
        try:
            claims = (await self._watcher.look()).claims
        except PrimaryUnavailableError:
            return Outcome.GAP
        state = (await self._cache.status()).state
        if state is None:
            return Outcome.EMPTY
        mark = state.marks.get(position.lane)
        if mark is not None and mark.epoch < position.epoch:
            if follows(state, position, claims):
                return await self._cache.advance(position, after=mark)
            return Outcome.GAP
        return Outcome.DUPLICATE  # Somebody forgot, or this call was made twice.
