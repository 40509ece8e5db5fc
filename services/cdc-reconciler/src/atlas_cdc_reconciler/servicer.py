"""The ReconcilerService: checks, hands over to the domain, converts."""
# ruff: noqa: N802, ARG002 - names and arguments of gRPC.

import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc.aio

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc as pb_grpc
from atlas_cdc_reconciler import convert
from atlas_cdc_reconciler import convert_reconciliation as messages
from atlas_cdc_reconciler.aggregate import Aggregator
from atlas_cdc_reconciler.reconciliation import Reconciliation
from atlas_cdc_reconciler.status import StatusReporter
from atlas_common import errors
from atlas_common.metering import QuotaMeters
from atlas_common.tenant import current_tenant
from atlas_common.token import TokenSigner

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = pb.DESCRIPTOR.services_by_name["ReconcilerService"]


class ReconcilerServicer(pb_grpc.ReconcilerServiceServicer):
    """See reconciler_service.proto for what the calls promise."""

    def __init__(
        self,
        aggregator: Aggregator,
        reconciliation: Reconciliation,
        reporter: StatusReporter,
        signer: TokenSigner,
        meters: QuotaMeters,
    ) -> None:
        self._aggregator = aggregator
        self._reconciliation = reconciliation
        self._reporter = reporter
        self._signer = signer
        self._meters = meters

    async def Aggregate(
        self, request: pb.AggregateRequest, context: Context
    ) -> AsyncIterator[pb.AggregateResponse]:
        """At least one message, so that there is always metadata."""
        tenant = current_tenant()
        query = convert.aggregate_query(tenant, request)
        demand = convert.demand(tenant, request, self._signer)
        self._meters.check_warehouse(tenant)
        spent = partial(self._meters.charge_warehouse, tenant)
        async with self._aggregator.answer(query, demand, spent) as answer:
            lag_seconds = self._reporter.lag_seconds(answer.served.beat)
            context.set_trailing_metadata(_trailers(lag_seconds))
            metadata = convert.read_metadata(tenant, answer.served, lag_seconds, self._signer)
            first = True
            async for rows in answer.pieces:
                response = convert.aggregate_response(rows)
                if first:
                    response.metadata.CopyFrom(metadata)
                    first = False
                yield response
            if first:
                yield pb.AggregateResponse(metadata=metadata)

    async def Reconcile(
        self, request: pb.ReconcileRequest, context: Context
    ) -> AsyncIterator[pb.ReconcileResponse]:
        """Windows as they are compared, then the summary."""
        tenant = current_tenant()
        through_us = messages.through_us(request)
        events = self._reconciliation.reconciler.reconcile(
            tenant, through_us, from_start=request.from_start
        )
        async with aclosing(events):  # A caller that goes away must not leave its lock behind.
            async for event in events:
                yield messages.reconcile_response(event)

    async def GetReconciliationReport(
        self, request: pb.GetReconciliationReportRequest, context: Context
    ) -> pb.GetReconciliationReportResponse:
        """A page of what an earlier run found."""
        tenant = current_tenant()
        report_id, after, size = messages.report_page(request)
        found = await self._reconciliation.reports.get(
            tenant, report_id, after=after, differences_max=size
        )
        if found is None:
            what = f"no report {report_id} of this tenant" if report_id else "no report yet"
            raise errors.not_found("REPORT_UNKNOWN", f"{what}, or it is forgotten")
        return messages.report_response(*found, after)

    async def RepairRange(
        self, request: pb.RepairRangeRequest, context: Context
    ) -> AsyncIterator[pb.RepairRangeResponse]:
        """Windows as they are repaired, then the summary."""
        events = self._reconciliation.repairer.repair(
            current_tenant(), messages.repair_request(request)
        )
        async with aclosing(events):
            async for event in events:
                yield messages.repair_response(event)

    async def GetVerification(
        self, request: pb.GetVerificationRequest, context: Context
    ) -> pb.GetVerificationResponse:
        """Up to where the caller's tenant is proven equal."""
        return convert.verification_response(
            await self._reconciliation.verifications.verification(current_tenant())
        )

    async def ListVerifications(
        self, request: pb.ListVerificationsRequest, context: Context
    ) -> pb.ListVerificationsResponse:
        """Up to where all tenants are proven equal."""
        found = await self._reconciliation.verifications.all(convert.verifications_max(request))
        return convert.verifications_response(*found, self._reconciliation.budget_seconds)

    async def GetPipelineStatus(
        self, request: pb.GetPipelineStatusRequest, context: Context
    ) -> pb.GetPipelineStatusResponse:
        """How far the warehouse is."""
        return convert.pipeline_status_response(await self._reporter.status())


def _trailers(lag_seconds: float) -> tuple[tuple[str, str], ...]:
    lag = f"{lag_seconds:.3f}" if math.isfinite(lag_seconds) else "inf"
    return (
        ("x-data-source", "warehouse"),
        ("x-data-lag-seconds", lag),
        ("x-consistency", "analytics"),
    )
