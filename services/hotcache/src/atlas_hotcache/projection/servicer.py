"""The calls of ProjectionService."""

from collections.abc import Callable
from typing import Any

import grpc.aio

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common import errors
from atlas_common.catalog import Catalog
from atlas_common.tenant import Tenant, current_tenant
from atlas_hotcache.indexing.servicer import IndexingServicer
from atlas_hotcache.indexing.store import IndexStore
from atlas_hotcache.projection import convert
from atlas_hotcache.projection.jobs import Job, Kind
from atlas_hotcache.projection.store import JobDraft, JobStore
from atlas_hotcache.promotion.decisions import Action, by_operator
from atlas_hotcache.promotion.desk import PromotionDesk

SERVICE = pb.DESCRIPTOR.services_by_name["ProjectionService"]
Context = grpc.aio.ServicerContext[Any, Any]


class ProjectionServicer(IndexingServicer):
    """ProjectionService. `wake`: told that there is a new job."""

    def __init__(
        self,
        store: JobStore,
        catalog: Catalog,
        wake: Callable[[], None],
        jobs_max: int,
        promotion: PromotionDesk,
        *,
        indexes: IndexStore,
    ) -> None:
        super().__init__(indexes, catalog)
        self._store = store
        self._wake = wake
        self._jobs_max = jobs_max
        self._promotion = promotion

    async def PromoteAttribute(  # noqa: N802
        self,
        request: pb.PromoteAttributeRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.PromoteAttributeResponse:
        """See the contract."""
        tenant = current_tenant()
        attribute_id = await self.attribute(tenant, convert.attribute_name(request))
        draft = JobDraft(
            Kind.PROMOTE,
            attribute_id=attribute_id,
            dry_run=request.dry_run,
            decision=by_operator(Action.PROMOTE, attribute_id),
        )
        return pb.PromoteAttributeResponse(job=await self._begun(tenant, draft))

    async def DemoteAttribute(  # noqa: N802
        self,
        request: pb.DemoteAttributeRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.DemoteAttributeResponse:
        """See the contract."""
        tenant = current_tenant()
        attribute_id = await self.attribute(tenant, convert.attribute_name(request))
        draft = JobDraft(
            Kind.DEMOTE,
            attribute_id=attribute_id,
            dry_run=request.dry_run,
            decision=by_operator(Action.DEMOTE, attribute_id),
        )
        return pb.DemoteAttributeResponse(job=await self._begun(tenant, draft))

    async def RebuildProjection(  # noqa: N802
        self,
        request: pb.RebuildProjectionRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.RebuildProjectionResponse:
        """See the contract."""
        tenant = current_tenant()
        ids = await self._entities(tenant, convert.entity_keys(request))
        draft = convert.rebuild_draft(request, ids)
        return pb.RebuildProjectionResponse(job=await self._begun(tenant, draft))

    async def VerifyProjection(  # noqa: N802
        self,
        request: pb.VerifyProjectionRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.VerifyProjectionResponse:
        """See the contract."""
        tenant = current_tenant()
        ids = await self._entities(tenant, convert.entity_keys(request))
        draft = convert.verify_draft(request, ids)
        return pb.VerifyProjectionResponse(job=await self._begun(tenant, draft))

    async def GetProjectionJob(  # noqa: N802
        self,
        request: pb.GetProjectionJobRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.GetProjectionJobResponse:
        """See the contract."""
        tenant = current_tenant()
        job = await self._store.get(tenant.id, request.job_id)
        if job is None:
            raise _unknown(request.job_id)
        keys = await self._catalog.entity_keys(tenant, convert.difference_ids(job))
        message = convert.job_message(job, await self._names(tenant, [job]), keys)
        return pb.GetProjectionJobResponse(job=message)

    async def ListProjectionJobs(  # noqa: N802
        self,
        request: pb.ListProjectionJobsRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.ListProjectionJobsResponse:
        """See the contract."""
        tenant = current_tenant()
        jobs = await self._store.page(tenant, *convert.page(request))
        names = await self._names(tenant, jobs)
        messages = [convert.job_message(job, names, {}) for job in jobs]
        return pb.ListProjectionJobsResponse(jobs=messages)

    async def CancelProjectionJob(  # noqa: N802
        self,
        request: pb.CancelProjectionJobRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.CancelProjectionJobResponse:
        """See the contract."""
        tenant = current_tenant()
        job = await self._store.cancel(tenant, request.job_id)
        if job is None:
            raise _unknown(request.job_id)
        self._wake()
        message = convert.job_message(job, await self._names(tenant, [job]), {})
        return pb.CancelProjectionJobResponse(job=message)

    async def PinAttribute(  # noqa: N802
        self,
        request: pb.PinAttributeRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.PinAttributeResponse:
        """See the contract."""
        tenant = current_tenant()
        attribute_id = await self.attribute(tenant, convert.attribute_name(request))
        return await self._promotion.pin(tenant, attribute_id, request)

    async def GetPromotionReport(  # noqa: N802
        self,
        request: pb.GetPromotionReportRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.GetPromotionReportResponse:
        """See the contract."""
        return await self._promotion.report(current_tenant(), request)

    async def ListPromotionDecisions(  # noqa: N802
        self,
        request: pb.ListPromotionDecisionsRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.ListPromotionDecisionsResponse:
        """See the contract."""
        return await self._promotion.decisions(current_tenant(), request)

    async def _begun(self, tenant: Tenant, draft: JobDraft) -> pb.ProjectionJob:
        job = await self._store.start(tenant, draft, self._jobs_max)
        # What is hot may just have changed; other processes learn of it within the time to live.
        self._catalog.drop_attributes(tenant)
        self._wake()
        return convert.job_message(job, await self._names(tenant, [job]), {})

    async def _entities(
        self, tenant: Tenant, keys: tuple[str, ...] | None
    ) -> tuple[int, ...] | None:
        if keys is None:
            return None
        found = await self._catalog.entity_ids(tenant, keys)
        for key in keys:
            if key not in found:
                raise errors.not_found(
                    "ENTITY_UNKNOWN",
                    f"there is no entity {key!r}: leave it out",
                    field="entity_keys",
                    entity_key=key,
                )
        return tuple(found[key] for key in keys)

    async def _names(self, tenant: Tenant, jobs: list[Job]) -> dict[int, str]:
        """Names of the attributes that the jobs speak of."""
        if not any(job.attribute_id is not None or job.differences for job in jobs):
            return {}
        table = await self._catalog.attributes(tenant)
        return {number: one.name for number, one in table.by_id.items()}


def _unknown(job_id: int) -> errors.ServiceError:
    return errors.not_found(
        "JOB_UNKNOWN",
        f"there is no job {job_id}: see ListProjectionJobs, the last 200 are kept",
        field="job_id",
    )
