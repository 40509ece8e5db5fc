"""The calls."""

from collections.abc import Collection
from typing import Any

import grpc.aio

from atlas.hotcache.v1 import hotcache_service_pb2 as pb
from atlas.hotcache.v1 import hotcache_service_pb2_grpc
from atlas_common import errors
from atlas_common.catalog import Catalog
from atlas_common.tenant import Tenant, current_tenant
from atlas_common.token import TokenSigner
from atlas_hotcache import convert
from atlas_hotcache.invalidator import Invalidator
from atlas_hotcache.lag import NO_PROOF
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import CacheUnavailableError
from atlas_hotcache.reader import Reader
from atlas_hotcache.watcher import Watcher

SERVICE = pb.DESCRIPTOR.services_by_name["HotCacheService"]
# A flush spans tenants, and the cache's health is nobody's data.
TENANTLESS = frozenset(
    f"/{SERVICE.full_name}/{method}" for method in ("InvalidateEntities", "GetCacheStatus")
)
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
        only, never = await self._attributes(tenant, query.attributes)
        answer = await self._reader.get(tenant, query.entity_ids, query.demand)
        context.set_trailing_metadata(
            (
                ("x-data-source", "cache" if answer.hit_count else "primary"),
                ("x-data-lag-seconds", f"{answer.proof.lag_seconds:.3f}"),
                ("x-consistency", "at_least_as_fresh" if query.demand.positions else "eventual"),
            )
        )
        return convert.entities_response(answer, only, never)

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

    async def _attributes(
        self, tenant: Tenant, names: tuple[str, ...]
    ) -> tuple[Collection[str] | None, Collection[str]]:
        """The attributes to answer (None: all), and those never to: they are not hot any more.

        An entry of the time when they were may still hold a value, which nobody keeps current.
        Raises ServiceError NOT_FOUND / ATTRIBUTE_UNKNOWN, FAILED_PRECONDITION / ATTRIBUTE_NOT_HOT.
        """
        if not names:
            table = await self._catalog.attributes(tenant)
            return None, {name for name, one in table.by_name.items() if not one.is_hot}
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
        return frozenset(names), ()
