"""All watchers of this process: let in within bounds, told by one looker, ended together."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from atlas_common import errors
from atlas_common.catalog import AttributeDef, Catalog
from atlas_common.db import PositionLostError
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_query.config import WatchConfig
from atlas_query.consistency import AtLeastAsFresh, Consistency
from atlas_query.endpoint import Serving
from atlas_query.freshness import FreshnessTracker
from atlas_query.readings import Mask
from atlas_query.router import QueryRouter
from atlas_query.watch.board import Board
from atlas_query.watch.change import Pair
from atlas_query.watch.looker import Looker, position_lost
from atlas_query.watch.resume import Resumption
from atlas_query.watch.watcher import Batch, Room, Watcher

_RECONNECT_SECONDS = 0.1
_RETRY_AFTER_SECONDS = 1.0
_CHECK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Watched:
    """The entities and attributes of one watch, by their ids."""

    keys: dict[int, str]
    attributes: dict[int, AttributeDef]

    @property
    def pairs(self) -> frozenset[Pair]:
        """Each attribute of each entity."""
        return frozenset(
            (entity, attribute) for entity in self.keys for attribute in self.attributes
        )


class Watches:
    """Opens watches. `run` looks for changes, as long as there are any watches."""

    def __init__(
        self,
        router: QueryRouter,
        catalog: Catalog,
        tracker: FreshnessTracker,
        config: WatchConfig,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router = router
        self._catalog = catalog
        self._tracker = tracker
        self._config = config
        self._monotonic = monotonic
        self._board = Board()
        self._looker = Looker(router, tracker.standings, self._board, config)
        self._count = 0
        self._entering_pairs = 0
        self._is_draining = False

    @property
    def count(self) -> int:
        """Watches that are open."""
        return self._count

    async def run(self) -> None:
        """Look for changes until cancelled."""
        await self._looker.run()

    def drain(self) -> None:
        """End all watches: the process is stopping."""
        self._is_draining = True
        for watcher in self._board.everyone():
            watcher.stop(_stopping())

    async def watched(self, tenant: Tenant, keys: Sequence[str], mask: Mask) -> Watched:
        """What is watched, by ids. Raises NOT_FOUND / ENTITY_UNKNOWN, BATCH_TOO_LARGE."""
        ids = await self._catalog.entity_ids(tenant, keys)
        for key in keys:
            if key not in ids:
                raise errors.not_found(
                    "ENTITY_UNKNOWN",
                    f"there is no entity {key!r}: create it, or leave it out",
                    field="entity_keys",
                    entity_key=key,
                )
        if mask.named is not None:
            chosen = mask.named
        else:
            table = await self._catalog.attributes(tenant)
            chosen = tuple(a for a in table.by_id.values() if mask.is_all or a.is_hot)
        pairs, pairs_max = len(ids) * len(chosen), self._config.watch_pairs_max
        if pairs > pairs_max:
            raise errors.invalid_argument(
                "BATCH_TOO_LARGE",
                f"{len(ids)} entities times {len(chosen)} attributes is more than {pairs_max}:"
                " watch fewer at a time",
                field="entity_keys",
                pairs=pairs,
                pairs_max=pairs_max,
            )
        attributes = {attribute.attribute_id: attribute for attribute in chosen}
        return Watched({entity_id: key for key, entity_id in ids.items()}, attributes)

    async def batches(
        self,
        tenant: Tenant,
        watched: Watched,
        resumption: Resumption | None,
        heartbeat_seconds: float,
    ) -> AsyncGenerator[Batch, None]:
        """What is to be sent, without an end; an empty one is a heartbeat.

        Raises ServiceError: RESOURCE_EXHAUSTED / OVERLOADED (too many watches, or too slow a
        reader), FAILED_PRECONDITION / POSITION_LOST, UNAVAILABLE / DEPENDENCY_UNAVAILABLE when the
        process stops.
        """
        with self._counted():
            with self._entering(len(watched.pairs)):
                watcher = await self._watcher(tenant, watched, resumption)
            with self._joined(watcher):  # From here on the board counts its attributes.
                while True:
                    yield await watcher.take(heartbeat_seconds)

    async def _watcher(
        self, tenant: Tenant, watched: Watched, resumption: Resumption | None
    ) -> Watcher:
        room = Room(self._config.pending_changes_max, self._config.pending_bytes_max)
        if resumption is None:
            return Watcher(tenant, watched.pairs, room)
        await self._check(tenant, resumption)
        floor, reason = await self._floor(resumption)
        return Watcher(
            tenant,
            watched.pairs,
            room,
            positions=resumption.positions,
            floor=floor,
            restart_reason=reason,
        )

    async def _floor(self, resumption: Resumption) -> tuple[datetime | None, str]:
        """From where on points are news to the watcher; or why that cannot be told."""
        standings = self._tracker.standings
        ends = self._monotonic() + _CHECK_SECONDS
        while not standings.is_known and (left := ends - self._monotonic()) > 0:
            await self._tracker.wait_progress(left, of_primary=True)  # We have just begun.
        floor = resumption.floor or standings.floor_after(resumption.positions)
        if not standings.is_known:
            return None, "it is not known where the primary stands"
        if floor is None:
            return None, "the token is older than what this process remembers"
        if not standings.is_sure(floor):
            return None, "the primary, or its clock, is another than at the time of the token"
        return floor, ""

    async def _check(self, tenant: Tenant, resumption: Resumption) -> None:
        """Raise POSITION_LOST, or FRESHNESS_UNMET, here: in a look it would be everybody's."""

        async def nothing(serving: Serving) -> None:
            del serving

        wanted = AtLeastAsFresh(resumption.positions, resumption.token)
        try:
            await self._router.execute_query(tenant, Consistency(wanted), _CHECK_SECONDS, nothing)
        except PositionLostError:
            raise position_lost() from None

    @contextmanager
    def _joined(self, watcher: Watcher) -> Iterator[None]:
        if self._is_draining:
            raise _stopping()
        self._board.joining.append(watcher)
        self._looker.wake()
        try:
            yield
        finally:
            self._board.left(watcher)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._is_draining:
            raise _stopping()
        if self._count >= self._config.watchers_max:
            raise _full(f"{self._count} watches are open already")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @contextmanager
    def _entering(self, pairs: int) -> Iterator[None]:
        """Keep room for attributes that are not on the board yet: others come meanwhile."""
        watched = self._board.pair_count + self._entering_pairs
        if watched + pairs > self._config.pairs_max:
            raise _full(f"{watched} attributes of entities are watched already")
        self._entering_pairs += pairs
        try:
            yield
        finally:
            self._entering_pairs -= pairs


def _full(problem: str) -> ServiceError:
    return errors.resource_exhausted(
        "OVERLOADED", f"{problem}: come back later", retry_after=_RETRY_AFTER_SECONDS
    )


def _stopping() -> ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "this process is stopping: watch another, from the last resume_token",
        retry_after=_RECONNECT_SECONDS,
    )
