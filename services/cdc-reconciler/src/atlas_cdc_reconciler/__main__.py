"""`python -m atlas_cdc_reconciler`: the cdc-reconciler service."""

from contextlib import AsyncExitStack

from atlas.reconciler.v1 import reconciler_service_pb2_grpc
from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.aggregate import Aggregator, Bounds
from atlas_cdc_reconciler.config import Config
from atlas_cdc_reconciler.pipeline import Pipeline
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.reconciliation import Reconciliation
from atlas_cdc_reconciler.servicer import SERVICE, TENANTLESS, ReconcilerServicer
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.source.slot import SlotSource
from atlas_cdc_reconciler.status import StatusReporter
from atlas_common import telemetry
from atlas_common.config import load
from atlas_common.db import (
    Database,
    Heartbeat,
    PostgresTenants,
    PrimaryClock,
    PrimaryClockPoller,
    rights,
)
from atlas_common.rpc import authenticator, interceptors, new_server, run, serve
from atlas_common.token import TokenSigner


async def main() -> None:
    """Serve until told to stop."""
    config = load(Config)  # The environment is read here and nowhere else.
    async with AsyncExitStack() as stack:
        stack.enter_context(
            telemetry.setup("cdc-reconciler", config.telemetry, instance=config.instance)
        )
        primary = await stack.enter_async_context(Database.open(config.primary, name="primary"))
        warehouse = await stack.enter_async_context(DuckDbWarehouse.open(config.warehouse))
        clock, progress = PrimaryClock(), Progress()
        source = SlotSource(config.slot, config.direct, primary)
        pipeline = Pipeline(source, warehouse, progress, config.slot.backoff_seconds_max)
        reconciliation = Reconciliation.of(config.reconcile, primary, warehouse, progress)
        await reconciliation.verifications.use_width(config.reconcile.window_us)
        reporter = StatusReporter(warehouse, source, progress, clock)
        metrics.show_lag(lambda: reporter.lag_seconds(progress.now.sink.beat))
        servicer = ReconcilerServicer(
            Aggregator(
                warehouse,
                progress,
                Bounds(
                    config.warehouse.aggregate_rows_max,
                    config.warehouse.aggregate_seconds_max,
                    config.warehouse.percentile_points_max,
                ),
            ),
            reconciliation,
            reporter,
            TokenSigner.from_config(config.token),
        )
        chain = interceptors(
            config.rpc,
            authenticator=authenticator(config.environment),
            tenants=PostgresTenants(primary),
            tenantless=TENANTLESS,
        )
        server = new_server(config.rpc, chain)
        reconciler_service_pb2_grpc.add_ReconcilerServiceServicer_to_server(servicer, server)
        background = {
            "pipeline": pipeline.run,
            "heartbeat": Heartbeat(primary).run,
            "primary clock": PrimaryClockPoller(primary, clock).run,
        }
        if config.reconcile.interval_seconds:
            background["reconcile"] = lambda: reconciliation.reconciler.run(
                config.reconcile.interval_seconds
            )
        await serve(
            server,
            config.rpc,
            services=[SERVICE],
            readiness={
                "primary": primary.check,
                "rights": rights.guard(primary, replication=True),
                "pipeline": pipeline.check,
            },
            background=background,
        )


if __name__ == "__main__":
    run(main)
