"""Asks tiers where they stand to positions. No tenant's data is read for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from atlas.type.freshness import Position
from atlas_common.breaker import BreakerState
from atlas_common.errors import ServiceError
from atlas_query import store
from atlas_query.consistency import (
    Analytics,
    AtLeastAsFresh,
    Consistency,
    Source,
    WarehouseConsistency,
    staleness_bound,
)
from atlas_query.endpoint import MissedError
from atlas_query.freshness import FreshnessTracker
from atlas_query.hot import ENDPOINT as HOTCACHE
from atlas_query.hot import HotCache
from atlas_query.policy import PRIMARY
from atlas_query.router import QueryRouter
from atlas_query.standings import holds
from atlas_query.tier import PositionState, Tier, TierStanding
from atlas_query.warehouse import ENDPOINT as WAREHOUSE
from atlas_query.warehouse import Warehouse

_REFUSED = {"FRESHNESS_UNMET": PositionState.PENDING, "POSITION_LOST": PositionState.LOST}
_INFINITE = float("inf")


@dataclass(frozen=True, slots=True)
class Survey:
    """Knows every tier. `hot`, `warehouse` None: this process has none."""

    router: QueryRouter
    tracker: FreshnessTracker
    hot: HotCache | None
    warehouse: Warehouse | None
    timeout_seconds: float

    async def servers(self, consistency: Consistency) -> list[TierStanding]:
        """The primary and the replicas, asked all at a time."""
        bound = staleness_bound(consistency.requirement)
        names = [PRIMARY, *self.router.replica_names]
        standings = (self.server(name, consistency.positions, bound) for name in names)
        return list(await asyncio.gather(*standings))

    async def server(
        self, name: str, positions: Sequence[Position], bound: float | None = None
    ) -> TierStanding:
        """Where a server stands, asked now."""
        endpoint = self.router.endpoint(name)
        if endpoint is None:
            return _nobody(name)
        source = Source.PRIMARY if name == PRIMARY else Source.REPLICA
        breaker, running = endpoint.breaker.state.name, endpoint.reads_running
        try:
            answer, progress = await endpoint.polled(
                lambda: store.position_standing(endpoint.database, positions), self.timeout_seconds
            )
        except MissedError:
            return self.known(name, positions, bound, is_available=False)
        lag = 0.0 if source is Source.PRIMARY else self.tracker.lag_of(progress.beat)
        state = PositionState(answer)
        if progress.beat.timeline < self.router.beat_timeline and source is Source.REPLICA:
            state = PositionState.PENDING  # What it holds may be of a history that has ended.
        is_fresh = state is PositionState.REACHED and (bound is None or lag <= bound)
        return TierStanding(
            Tier(source, name, True, lag, breaker),
            state,
            progress.positions,
            fresh_in_seconds=None if is_fresh else self.tracker.fresh_in(name, positions, bound),
            reads_running=running,
        )

    def known(
        self,
        name: str,
        positions: Sequence[Position],
        bound: float | None = None,
        *,
        is_available: bool | None = None,
    ) -> TierStanding:
        """Where a server stands as its poller saw it last; nobody is asked."""
        endpoint = self.router.endpoint(name)
        if endpoint is None:
            return _nobody(name)
        sighting = self.tracker.sighting(name)
        if is_available is None:
            is_available = sighting.is_reachable and endpoint.is_closed
        source = Source.PRIMARY if name == PRIMARY else Source.REPLICA
        is_fresh = source is Source.PRIMARY and is_available
        lag = 0.0 if is_fresh else self.tracker.lag_of(sighting.beat)
        may_hold = holds(sighting.positions, positions)
        return TierStanding(
            Tier(source, name, is_available, lag, endpoint.breaker.state.name),
            None if may_hold or not is_available else PositionState.PENDING,
            sighting.positions,
            fresh_in_seconds=self.tracker.fresh_in(name, positions, bound),
            reads_running=endpoint.reads_running,
        )

    async def cache(self, consistency: Consistency) -> TierStanding | None:
        """Where the cache stands; None: there is none."""
        if self.hot is None:
            return None
        shortfall, lag = await asyncio.gather(
            self.hot.shortfall(consistency, self.timeout_seconds),
            self.hot.lag_seconds(self.timeout_seconds),
        )
        is_available = shortfall is not None and lag is not None
        tier = Tier(
            Source.CACHE,
            HOTCACHE,
            is_available,
            _INFINITE if lag is None else lag,
            self.hot.breaker.state.name,
        )
        if not is_available:
            return TierStanding(tier, None)
        if shortfall:
            return TierStanding(tier, PositionState.PENDING, why=shortfall)
        return TierStanding(tier, PositionState.REACHED, consistency.positions)

    async def cache_of(self, positions: tuple[Position, ...], token: bytes) -> TierStanding | None:
        """The same for positions alone, however stale the rest."""
        return await self.cache(Consistency(AtLeastAsFresh(positions, token)))

    async def analytics(
        self, requirement: Analytics, wait_seconds: float = 0.0
    ) -> TierStanding | None:
        """Where the warehouse stands, at the latest after so many seconds; None: there is none."""
        if self.warehouse is None:
            return None
        breaker = self.warehouse.breaker
        try:
            proof = await self.warehouse.wait(WarehouseConsistency(requirement, wait_seconds))
        except ServiceError as error:
            state = _REFUSED.get(error.reason)
            lag = None
            if state is not None:
                lag = await self.warehouse.lag_seconds(self.timeout_seconds)
            tier = Tier(
                Source.WAREHOUSE,
                WAREHOUSE,
                state is not None,
                _INFINITE if lag is None else lag,
                breaker.state.name,
            )
            return TierStanding(tier, state, why=error.message)
        tier = Tier(Source.WAREHOUSE, WAREHOUSE, True, proof.proof.lag_seconds, breaker.state.name)
        return TierStanding(tier, PositionState.REACHED, token=proof.token)


def _nobody(name: str) -> TierStanding:
    """A replica that has left, or the primary while it is not known who that is."""
    source = Source.PRIMARY if name == PRIMARY else Source.REPLICA
    return TierStanding(Tier(source, name, False, _INFINITE, BreakerState.CLOSED.name), None)
