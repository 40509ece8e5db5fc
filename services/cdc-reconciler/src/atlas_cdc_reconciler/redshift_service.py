"""The service where the warehouse is in Redshift: it feeds the cluster, and says how far it is.

Nothing is read through it: who has a cluster reads that. It compares nothing either, for what it
found would have to be doubted in the transaction of each change that reaches back.
"""
# ruff: noqa: N802, ARG002 - names and arguments of gRPC.

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc.aio
import psycopg

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc as pb_grpc
from atlas_cdc_reconciler import convert, metrics
from atlas_cdc_reconciler.config import Config, RedshiftConfig
from atlas_cdc_reconciler.leader import Leadership
from atlas_cdc_reconciler.pipeline import Pipeline
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.servicer import SERVICE
from atlas_cdc_reconciler.sink import Counts, WarehouseError
from atlas_cdc_reconciler.sink.redshift.warehouse import RedshiftWarehouse
from atlas_cdc_reconciler.slot_watch import SlotWatch
from atlas_cdc_reconciler.source.configured import configured_sources
from atlas_cdc_reconciler.status import Instance, PipelineStatus
from atlas_common import errors, telemetry
from atlas_common.db import (
    AuditLog,
    Beat,
    Database,
    Heartbeat,
    PostgresTenants,
    PrimaryClock,
    PrimaryClockPoller,
    rights,
)
from atlas_common.metering import QuotaMeters
from atlas_common.rpc import authenticator, call_chain, declared_access, new_server, serve
from atlas_common.secrets.opened import secrets_opened

Context = grpc.aio.ServicerContext[Any, Any]
_log = telemetry.logger(__name__)


async def serve_redshift(config: Config, redshift: RedshiftConfig) -> None:
    """Serve until told to stop."""
    async with AsyncExitStack() as stack:
        stack.enter_context(
            telemetry.setup(
                "cdc-reconciler",
                config.telemetry,
                instance=config.instance,
                settings=config.describe(),
            )
        )
        await stack.enter_async_context(secrets_opened(config))
        identity = authenticator(config)
        _log.warning("the warehouse is only fed: it is not read, compared or repaired from here")
        primary = await stack.enter_async_context(Database.open(config.primary, name="primary"))
        warehouse = await stack.enter_async_context(RedshiftWarehouse.open(redshift))
        clock, progress = PrimaryClock(), Progress()
        source = configured_sources(config, primary).changes
        backoff_seconds_max = config.gathering.backoff_seconds_max
        pipeline = Pipeline(source, warehouse, progress, backoff_seconds_max)
        leadership = Leadership(config.leader, config.direct, config.source_name, config.instance)
        watch = SlotWatch(config.slot, config.slot_name, primary, progress)
        instance = Instance(config.instance, lambda: leadership.leader)
        reporter = FeedReporter(warehouse, progress, clock, watch, instance)
        metrics.show_progress(
            lambda: reporter.lag_seconds(progress.now.sink.beat), lambda: progress.now.phase
        )
        chain = call_chain(
            config.rpc,
            authenticator=identity,
            tenants=PostgresTenants(primary),
            accesses=declared_access([SERVICE]),
            meters=QuotaMeters(config.quota),
            audit=AuditLog(primary),
        )
        server = new_server(config.rpc, chain)
        pb_grpc.add_ReconcilerServiceServicer_to_server(FeedServicer(reporter), server)
        await serve(
            server,
            config.rpc,
            services=[SERVICE.full_name],
            readiness={
                "primary": primary.check,
                "rights": rights.guard(primary, replication=True),
                "pipeline": pipeline.check,
                **identity.readiness,
            },
            background={
                "pipeline": lambda: leadership.lead(progress, pipeline.run),
                "slot watch": watch.run,
                "heartbeat": Heartbeat(primary).run,
                "primary clock": PrimaryClockPoller(primary, clock).run,
                **identity.background,
            },
        )


class FeedReporter:
    """Tells how far the cluster is."""

    def __init__(
        self,
        warehouse: RedshiftWarehouse,
        progress: Progress,
        clock: PrimaryClock,
        watch: SlotWatch,
        instance: Instance,
    ) -> None:
        self._warehouse = warehouse
        self._progress = progress
        self._clock = clock
        self._watch = watch
        self._instance = instance

    def lag_seconds(self, beat: Beat) -> float:
        """How far a state of the warehouse with this heartbeat is behind; infinite if unknown."""
        return self._clock.lag_seconds(beat, time.monotonic())

    async def status(self) -> PipelineStatus:
        """The pipeline now. Raises ServiceError UNAVAILABLE while the cluster is away."""
        standing = self._progress.now
        with suppress(errors.ServiceError, psycopg.Error):
            await self._watch.look()
        try:
            by_table = (await self._warehouse.counts()).values()
            rows = await self._warehouse.row_count()
        except WarehouseError as error:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", f"{error}; the pipeline: {standing.reason}"
            ) from error
        counts = Counts(
            sum(count.read for count in by_table),
            sum(count.applied for count in by_table),
            sum(count.dead_lettered for count in by_table),
            sum(count.skipped for count in by_table),
        )
        return PipelineStatus(
            standing,
            self.lag_seconds(standing.sink.beat),
            counts,
            rows,
            self._watch.slot_name,
            self._watch.state,
            self._watch.used_share(),
            self._instance.name,
            self._instance.leader(),
            held_tables=(),
            open_letters=counts.dead_lettered,
            is_conserved=all(count.are_conserved for count in by_table),
        )


class FeedServicer(pb_grpc.ReconcilerServiceServicer):
    """Of reconciler_service.proto what can be answered without reading the warehouse."""

    def __init__(self, reporter: FeedReporter) -> None:
        self._reporter = reporter

    async def GetPipelineStatus(
        self, request: pb.GetPipelineStatusRequest, context: Context
    ) -> pb.GetPipelineStatusResponse:
        """How far the warehouse is."""
        return convert.pipeline_status_response(await self._reporter.status())

    async def Aggregate(
        self, request: pb.AggregateRequest, context: Context
    ) -> AsyncIterator[pb.AggregateResponse]:
        """Refused."""
        yield await _refused("aggregates are not served")

    async def Reconcile(
        self, request: pb.ReconcileRequest, context: Context
    ) -> AsyncIterator[pb.ReconcileResponse]:
        """Refused."""
        yield await _refused("nothing is compared")

    async def GetReconciliationReport(
        self, request: pb.GetReconciliationReportRequest, context: Context
    ) -> pb.GetReconciliationReportResponse:
        """Refused."""
        response: pb.GetReconciliationReportResponse = await _refused("nothing is compared")
        return response

    async def RepairRange(
        self, request: pb.RepairRangeRequest, context: Context
    ) -> AsyncIterator[pb.RepairRangeResponse]:
        """Refused."""
        yield await _refused("nothing is repaired")

    async def GetVerification(
        self, request: pb.GetVerificationRequest, context: Context
    ) -> pb.GetVerificationResponse:
        """Refused."""
        response: pb.GetVerificationResponse = await _refused("nothing is compared")
        return response

    async def ListVerifications(
        self, request: pb.ListVerificationsRequest, context: Context
    ) -> pb.ListVerificationsResponse:
        """Refused."""
        response: pb.ListVerificationsResponse = await _refused("nothing is compared")
        return response


async def _refused(what: str) -> Any:
    raise errors.unimplemented(
        "DEPENDENCY_UNAVAILABLE", f"{what} with the warehouse in Redshift: ask the cluster itself"
    )
