"""`python -m atlas_cdc_reconciler`: the cdc-reconciler service."""

from collections.abc import Mapping
from contextlib import AsyncExitStack

from atlas.reconciler.v1 import (
    dead_letter_service_pb2_grpc,
    pipeline_service_pb2_grpc,
    reconciler_service_pb2_grpc,
)
from atlas_cdc_reconciler import metrics, pipeline_servicer
from atlas_cdc_reconciler.aggregate import Aggregator, Bounds
from atlas_cdc_reconciler.audit import Auditor
from atlas_cdc_reconciler.compaction import Compacting, Compactor
from atlas_cdc_reconciler.config import Config, RedshiftConfig
from atlas_cdc_reconciler.export import Exporter
from atlas_cdc_reconciler.leader import Leadership
from atlas_cdc_reconciler.letters import servicer as letter_servicer
from atlas_cdc_reconciler.letters.desk import LetterDesk
from atlas_cdc_reconciler.levelling import ComparableSource, Cutting
from atlas_cdc_reconciler.pipeline import Pipeline
from atlas_cdc_reconciler.pipeline_servicer import PipelineServicer
from atlas_cdc_reconciler.policies import jobs
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.reconciliation import Reconciliation
from atlas_cdc_reconciler.servicer import SERVICE, ReconcilerServicer
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.slot_watch import SlotWatch
from atlas_cdc_reconciler.source.configured import configured_sources
from atlas_cdc_reconciler.status import Instance, StatusReporter
from atlas_cdc_reconciler.upkeep import Upkeep
from atlas_common import telemetry
from atlas_common.background import Supervisor, Work
from atlas_common.config import load
from atlas_common.db import (
    AuditLog,
    Database,
    Heartbeat,
    PostgresTenants,
    PrimaryClock,
    PrimaryClockPoller,
    rights,
)
from atlas_common.errors import FatalError
from atlas_common.maintenance import PolicyStore, Runner
from atlas_common.metering import QuotaMeters
from atlas_common.rpc import authenticator, call_chain, declared_access, new_server, run, serve
from atlas_common.secrets.opened import secrets_opened
from atlas_common.token import TokenSigner

SERVICES = (SERVICE, pipeline_servicer.SERVICE, letter_servicer.SERVICE)


async def main() -> None:
    """Serve until told to stop."""
    config = load(Config)  # The environment is read here and nowhere else.
    if config.sink.redshift is not None and config.sink.kind == "redshift":
        await _with_redshift(config, config.sink.redshift)
        return
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
        primary = await stack.enter_async_context(Database.open(config.primary, name="primary"))
        warehouse = await stack.enter_async_context(DuckDbWarehouse.unopened(config.warehouse))
        clock, progress, meters = PrimaryClock(), Progress(), QuotaMeters(config.quota)
        sources = configured_sources(config, primary)
        upkeep = _upkeep(config, sources.rows, warehouse, progress)
        pipeline = Pipeline(
            sources.changes, warehouse, progress, config.gathering.backoff_seconds_max, upkeep
        )
        reconciliation = Reconciliation.of(config.reconcile, primary, warehouse, progress)
        auditor = Auditor(warehouse)
        leadership = Leadership(config.leader, config.direct, config.source_name, config.instance)
        watch = SlotWatch(config.slot, config.slot_name, primary, progress)
        reporter = StatusReporter(
            warehouse,
            progress,
            clock,
            watch,
            Instance(config.instance, lambda: leadership.leader),
            auditor=auditor,
        )
        metrics.show_progress(
            lambda: reporter.lag_seconds(progress.now.sink.beat), lambda: progress.now.phase
        )
        metrics.show_audit(
            lambda: len(auditor.last.discrepancies),
            lambda: auditor.last.open_letters,
            lambda: {held.table: held.letter_count for held in auditor.last.held_tables},
        )
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
            meters,
        )
        tenants = PostgresTenants(primary)
        chain = call_chain(
            config.rpc,
            authenticator=identity,
            tenants=tenants,
            accesses=declared_access(SERVICES),
            meters=meters,
            audit=AuditLog(primary),
        )
        server = new_server(config.rpc, chain)
        reconciler_service_pb2_grpc.add_ReconcilerServiceServicer_to_server(servicer, server)
        pipeline_service_pb2_grpc.add_PipelineServiceServicer_to_server(
            PipelineServicer(upkeep.lifecycle, progress, tenants), server
        )
        dead_letter_service_pb2_grpc.add_DeadLetterServiceServicer_to_server(
            letter_servicer.DeadLetterServicer(LetterDesk(warehouse), auditor), server
        )

        housekeeping: dict[str, Work] = {}

        async def work() -> None:
            """What only the instance does that leads: it alone has the file."""
            await warehouse.own(await leadership.claim())
            await reconciliation.verifications.use_width(config.reconcile.window_us)
            async with Supervisor() as supervisor:
                for name, task in housekeeping.items():
                    supervisor.start(name, task)
                await pipeline.run()

        background = {
            "pipeline": lambda: leadership.lead(progress, work),
            "slot watch": watch.run,
            "heartbeat": Heartbeat(primary).run,
            "primary clock": PrimaryClockPoller(primary, clock).run,
            **identity.background,
        }
        compacting = config.warehouse.compaction_interval_seconds
        if compacting:
            compactor = Compactor(
                warehouse,
                lambda: reporter.lag_seconds(progress.now.sink.beat),
                Compacting(
                    config.warehouse.compaction_rows_max,
                    config.warehouse.compaction_step_seconds,
                    config.warehouse.compaction_age_seconds,
                ),
            )
            housekeeping["compaction"] = lambda: compactor.run(compacting)
        if config.warehouse.export_directory is not None:
            exporter = Exporter(warehouse, config.warehouse.export_directory)
            housekeeping["export"] = lambda: exporter.run(config.warehouse.export_interval_seconds)
        housekeeping |= _policies(config, primary, reconciliation)
        if config.warehouse.audit_interval_seconds:
            housekeeping["audit"] = lambda: auditor.run(config.warehouse.audit_interval_seconds)
        await serve(
            server,
            config.rpc,
            services=[service.full_name for service in SERVICES],
            readiness={
                "primary": primary.check,
                "rights": rights.guard(primary, replication=True),
                "pipeline": pipeline.check,
                **identity.readiness,
            },
            background=background,
        )


async def _with_redshift(config: Config, redshift: RedshiftConfig) -> None:
    try:
        # Its driver is an extra of the package: only here it has to be there.
        from atlas_cdc_reconciler.redshift_service import serve_redshift  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise FatalError(
            f"ATLAS_SINK__KIND: redshift needs the package's extra of that name: {error}"
        ) from error
    await serve_redshift(config, redshift)


def _policies(
    config: Config, primary: Database, reconciliation: Reconciliation
) -> Mapping[str, Work]:
    """What compares the copies, and what tells of those that were not compared in time."""
    sweep, interval_seconds = reconciliation.sweep, config.reconcile.interval_seconds
    due = jobs(config, sweep)
    background = Runner(PolicyStore(primary), due, config.policies, config.instance).background
    if not interval_seconds:
        return background
    metrics.show_verified_age(sweep.verified_age_seconds)
    return {**background, "verified past": lambda: sweep.watch_budget(interval_seconds)}


def _upkeep(
    config: Config, rows: ComparableSource, warehouse: DuckDbWarehouse, progress: Progress
) -> Upkeep:
    cutting = Cutting(
        window_us=config.reconcile.window_us,
        windows_per_statement=config.reconcile.windows_per_statement,
        rows_max=config.slot.snapshot_rows_max,
        connections=config.slot.copy_connections,
    )
    streams_first_copy = config.streams_first_copy
    return Upkeep(
        config.slot, rows, warehouse, progress, cutting, streams_first_copy=streams_first_copy
    )


if __name__ == "__main__":
    run(main)
