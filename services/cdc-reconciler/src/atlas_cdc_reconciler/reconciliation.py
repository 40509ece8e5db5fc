"""The parts of reconciliation, put together."""

from dataclasses import dataclass

from atlas_cdc_reconciler.catalog_comparison import CatalogComparer
from atlas_cdc_reconciler.catalog_sides import source_catalog, warehouse_catalog
from atlas_cdc_reconciler.config import ReconcileConfig
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.reconcile import Reconciler, WindowGrid
from atlas_cdc_reconciler.repair import Repairer
from atlas_cdc_reconciler.report_store import ReportStore
from atlas_cdc_reconciler.seal import Sealer
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.source_digests import SourceDigests
from atlas_cdc_reconciler.source_rows import SourceRows
from atlas_cdc_reconciler.sweep import Sweep
from atlas_cdc_reconciler.verification_store import VerificationStore
from atlas_cdc_reconciler.warehouse_digests import WarehouseDigests
from atlas_common.db import Database


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What compares, remembers, reports and repairs."""

    verifications: VerificationStore
    reports: ReportStore
    sealer: Sealer
    reconciler: Reconciler
    sweep: Sweep
    repairer: Repairer
    budget_seconds: float
    """How old the verified past may be."""

    @classmethod
    def of(
        cls,
        config: ReconcileConfig,
        primary: Database,
        warehouse: DuckDbWarehouse,
        progress: Progress,
        *,
        window_us: int | None = None,
    ) -> "Reconciliation":
        """All parts over one primary and one warehouse; `window_us` instead of the config's."""
        verifications = VerificationStore(warehouse)
        reports = ReportStore(warehouse, config.reports_max, config.reports_days_max)
        sealer = Sealer(primary, progress, config.seal_timeout_seconds)
        timeout = config.statement_timeout_seconds
        source = SourceDigests(primary, timeout)
        reconciler = Reconciler(
            source,
            WarehouseDigests(warehouse),
            catalog=CatalogComparer(
                source_catalog(primary, timeout),
                warehouse_catalog(warehouse),
                sealer,
                config.differences_per_window_max,
            ),
            store=verifications,
            reports=reports,
            sealer=sealer,
            progress=progress,
            grid=WindowGrid(window_us or config.window_us, config.windows_per_statement),
            differences_per_window_max=config.differences_per_window_max,
            differences_per_report_max=config.differences_per_report_max,
        )
        sweep = Sweep(
            reconciler,
            store=verifications,
            reports=reports,
            sealer=sealer,
            budget_seconds=config.freshness_budget_seconds,
        )
        rows = SourceRows(primary, timeout, config.repair_rows_max)
        repairer = Repairer(rows, warehouse, verifications, reconciler, sealer)
        return cls(
            verifications,
            reports,
            sealer,
            reconciler,
            sweep,
            repairer,
            config.freshness_budget_seconds,
        )
