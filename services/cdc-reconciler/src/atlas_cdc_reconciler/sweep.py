"""Compares all tenants by itself, again and again, and reports what is new."""

import asyncio
import time
from collections.abc import Callable

import psycopg

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.catalog_comparison import TableComparison
from atlas_cdc_reconciler.reconcile import Outcome, Reconciler
from atlas_cdc_reconciler.report_store import Cause, ReportStore
from atlas_cdc_reconciler.seal import Sealer
from atlas_cdc_reconciler.sink import WarehouseError
from atlas_cdc_reconciler.source_digests import SourceDigests
from atlas_cdc_reconciler.verification_store import VerificationStore
from atlas_cdc_reconciler.verified_age import VerifiedAges
from atlas_cdc_reconciler.windows import align_down
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger
from atlas_common.tenant import Tenant

_log = logger(__name__)


class Sweep:
    """The continuous comparison; one runs."""

    def __init__(
        self,
        reconciler: Reconciler,
        source: SourceDigests,
        *,
        store: VerificationStore,
        reports: ReportStore,
        sealer: Sealer,
        budget_seconds: float,
    ) -> None:
        self._reconciler = reconciler
        self._source = source
        self._store = store
        self._reports = reports
        self._sealer = sealer
        self._ages = VerifiedAges(budget_seconds)
        self._told: dict[int, list[TableComparison]] = {}
        """What of a tenant's catalog was reported: a mismatch is, once."""

    def verified_age_seconds(self) -> float:
        """How old the verified past of the tenant furthest behind is; -1: `run` has not looked."""
        return self._ages.worst_seconds(time.monotonic())

    async def run(self, interval_seconds: float, catalog_interval_seconds: float = 0.0) -> None:
        """Compare all tenants' whole windows, again and again, through outages.

        Their catalogs, which are compared whole each time, less often; 0: never.
        """
        catalog_due = time.monotonic()
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self._windows()
                if catalog_interval_seconds and time.monotonic() >= catalog_due:
                    catalog_due = time.monotonic() + catalog_interval_seconds
                    await self._catalogs()
            except (ServiceError, psycopg.Error, WarehouseError, TimeoutError) as error:
                _log.warning("not reconciled", error=str(error))
            for tenant_key in self._ages.breaches(time.monotonic()):
                metrics.budget_breaches.add(1)
                _log.warning("the verified past is older than the budget", tenant=tenant_key)

    async def _windows(self) -> None:
        now_us = await self._sealer.seal(None)
        sealed_us = align_down(now_us, self._reconciler.grid.window_us)
        for tenant in await self._source.tenants():
            async with self._reconciler.busy[tenant.id]:
                known = await self._store.verification(tenant)
                # A call may have compared further, into a window.
                through_us = (
                    sealed_us if known is None else max(sealed_us, known.compared_through_us)
                )
                events = self._reconciler.compare_windows(tenant, through_us, Cause.CONTINUOUS)
                async for event in events:
                    if isinstance(event, Outcome):
                        _log_outcome(tenant, event)
                        verified_us = event.verified_through_us or 0
                        self._ages.note(tenant.key, sealed_us, verified_us, time.monotonic())

    async def _catalogs(self) -> None:
        now_us = await self._sealer.seal(None)
        for tenant in await self._source.tenants():
            async with self._reconciler.busy[tenant.id]:
                tables = await self._reconciler.compare_catalog(tenant)
                differing = [table for table in tables if not table.is_matched]
                if differing and differing != self._told.get(tenant.id):
                    await self._reports.keep(
                        tenant, (), differing, cause=Cause.CONTINUOUS, through_us=now_us
                    )
                self._told[tenant.id] = differing


def _log_outcome(tenant: Tenant, outcome: Outcome) -> None:
    say: Callable[..., object]
    if outcome.windows_mismatched:
        say = _log.error
    else:
        say = _log.info if outcome.windows_compared else _log.debug
    say(
        "reconciled",
        tenant=tenant.key,
        windows=outcome.windows_compared,
        mismatched=outcome.windows_mismatched,
        report=outcome.report_id,
        rows=outcome.warehouse.rows,
    )
