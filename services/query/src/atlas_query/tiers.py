"""The tiers this process routes to, as it knows them now."""

import asyncio

from atlas_common.breaker import BreakerState
from atlas_query.consistency import Source
from atlas_query.hot import ENDPOINT as HOTCACHE
from atlas_query.hot import HotCache
from atlas_query.policy import PRIMARY
from atlas_query.router import QueryRouter
from atlas_query.tier import Tier
from atlas_query.warehouse import ENDPOINT as WAREHOUSE
from atlas_query.warehouse import Warehouse

_FORMER = "configured-primary"
"""The server that is configured as the primary, where another one is it."""


class Tiers:
    """Lists them; those behind other services are asked, briefly."""

    def __init__(
        self,
        router: QueryRouter,
        hot: HotCache | None,
        warehouse: Warehouse | None,
        timeout_seconds: float,
    ) -> None:
        self._router = router
        self._hot = hot
        self._warehouse = warehouse
        self._timeout_seconds = timeout_seconds

    async def known(self) -> list[Tier]:
        """The primary, the replicas, and of cache and warehouse those that are configured."""
        others = await asyncio.gather(self._cache(), self._analytics())
        servers = [self._primary(), *self._replicas(), *self._fenced()]
        return [*servers, *(tier for tier in others if tier)]

    def _primary(self) -> Tier:
        state, breaker = self._router.primary_state()
        note = self._router.primary_note()
        return Tier(Source.PRIMARY, state.name, state.is_available, 0.0, breaker.name, note)

    def _replicas(self) -> list[Tier]:
        return [
            Tier(
                Source.REPLICA,
                state.name,
                state.is_available,
                state.lag_seconds,
                self._breaker(state.name),
            )
            for state in self._router.replica_states()
        ]

    def _fenced(self) -> list[Tier]:
        return [
            Tier(
                Source.REPLICA,
                _FORMER if name == PRIMARY else name,
                False,
                float("inf"),
                BreakerState.CLOSED.name,
                f"not read: {why}",
            )
            for name, why in self._router.fenced().items()
        ]

    def _breaker(self, name: str) -> str:
        endpoint = self._router.endpoint(name)
        return (BreakerState.CLOSED if endpoint is None else endpoint.breaker.state).name

    async def _cache(self) -> Tier | None:
        if self._hot is None:
            return None
        lag = await self._hot.lag_seconds(self._timeout_seconds)
        return Tier(
            Source.CACHE,
            HOTCACHE,
            lag is not None,
            float("inf") if lag is None else lag,
            self._hot.breaker.state.name,
        )

    async def _analytics(self) -> Tier | None:
        if self._warehouse is None:
            return None
        lag = await self._warehouse.lag_seconds(self._timeout_seconds)
        return Tier(
            Source.WAREHOUSE,
            WAREHOUSE,
            lag is not None,
            float("inf") if lag is None else lag,
            self._warehouse.breaker.state.name,
        )
