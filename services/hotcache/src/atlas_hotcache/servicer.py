"""The calls."""

from dataclasses import replace
from typing import Any

import grpc.aio

from atlas.hotcache.v1 import hotcache_service_pb2 as pb
from atlas.hotcache.v1 import hotcache_service_pb2_grpc
from atlas_common import errors
from atlas_common.catalog import Catalog
from atlas_common.tenant import Tenant, current_tenant
from atlas_common.token import Position, TokenSigner
from atlas_hotcache import convert
from atlas_hotcache.invalidator import Invalidator
from atlas_hotcache.lag import NO_PROOF
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import CacheUnavailableError
from atlas_hotcache.reader import Reader
from atlas_hotcache.watcher import Watcher

SERVICE = pb.DESCRIPTOR.services_by_name["HotCacheService"]
_RETRY_AFTER_SECONDS = 0.2


class HotCacheServicer(hotcache_service_pb2_grpc.HotCacheServiceServicer):
    """HotCacheService."""

    def __init__(
        self,
        *,
        reader: Reader,
        invalidator: Invalidator,
        watcher: Watcher,
        catalog: Catalog,
        signer: TokenSigner,
        counts: Counts,
        default_staleness: float,
    ) -> None:
        self._reader = reader
        self._invalidator = invalidator
        self._watcher = watcher
        self._catalog = catalog
        self._signer = signer
        self._counts = counts
        self._default_staleness = default_staleness

    async def GetEntities(  # noqa: N802
        self,
        request: pb.GetEntitiesRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> pb.GetEntitiesResponse:
        """See the contract."""
        tenant = current_tenant()
        query = convert.entities_query(request, self._signer, tenant.id, self._default_staleness)
        history = self._watcher.history.source
        shown = await self._attributes(tenant, query.attributes)
        demand = replace(query.demand, join_seconds_max=self._catalog.seconds_since_read(tenant))
        answer = await self._reader.get(tenant, query.entity_ids, demand)
        if history not in {None, self._watcher.history.source}:
            # What is hot was read from a primary that is none any more, see Watcher.look().
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE",
                "the primary has just changed: ask again",
                retry_after=_RETRY_AFTER_SECONDS,
            )
        context.set_trailing_metadata(
            (
                ("x-data-source", "cache" if answer.hit_count else "primary"),
                ("x-data-lag-seconds", f"{answer.proof.lag_seconds:.3f}"),
                ("x-consistency", "at_least_as_fresh" if query.demand.positions else "eventual"),
            )
        )
        response = convert.entities_response(answer, shown)
        response.token = self._sealed(tenant, answer.newest)
        response.held_token = self._sealed(tenant, answer.held)
        if not query.attributes:
            await self._leave_out_unknown(tenant, response, shown)
        return response

    async def InvalidateEntities(  # noqa: N802
        self,
        request: pb.InvalidateEntitiesRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",  # noqa: ARG002
    ) -> pb.InvalidateEntitiesResponse:
        """See the contract."""
        position, changes = convert.invalidation(request)
        try:
            await self._invalidator.apply(position, changes)
        except CacheUnavailableError as error:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", str(error), retry_after=_RETRY_AFTER_SECONDS
            ) from error
        return pb.InvalidateEntitiesResponse()

    async def GetCacheStatus(  # noqa: N802
        self,
        request: pb.GetCacheStatusRequest,  # noqa: ARG002
        context: "grpc.aio.ServicerContext[Any, Any]",  # noqa: ARG002
    ) -> pb.GetCacheStatusResponse:
        """See the contract."""
        watcher = self._watcher
        proof = watcher.proof() if watcher.is_connected else NO_PROOF
        return convert.status_response(self._counts, is_connected=watcher.is_connected, proof=proof)

    def _sealed(self, tenant: Tenant, positions: tuple[Position, ...]) -> bytes:
        return self._signer.seal(tenant.id, positions) if positions else b""

    async def _attributes(self, tenant: Tenant, names: tuple[str, ...]) -> convert.Shown:
        """Which attributes to answer: those named, or all but those that are not hot.

        An entry may hold others: of the time when they were hot, or of one when they are about to
        be, and then not of every entity.

        Raises ServiceError NOT_FOUND / ATTRIBUTE_UNKNOWN, FAILED_PRECONDITION / ATTRIBUTE_NOT_HOT.
        """
        if not names:
            table = await self._catalog.attributes(tenant)
            return convert.Shown(table=table)
        found = await self._catalog.find_attributes(tenant, names)
        for name in names:
            if name not in found:
                raise errors.not_found(
                    "ATTRIBUTE_UNKNOWN",
                    f"there is no attribute {name!r}",
                    field="attributes",
                    attribute=name,
                )
            if not found[name].is_hot:
                raise errors.failed_precondition(
                    "ATTRIBUTE_NOT_HOT",
                    f"the attribute {name!r} is not hot",
                    field="attributes",
                    attribute=name,
                )
        return convert.Shown(only=frozenset(names))

    async def _leave_out_unknown(
        self, tenant: Tenant, response: pb.GetEntitiesResponse, shown: convert.Shown
    ) -> None:
        """Ask again about attributes that were made after the catalog was read."""
        unknown = convert.unknown_attributes(response, shown)
        if unknown:
            table = await self._catalog.attributes_with(tenant, unknown)
            convert.keep(response, convert.Shown(table=table, is_complete=True))
