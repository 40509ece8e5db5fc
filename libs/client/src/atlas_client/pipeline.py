"""Orders for the pipeline that feeds the warehouse."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from atlas.reconciler.v1 import pipeline_service_pb2 as pb
from atlas_client import convert
from atlas_client.call import Caller
from atlas_client.records import CopyProgress
from atlas_client.values import to_timestamp

if TYPE_CHECKING:  # This class exists for type checkers alone.
    from atlas.reconciler.v1.pipeline_service_pb2_grpc import PipelineServiceAsyncStub

BACKFILL_TIMEOUT_SECONDS = 86_400.0


class PipelineAdmin:
    """Administers the pipeline; AtlasClient.pipeline makes it. Needs no tenant.

    What is ordered is kept in the audit with `operator` and `reason`. Every method raises
    AtlasError, with JOB_CONFLICT while another order is carried out or in the wrong phase.
    """

    def __init__(self, stub: "PipelineServiceAsyncStub", caller: Caller) -> None:
        self._stub = stub
        self._caller = caller

    async def pause(
        self, *, operator: str = "", reason: str = "", timeout: float | None = None
    ) -> None:
        """Stop reading from the source until resume(), also over restarts."""
        request = pb.PausePipelineRequest(order=_order(operator, reason))
        await self._caller.unary(self._stub.PausePipeline, request, timeout=timeout)

    async def resume(
        self, *, operator: str = "", reason: str = "", timeout: float | None = None
    ) -> None:
        """Go on; let a pipeline that stopped try again."""
        request = pb.ResumePipelineRequest(order=_order(operator, reason))
        await self._caller.unary(self._stub.ResumePipeline, request, timeout=timeout)

    async def recover(
        self, *, operator: str = "", reason: str = "", timeout: float | None = None
    ) -> None:
        """Compare the whole warehouse, copy what differs, go on from there. Returns at once."""
        request = pb.RecoverPipelineRequest(order=_order(operator, reason))
        await self._caller.unary(self._stub.RecoverPipeline, request, timeout=timeout)

    async def backfill(
        self,
        *,
        tenants: Sequence[str] = (),
        tables: Sequence[str] = (),
        start: datetime | None = None,
        end: datetime | None = None,
        dry_run: bool = False,
        operator: str = "",
        reason: str = "",
        timeout: float = BACKFILL_TIMEOUT_SECONDS,
    ) -> AsyncGenerator[CopyProgress, None]:
        """Compare a part and copy what differs, telling how far it is; the last one is the outcome.

        Nothing named means all; `start` and `end` are times of ingestion, half-open. `dry_run`
        compares the history and changes nothing. The stream waits meanwhile.
        """
        request = pb.BackfillPipelineRequest(
            order=_order(operator, reason), tenants=tenants, tables=tables, dry_run=dry_run
        )
        if start is not None:
            request.start_time.CopyFrom(to_timestamp(start))
        if end is not None:
            request.end_time.CopyFrom(to_timestamp(end))
        method = self._stub.BackfillPipeline
        async for answer in self._caller.stream(method, request, timeout=timeout):
            yield convert.copy_progress(answer.progress)


def _order(operator: str, reason: str) -> pb.Order:
    return pb.Order(operator=operator, reason=reason, request_id=str(uuid.uuid4()))
