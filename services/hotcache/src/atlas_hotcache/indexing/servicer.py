"""The calls of ProjectionService on indexes of cold attributes."""

from typing import Any

import grpc.aio

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas.hotcache.v1 import projection_service_pb2_grpc
from atlas_common import errors
from atlas_common.catalog import Catalog
from atlas_common.tenant import Tenant, current_tenant
from atlas_hotcache.indexing import convert
from atlas_hotcache.indexing.store import IndexStore

Context = grpc.aio.ServicerContext[Any, Any]


class IndexingServicer(projection_service_pb2_grpc.ProjectionServiceServicer):
    """The part of ProjectionService that is about indexes."""

    def __init__(self, indexes: IndexStore, catalog: Catalog) -> None:
        self._indexes = indexes
        self._catalog = catalog

    async def IndexAttribute(  # noqa: N802
        self,
        request: pb.IndexAttributeRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.IndexAttributeResponse:
        """See the contract."""
        tenant, name = current_tenant(), convert.attribute_name(request)
        attribute_id = await self.attribute(tenant, name)
        if request.dry_run:
            estimate = await self._indexes.estimate(tenant, attribute_id)
            return pb.IndexAttributeResponse(index=convert.estimate_message(estimate, name))
        index = await self._indexes.start(tenant, attribute_id)
        return pb.IndexAttributeResponse(index=convert.index_message(index, name))

    async def DropAttributeIndex(  # noqa: N802
        self,
        request: pb.DropAttributeIndexRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.DropAttributeIndexResponse:
        """See the contract."""
        tenant, name = current_tenant(), convert.attribute_name(request)
        index = await self._indexes.drop(tenant, await self.attribute(tenant, name))
        if index is None:
            raise _unknown(name)
        return pb.DropAttributeIndexResponse(index=convert.index_message(index, name))

    async def GetAttributeIndex(  # noqa: N802
        self,
        request: pb.GetAttributeIndexRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.GetAttributeIndexResponse:
        """See the contract."""
        tenant, name = current_tenant(), convert.attribute_name(request)
        index = await self._indexes.get(tenant, await self.attribute(tenant, name))
        if index is None:
            raise _unknown(name)
        return pb.GetAttributeIndexResponse(index=convert.index_message(index, name))

    async def ListAttributeIndexes(  # noqa: N802
        self,
        request: pb.ListAttributeIndexesRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.ListAttributeIndexesResponse:
        """See the contract."""
        tenant = current_tenant()
        indexes = await self._indexes.all(tenant)
        if not indexes:
            return pb.ListAttributeIndexesResponse()
        known = (await self._catalog.attributes(tenant)).by_id
        messages = [
            convert.index_message(index, known[index.attribute_id].name)
            for index in indexes
            if index.attribute_id in known
        ]
        messages.sort(key=lambda message: message.attribute)
        return pb.ListAttributeIndexesResponse(indexes=messages)

    async def attribute(self, tenant: Tenant, name: str) -> int:
        """The id of an attribute. Raises ServiceError NOT_FOUND / ATTRIBUTE_UNKNOWN."""
        found = await self._catalog.find_attributes(tenant, [name])
        if name not in found:
            raise errors.not_found(
                "ATTRIBUTE_UNKNOWN",
                f"there is no attribute {name!r}: define it with BatchUpsertAttributes",
                field="attribute",
                attribute=name,
            )
        return found[name].attribute_id


def _unknown(name: str) -> errors.ServiceError:
    return errors.not_found(
        "JOB_UNKNOWN",
        f"attribute {name!r} has no index: make one with IndexAttribute",
        field="attribute",
        attribute=name,
    )
