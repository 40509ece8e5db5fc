"""The PipelineService: orders for the pipeline."""
# ruff: noqa: N802, ARG002 - names and arguments of gRPC.

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from atlas.reconciler.v1 import pipeline_service_pb2 as pb
from atlas.reconciler.v1 import pipeline_service_pb2_grpc as pb_grpc
from atlas_cdc_reconciler.convert import copy_progress
from atlas_cdc_reconciler.lifecycle import Actor, Lifecycle, OrderKind
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.scope import Scope, ScopeError
from atlas_common import errors
from atlas_common.caller import acting
from atlas_common.db import PostgresTenants
from atlas_common.limits import check_bytes, check_items
from atlas_common.values import timestamp_to_us

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = pb.DESCRIPTOR.services_by_name["PipelineService"]
_PROGRESS_SECONDS = 1.0


class PipelineServicer(pb_grpc.PipelineServiceServicer):
    """See pipeline_service.proto for what the calls promise."""

    def __init__(self, lifecycle: Lifecycle, progress: Progress, tenants: PostgresTenants) -> None:
        self._lifecycle = lifecycle
        self._progress = progress
        self._tenants = tenants

    async def PausePipeline(
        self, request: pb.PausePipelineRequest, context: Context
    ) -> pb.PausePipelineResponse:
        """Stop reading."""
        await self._lifecycle.order(OrderKind.PAUSE, _actor(request.order))
        return pb.PausePipelineResponse()

    async def ResumePipeline(
        self, request: pb.ResumePipelineRequest, context: Context
    ) -> pb.ResumePipelineResponse:
        """Go on."""
        await self._lifecycle.order(OrderKind.RESUME, _actor(request.order))
        return pb.ResumePipelineResponse()

    async def RecoverPipeline(
        self, request: pb.RecoverPipelineRequest, context: Context
    ) -> pb.RecoverPipelineResponse:
        """Level everything."""
        await self._lifecycle.order(OrderKind.RECOVER, _actor(request.order))
        return pb.RecoverPipelineResponse()

    async def BackfillPipeline(
        self, request: pb.BackfillPipelineRequest, context: Context
    ) -> AsyncIterator[pb.BackfillPipelineResponse]:
        """Level a part, and tell how far it is."""
        actor = _actor(request.order)
        scope = await self._scope(request)
        work = asyncio.ensure_future(
            self._lifecycle.order(OrderKind.BACKFILL, actor, scope, dry_run=request.dry_run)
        )
        try:
            while not (await asyncio.wait({work}, timeout=_PROGRESS_SECONDS))[0]:
                copy = self._progress.now.copy
                if copy is not None:
                    yield pb.BackfillPipelineResponse(progress=copy_progress(copy))
            done = work.result()
            assert done is not None
            yield pb.BackfillPipelineResponse(progress=copy_progress(done), done=True)
        finally:
            work.cancel()

    async def _scope(self, request: pb.BackfillPipelineRequest) -> Scope:
        for field in ("tenants", "tables"):
            check_items(request, field)
        tenants = [await self._tenants.resolve(key) for key in request.tenants]
        try:
            return Scope.of(
                request.tables,
                (tenant.id for tenant in tenants),
                timestamp_to_us(request.start_time) if request.HasField("start_time") else None,
                timestamp_to_us(request.end_time) if request.HasField("end_time") else None,
            )
        except ScopeError as error:
            raise errors.invalid_argument("INVALID_FIELD", str(error), field=error.field) from error


def _actor(order: pb.Order) -> Actor:
    for field in ("operator", "reason", "request_id"):
        check_bytes(order, field, path=f"order.{field}")
    return Actor(acting(order.operator), order.reason, order.request_id)
