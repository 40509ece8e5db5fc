"""Reads of hot attributes through the hotcache service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

import grpc
import grpc.aio

from atlas.hotcache.v1 import hotcache_service_pb2 as hot_pb
from atlas.type.freshness import Position
from atlas.type.v1 import consistency_pb2
from atlas_common.breaker import Breaker
from atlas_common.tenant import Tenant
from atlas_common.token import TokenSigner
from atlas_query import convert
from atlas_query.consistency import Consistency, Source, Strong, staleness_bound
from atlas_query.proof import Proof, budget_warnings
from atlas_query.readings import Reading

if TYPE_CHECKING:  # This class exists for type checkers alone.
    from atlas.hotcache.v1.hotcache_service_pb2_grpc import HotCacheServiceAsyncStub

ENDPOINT = "hotcache"
_ANY_STALENESS_SECONDS = 86_400.0  # Beyond the cache's own time to live: the positions alone count.
_FAILURES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


@dataclass(frozen=True, slots=True)
class HotAnswer:
    """Entity id -> its hot readings, and the proof of what they are."""

    readings: Mapping[int, list[Reading]]
    proof: Proof


class HotCache:
    """Asks hotcache, for a short time only: Postgres has the same, if more slowly."""

    def __init__(
        self,
        stub: "HotCacheServiceAsyncStub",
        breaker: Breaker,
        signer: TokenSigner,
        timeout_seconds: float,
    ) -> None:
        self.breaker = breaker
        self._stub = stub
        self._signer = signer
        self._timeout_seconds = timeout_seconds

    async def get_entities(
        self,
        tenant: Tenant,
        entity_ids: Sequence[int],
        names: Sequence[str],
        consistency: Consistency,
    ) -> HotAnswer | str:
        """The answer, or for people why there is none; never raises for the cache's sake.

        `tenant`: that of the running call. `names` empty: all hot attributes.
        """
        assert not isinstance(consistency.requirement, Strong)
        permit = self.breaker.allow()
        if permit is None:
            return "hotcache is left alone after failures"
        bound = staleness_bound(consistency.requirement)
        request = convert.hot_request(
            entity_ids,
            names,
            _ANY_STALENESS_SECONDS if bound is None else bound,
            consistency.token,
        )
        try:
            response = await self._stub.GetEntities(request, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() in _FAILURES:
                self.breaker.failure(permit)
            return f"hotcache answered {error.code().name}"
        else:
            self.breaker.success(permit)
        finally:
            self.breaker.cancelled(permit)  # Of no effect where an outcome was reported.
        newest = self._signer.open(response.token, tenant.id)
        held = self._signer.open(response.held_token, tenant.id)
        return _answer(response, consistency, bound, _Extent(newest, held))

    async def shortfall(self, consistency: Consistency, timeout_seconds: float) -> str | None:
        """Why cached values are not fresh enough now, for people; "" if they are. None: no answer.

        Asked by a read of no entity: it is judged like any other, and reads nothing.
        """
        bound = staleness_bound(consistency.requirement)
        staleness = _ANY_STALENESS_SECONDS if bound is None else bound
        request = convert.hot_request((), (), staleness, consistency.token)
        try:
            response = await self._stub.GetEntities(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError:
            return None
        return response.bypass_reason

    async def lag_seconds(self, timeout_seconds: float) -> float | None:
        """How far invalidation is behind; infinite if hotcache does not know. None: no answer."""
        try:
            response = await self._stub.GetCacheStatus(
                hot_pb.GetCacheStatusRequest(), timeout=timeout_seconds
            )
        except grpc.aio.AioRpcError:
            return None
        if not response.connected or not response.HasField("lag"):
            return float("inf")
        return convert.seconds(response.lag, "lag")


class _Extent(NamedTuple):
    """What is in an answer; see GetEntitiesResponse. Empty: a release before tells neither."""

    newest: tuple[Position, ...]
    held: tuple[Position, ...]


def _answer(
    response: hot_pb.GetEntitiesResponse,
    consistency: Consistency,
    bound: float | None,
    extent: _Extent,
) -> HotAnswer | str:
    cached = sum(e.source == consistency_pb2.SOURCE_CACHE for e in response.entities)
    # The weakest part speaks for all: one cached entity, and the answer is the cache's.
    source = Source.CACHE if cached else Source.PRIMARY
    # Also of what was read from the primary: hotcache may have joined a read under way.
    lag = convert.seconds(response.lag, "lag")
    if bound is not None and lag > bound:
        return f"hotcache's lag of {lag:.1f} s exceeds {bound:.1f} s"
    read = len(response.entities) - cached
    reason = f"hotcache: {cached} of {cached + read} entities cached"
    if response.bypass_reason:
        reason += f" ({response.bypass_reason})"
    as_of = response.as_of.ToDatetime(UTC) if response.HasField("as_of") else None
    return HotAnswer(
        {entity.entity_id: convert.hot_readings(entity) for entity in response.entities},
        Proof(
            source,
            ENDPOINT,
            consistency.level,
            lag,
            as_of,
            extent.newest or consistency.positions,
            reason,
            budget_warnings(source, lag),
            (*consistency.positions, *extent.held),
        ),
    )
