"""Applies what flushes changed."""

import asyncio
from collections.abc import Sequence

from atlas_common.token import Position
from atlas_hotcache.marks import Outcome, follows
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import Change, PrimaryUnavailableError
from atlas_hotcache.shards import Shard, Shards
from atlas_hotcache.watcher import Watcher


class Invalidator:
    """Puts tombstones and moves marks; leaves what that is not enough for to the watcher."""

    def __init__(self, shards: Shards, watcher: Watcher, counts: Counts, changes_max: int) -> None:
        self._shards = shards
        self._watcher = watcher
        self._counts = counts
        self._changes_max = changes_max

    async def apply(self, position: Position, changes: Sequence[Change]) -> None:
        """Apply one flush. May be repeated. Raises CacheUnavailableError when it is not applied.

        In every shard, also where it changed nothing: the mark is what entries are believed by. One
        that does not answer keeps no other from being told. A call that is lost altogether is
        noticed by the watcher, and by the lane's next call.
        """
        self._counts.invalidated(len(changes))
        if len(changes) > self._changes_max:
            self._watcher.distrust("a flush changed too many entities")
            return
        by_shard: dict[Shard, list[Change]] = {shard: [] for shard in self._shards}
        for change in changes:
            by_shard[self._shards.of(change.tenant_id)].append(change)
        outcomes = await asyncio.gather(
            *(self._apply(shard, position, its) for shard, its in by_shard.items()),
            return_exceptions=True,
        )
        for failure in outcomes:
            if failure is not None:
                raise failure

    async def _apply(self, shard: Shard, position: Position, changes: Sequence[Change]) -> None:
        outcome = await shard.cache.invalidate(position, changes)
        if outcome is Outcome.CLAIMED:
            outcome = await self._follow(shard, position)
        if outcome is Outcome.GAP:
            self._watcher.mind_gap(
                shard, f"lane {position.lane} came to {position.sequence} over a gap"
            )

    async def _follow(self, shard: Shard, position: Position) -> Outcome:
        """The lane has a new owner: its first position follows the mark if the primary says so."""
        try:
            claims = (await self._watcher.look()).claims
        except PrimaryUnavailableError:
            return Outcome.GAP
        state = (await shard.cache.status()).state
        if state is None:
            return Outcome.EMPTY
        mark = state.marks.get(position.lane)
        if mark is not None and mark.epoch < position.epoch:
            if follows(state, position, claims):
                return await shard.cache.advance(position, after=mark)
            return Outcome.GAP
        return Outcome.DUPLICATE  # Somebody forgot, or this call was made twice.
