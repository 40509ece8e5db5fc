"""Compares tenant by tenant, as policies have it done, and reports what is new."""

import asyncio
import time
from collections.abc import Callable, Sequence

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.catalog_comparison import TableComparison
from atlas_cdc_reconciler.reconcile import Outcome, Reconciler
from atlas_cdc_reconciler.report_store import Cause, ReportStore
from atlas_cdc_reconciler.seal import Sealer
from atlas_cdc_reconciler.verification_store import VerificationStore
from atlas_cdc_reconciler.verified_age import VerifiedAges
from atlas_cdc_reconciler.windows import align_down
from atlas_common.telemetry import logger
from atlas_common.tenant import Tenant

_log = logger(__name__)


class Sweep:
    """The continuous comparison; one runs."""

    def __init__(
        self,
        reconciler: Reconciler,
        *,
        store: VerificationStore,
        reports: ReportStore,
        sealer: Sealer,
        budget_seconds: float,
    ) -> None:
        self._reconciler = reconciler
        self._store = store
        self._reports = reports
        self._sealer = sealer
        self._ages = VerifiedAges(budget_seconds)
        self._told: dict[int, list[TableComparison]] = {}
        """What of a tenant's catalog was reported: a mismatch is, once."""

    def verified_age_seconds(self) -> float:
        """How old the verified past of the tenant furthest behind is; -1: nobody has looked."""
        return self._ages.worst_seconds(time.monotonic())

    async def watch_budget(self, interval_seconds: float) -> None:
        """Tell again and again of tenants beyond the budget, also while nothing is compared."""
        while True:
            await asyncio.sleep(interval_seconds)
            for tenant_key in self._ages.breaches(time.monotonic()):
                metrics.budget_breaches.add(1)
                _log.warning("the verified past is older than the budget", tenant=tenant_key)

    async def compare_windows(
        self, tenants: Sequence[Tenant], *, from_start: bool = False
    ) -> list[tuple[Tenant, Outcome]]:
        """Compare whole windows: new ones, changed ones, or with `from_start` all of them.

        Raises as Sealer.seal, WarehouseError and psycopg.Error.
        """
        found: list[tuple[Tenant, Outcome]] = []
        now_us = await self._sealer.seal(None)
        sealed_us = align_down(now_us, self._reconciler.grid.window_us)
        for tenant in tenants:
            async with self._reconciler.busy[tenant.id]:
                known = await self._store.verification(tenant)
                # A call may have compared further, into a window.
                through_us = (
                    sealed_us if known is None else max(sealed_us, known.compared_through_us)
                )
                events = self._reconciler.compare_windows(
                    tenant, through_us, Cause.CONTINUOUS, from_start=from_start
                )
                async for event in events:
                    if isinstance(event, Outcome):
                        _log_outcome(tenant, event)
                        verified_us = event.verified_through_us or 0
                        self._ages.note(tenant.key, sealed_us, verified_us, time.monotonic())
                        found.append((tenant, event))
        return found

    async def compare_catalogs(
        self, tenants: Sequence[Tenant]
    ) -> list[tuple[Tenant, TableComparison]]:
        """Compare catalogs, whole; the tables that differ. Raises as compare_windows()."""
        found: list[tuple[Tenant, TableComparison]] = []
        now_us = await self._sealer.seal(None)
        for tenant in tenants:
            async with self._reconciler.busy[tenant.id]:
                tables = await self._reconciler.compare_catalog(tenant)
                differing = [table for table in tables if not table.is_matched]
                if differing and differing != self._told.get(tenant.id):
                    await self._reports.keep(
                        tenant, (), differing, cause=Cause.CONTINUOUS, through_us=now_us
                    )
                self._told[tenant.id] = differing
                found += [(tenant, table) for table in differing]
        return found


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
