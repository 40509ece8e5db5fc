"""Calls that begin jobs on the projection and follow them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_client.call import Caller
from atlas_client.errors import AtlasError
from atlas_client.projection.promotion import (
    PIN_NUMBERS,
    Pin,
    Pinned,
    PromotionDecision,
    PromotionReport,
    decision_of,
    pinned_of,
    report_of,
)
from atlas_client.projection.records import (
    AttributeIndex,
    ProjectionJob,
    index_of,
    job_of,
    no_index,
)

if TYPE_CHECKING:  # This class exists for type checkers alone.
    from atlas.hotcache.v1.projection_service_pb2_grpc import ProjectionServiceAsyncStub

FOLLOW_SECONDS = 0.5
_PAGE = 50


class ProjectionAdmin:
    """Administers one tenant's projection; AtlasClient.projection makes it.

    Calls that begin work return at once, with a job that goes on without this client. They may be
    repeated: the same work is not begun twice. Every method raises AtlasError.
    """

    def __init__(self, stub: "ProjectionServiceAsyncStub", caller: Caller) -> None:
        self._stub = stub
        self._caller = caller

    async def promote(
        self, attribute: str, *, dry_run: bool = False, timeout: float | None = None
    ) -> ProjectionJob:
        """Turn a cold attribute hot; with `dry_run`, count what that would touch.

        Raises AtlasError with ATTRIBUTE_UNKNOWN, JOB_CONFLICT, BATCH_TOO_LARGE.
        """
        request = pb.PromoteAttributeRequest(attribute=attribute, dry_run=dry_run)
        answer = await self._caller.unary(self._stub.PromoteAttribute, request, timeout=timeout)
        return job_of(answer.job)

    async def demote(
        self, attribute: str, *, dry_run: bool = False, timeout: float | None = None
    ) -> ProjectionJob:
        """Turn a hot attribute cold; with `dry_run`, count what that would touch.

        Raises AtlasError with ATTRIBUTE_UNKNOWN, JOB_CONFLICT.
        """
        request = pb.DemoteAttributeRequest(attribute=attribute, dry_run=dry_run)
        answer = await self._caller.unary(self._stub.DemoteAttribute, request, timeout=timeout)
        return job_of(answer.job)

    async def rebuild(
        self,
        entities: Sequence[str] = (),
        *,
        dry_run: bool = False,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> ProjectionJob:
        """Make the projection of these entities (none: of all) anew from the points.

        A repetition with the same `request_id` returns the same job. At most 10,000 entities.
        """
        request = pb.RebuildProjectionRequest(
            entity_keys=entities, dry_run=dry_run, request_id=request_id or str(uuid.uuid4())
        )
        answer = await self._caller.unary(self._stub.RebuildProjection, request, timeout=timeout)
        return job_of(answer.job)

    async def verify(
        self,
        entities: Sequence[str] = (),
        *,
        sample_percent: int = 0,
        repair: bool = False,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> ProjectionJob:
        """Compare points, projection and cache of these entities (none: of all).

        `sample_percent` takes a part of them, always the same; `repair` puts right what differs. A
        repetition with the same `request_id` returns the same job. At most 10,000 entities.
        """
        request = pb.VerifyProjectionRequest(
            entity_keys=entities,
            sample_percent=sample_percent,
            repair=repair,
            request_id=request_id or str(uuid.uuid4()),
        )
        answer = await self._caller.unary(self._stub.VerifyProjection, request, timeout=timeout)
        return job_of(answer.job)

    async def job(self, job_id: int, *, timeout: float | None = None) -> ProjectionJob:
        """Return a job with its first 100 differences. Raises AtlasError with JOB_UNKNOWN."""
        request = pb.GetProjectionJobRequest(job_id=job_id)
        answer = await self._caller.unary(self._stub.GetProjectionJob, request, timeout=timeout)
        return job_of(answer.job)

    async def jobs(self, *, timeout: float | None = None) -> AsyncIterator[ProjectionJob]:
        """Go through the jobs, the newest first."""
        request = pb.ListProjectionJobsRequest(page_size=_PAGE)
        method = self._stub.ListProjectionJobs
        while True:
            answer = await self._caller.unary(method, request, timeout=timeout)
            for message in answer.jobs:
                yield job_of(message)
            if len(answer.jobs) < _PAGE:
                return
            request.before_job_id = answer.jobs[-1].job_id

    async def cancel(self, job_id: int, *, timeout: float | None = None) -> ProjectionJob:
        """Cancel a job. Raises AtlasError with JOB_UNKNOWN, JOB_CONFLICT (a demotion)."""
        request = pb.CancelProjectionJobRequest(job_id=job_id)
        answer = await self._caller.unary(self._stub.CancelProjectionJob, request, timeout=timeout)
        return job_of(answer.job)

    async def pin(
        self, attribute: str, pin: Pin, *, reason: str = "", timeout: float | None = None
    ) -> Pinned:
        """Tell the automatic policy to leave an attribute hot or cold; NONE: to decide itself.

        Changes nothing else. Raises AtlasError with ATTRIBUTE_UNKNOWN, INVALID_FIELD.
        """
        number = PIN_NUMBERS.get(pin, pb.ATTRIBUTE_PIN_UNSPECIFIED)
        request = pb.PinAttributeRequest(attribute=attribute, pin=number, reason=reason)
        answer = await self._caller.unary(self._stub.PinAttribute, request, timeout=timeout)
        return pinned_of(attribute, answer)

    async def report(self, *, limit: int = 100, timeout: float | None = None) -> PromotionReport:
        """Return how attributes are read, and what the policy would do; at most 1,000 of them."""
        request = pb.GetPromotionReportRequest(page_size=limit)
        answer = await self._caller.unary(self._stub.GetPromotionReport, request, timeout=timeout)
        return report_of(answer)

    async def decisions(self, *, timeout: float | None = None) -> AsyncIterator[PromotionDecision]:
        """Go through the audit log of pins, promotions and demotions, the newest first."""
        request = pb.ListPromotionDecisionsRequest(page_size=_PAGE)
        method = self._stub.ListPromotionDecisions
        while True:
            answer = await self._caller.unary(method, request, timeout=timeout)
            for message in answer.decisions:
                yield decision_of(message)
            if len(answer.decisions) < _PAGE:
                return
            request.before_decision_id = answer.decisions[-1].decision_id

    async def follow(
        self, job_id: int, *, every_seconds: float = FOLLOW_SECONDS, timeout: float | None = None
    ) -> AsyncIterator[ProjectionJob]:
        """Look at a job again and again until it is over; `timeout` is that of each look."""
        while True:
            job = await self.job(job_id, timeout=timeout)
            yield job
            if job.is_over:
                return
            await asyncio.sleep(every_seconds)

    async def index(
        self, attribute: str, *, dry_run: bool = False, timeout: float | None = None
    ) -> AttributeIndex:
        """Index a cold attribute, so that filters may be over it; with `dry_run`, estimate that.

        Raises AtlasError with ATTRIBUTE_UNKNOWN, INVALID_FIELD (it is hot), BATCH_TOO_LARGE (there
        are as many indexes as may be).
        """
        request = pb.IndexAttributeRequest(attribute=attribute, dry_run=dry_run)
        answer = await self._caller.unary(self._stub.IndexAttribute, request, timeout=timeout)
        return index_of(answer.index)

    async def drop_index(self, attribute: str, *, timeout: float | None = None) -> AttributeIndex:
        """Drop the index of an attribute. Raises AtlasError with JOB_UNKNOWN: there is none."""
        request = pb.DropAttributeIndexRequest(attribute=attribute)
        answer = await self._caller.unary(self._stub.DropAttributeIndex, request, timeout=timeout)
        return index_of(answer.index)

    async def indexes(self, *, timeout: float | None = None) -> list[AttributeIndex]:
        """All indexes of the tenant, by attribute."""
        request = pb.ListAttributeIndexesRequest()
        answer = await self._caller.unary(self._stub.ListAttributeIndexes, request, timeout=timeout)
        return [index_of(message) for message in answer.indexes]

    async def follow_index(
        self, attribute: str, *, every_seconds: float = FOLLOW_SECONDS, timeout: float | None = None
    ) -> AsyncIterator[AttributeIndex]:
        """Look at an index again and again until it is ready, has failed, or is gone."""
        request = pb.GetAttributeIndexRequest(attribute=attribute)
        while True:
            index = await self._index_or_none(request, timeout)
            yield index
            if index.is_over:
                return
            await asyncio.sleep(every_seconds)

    async def _index_or_none(
        self, request: pb.GetAttributeIndexRequest, timeout: float | None
    ) -> AttributeIndex:
        try:
            answer = await self._caller.unary(
                self._stub.GetAttributeIndex, request, timeout=timeout
            )
        except AtlasError as error:
            if error.reason != "JOB_UNKNOWN":
                raise
            return no_index(request.attribute)
        return index_of(answer.index)
