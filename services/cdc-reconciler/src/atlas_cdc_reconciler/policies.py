"""What policies have done in the cdc-reconciler: comparing the copies."""

from collections.abc import Sequence

from atlas_cdc_reconciler.config import Config
from atlas_cdc_reconciler.reconcile import Outcome
from atlas_cdc_reconciler.sink import WarehouseError
from atlas_cdc_reconciler.sweep import Sweep
from atlas_common.maintenance import Job, JobError, RunResult, listed
from atlas_common.maintenance.job import Run
from atlas_common.tenant import Tenant


def jobs(config: Config, sweep: Sweep) -> list[Job]:
    """Those of whoever leads: it alone has the warehouse.

    A second warehouse, which another source feeds, has policies of its own.
    """
    default_source = type(config.slot).model_fields["name"].default
    suffix = "" if config.source_name == default_source else f"@{config.source_name}"
    intervals = config.reconcile
    return [
        Job(
            f"reconciliation{suffix}",
            _windows(sweep, from_start=False),
            _dry_run("the windows that are new or have changed"),
            intervals.interval_seconds,
            takes_tenants=True,
        ),
        Job(
            f"full_reconciliation{suffix}",
            _windows(sweep, from_start=True),
            _dry_run("all windows, from the first row on"),
            intervals.full_interval_seconds,
            takes_tenants=True,
        ),
        Job(
            f"catalog_reconciliation{suffix}",
            _catalogs(sweep),
            _dry_run("the tables of the catalog"),
            intervals.catalog_interval_seconds if intervals.interval_seconds else None,
            takes_tenants=True,
            starts_at_once=True,
        ),
    ]


def _windows(sweep: Sweep, *, from_start: bool) -> Run:
    async def run(tenants: Sequence[Tenant]) -> RunResult:
        try:
            found = await sweep.compare_windows(tenants, from_start=from_start)
        except WarehouseError as error:
            raise JobError(str(error)) from error
        wrong = [_told(tenant, one) for tenant, one in found if one.windows_mismatched]
        if wrong:
            raise JobError(listed(wrong))
        compared = sum(one.windows_compared for _, one in found)
        rows = sum(one.source.rows for _, one in found)
        return RunResult(
            f"{len(found)} tenants, {compared} windows compared, {rows} rows in all: equal"
        )

    return run


def _told(tenant: Tenant, found: Outcome) -> str:
    report = f", report {found.report_id}" if found.report_id else ""
    return f"{tenant.key}: {found.windows_mismatched} windows differ{report}"


def _catalogs(sweep: Sweep) -> Run:
    async def run(tenants: Sequence[Tenant]) -> RunResult:
        try:
            differing = await sweep.compare_catalogs(tenants)
        except WarehouseError as error:
            raise JobError(str(error)) from error
        if differing:
            raise JobError(
                listed(f"{tenant.key}: {one.table} differs" for tenant, one in differing)
            )
        return RunResult(f"{len(tenants)} tenants compared, all equal")

    return run


def _dry_run(what: str) -> Run:
    async def dry_run(tenants: Sequence[Tenant]) -> RunResult:
        return RunResult(f"would compare {what} of: {listed(one.key for one in tenants)}")

    return dry_run
