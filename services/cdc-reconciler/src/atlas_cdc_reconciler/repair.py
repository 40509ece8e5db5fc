"""Heals windows that do not agree: their rows are taken from the source anew, whole.

A window's rows are replaced in one transaction of the warehouse, between two batches of the stream.
That is right only if the rows put in are what the stream had led to at that very point: a change
that the rows contain and the stream brings later would be applied twice, one that they lack and
the stream had brought already would be lost. So, with the stream running all the time:

1. note the window's count of doubts, which rises with every change of one of its rows, and the
   newest dead letter of one;
2. read its rows at the source, in one snapshot;
3. wait until the warehouse has all that was committed before that snapshot;
4. in the writer's thread, where no batch comes in between: if both are still the same, replace the
   rows and give up the letters, whose changes came with the rows; else begin again.

That both are unchanged says that no change of these rows was applied, or could not be, from before
the snapshot until now, step 3 that none which the snapshot shows is still to come, and sealing that
no row is added. What the stream brings later finds the very rows that it expects.
"""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.bisect import Found
from atlas_cdc_reconciler.reconcile import Reconciler
from atlas_cdc_reconciler.seal import Sealer
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse, Parameters
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.replaying import supersede
from atlas_cdc_reconciler.source_rows import SourceRows
from atlas_cdc_reconciler.tables import HISTORY
from atlas_cdc_reconciler.verification_store import VerificationStore
from atlas_cdc_reconciler.windows import Span, WindowComparison, align_down
from atlas_common import errors
from atlas_common.tenant import Tenant
from atlas_common.values import us_to_datetime

# A window that is being corrected all the time is left to a quieter moment.
_ATTEMPTS_MAX = 5
_ROWS = "cdc_repair"  # The name under which the rows are shown to DuckDB.


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants what; goes into the audit log."""

    span: Span
    actor: str
    request_id: str
    dry_run: bool


@dataclass(frozen=True, slots=True)
class WindowRepair:
    """A window that did not agree."""

    span: Span
    found: Found
    """What it differed in."""
    rows_deleted: int
    rows_inserted: int
    is_equal: bool
    """Compared once more, behind the repair."""


@dataclass(frozen=True, slots=True)
class RepairOutcome:
    """What a repair did, or would do."""

    windows_compared: int
    windows_mismatched: int
    windows_repaired: int
    verified_through_us: int | None


class Repairer:
    """Repairs a tenant's windows on demand."""

    def __init__(
        self,
        source: SourceRows,
        warehouse: DuckDbWarehouse,
        store: VerificationStore,
        reconciler: Reconciler,
        sealer: Sealer,
    ) -> None:
        self._source = source
        self._warehouse = warehouse
        self._store = store
        self._reconciler = reconciler
        self._sealer = sealer

    async def repair(
        self, tenant: Tenant, request: Request
    ) -> AsyncGenerator[WindowRepair | RepairOutcome, None]:
        """Compare a range of the past anew, and heal the windows that do not agree.

        Shows those windows; the RepairOutcome comes last. The range is widened to whole windows,
        and ends with what was compared before at the latest. A dry run changes no row.

        Raises ServiceError: FAILED_PRECONDITION when nothing of the range was compared yet, or a
        window cannot be repaired; ABORTED when changes of a window's rows keep coming; UNAVAILABLE
        as Sealer.catch_up; psycopg.Error.
        """
        async with self._reconciler.busy[tenant.id]:
            span = await self._sealed_part(tenant, request.span)
            compared = mismatched = repaired = 0
            await self._sealer.catch_up()
            async for piece in self._reconciler.occupied(tenant, span):
                windows = await self._compared(tenant, piece)
                compared += len(windows)
                for window in windows:
                    if window.is_matched:
                        continue
                    mismatched += 1
                    healed = await self._healed(tenant, window, request)
                    repaired += healed.is_equal
                    yield healed
            known = await self._store.verification(tenant)
            through = None if known is None else known.verified_through_us
            yield RepairOutcome(compared, mismatched, repaired, through)

    async def _sealed_part(self, tenant: Tenant, span: Span) -> Span:
        """Whole windows that were compared once: of their rows every change is noticed."""
        width_us = self._reconciler.grid.window_us
        known = await self._store.verification(tenant)
        through_us = 0 if known is None else known.compared_through_us
        stop = -align_down(-span.stop_us, width_us)
        part = Span(align_down(span.start_us, width_us), min(stop, through_us))
        if part.is_empty:
            raise errors.failed_precondition(
                "WINDOW_NOT_REPAIRABLE",
                "nothing of the range was compared yet: reconcile first",
                compared_through=us_to_datetime(through_us).isoformat(),
            )
        return part

    async def _compared(self, tenant: Tenant, span: Span) -> list[WindowComparison]:
        known = await self._store.verification(tenant)
        checked_at_us = span.stop_us if known is None else known.checked_at_us
        return await self._reconciler.compare_again(tenant, span, checked_at_us)

    async def _healed(
        self, tenant: Tenant, window: WindowComparison, request: Request
    ) -> WindowRepair:
        found = await self._reconciler.find(tenant, window)
        if request.dry_run:
            deleted, inserted = window.warehouse.rows, window.source.rows
            return WindowRepair(window.span, found, deleted, inserted, is_equal=False)
        deleted, inserted = await self._replace(tenant, window.span, request)
        again = await self._compared(tenant, window.span)
        metrics.repaired_windows.add(1)
        is_equal = all(one.is_matched for one in again)
        return WindowRepair(window.span, found, deleted, inserted, is_equal)

    async def _replace(self, tenant: Tenant, span: Span, request: Request) -> tuple[int, int]:
        """Replace a window's rows; returns how many were deleted and inserted."""
        for _ in range(_ATTEMPTS_MAX):
            changes = await self._store.changes(tenant, span)
            rows = await self._source.of(tenant, span)
            await self._sealer.catch_up()
            swap = _Swap(tenant, span, rows, changes, request)
            deleted = await self._warehouse.transact(swap.run)
            if deleted is not None:
                return deleted, rows.num_rows
        raise errors.aborted(
            "WINDOW_NOT_REPAIRABLE",
            f"rows of the window of {us_to_datetime(span.start_us).isoformat()} keep changing",
            retry_after=1.0,
        )


@dataclass(frozen=True, slots=True)
class _Swap:
    """The replacement of one window's rows, in one transaction of the warehouse."""

    tenant: Tenant
    span: Span
    rows: pa.Table
    changes: tuple[int, int]
    """As VerificationStore.changes, before the rows were read."""
    request: Request

    def run(self, connection: duckdb.DuckDBPyConnection) -> int | None:
        """Number of rows deleted; None, and nothing done, if a row has changed meanwhile."""
        bounds = {
            "tenant_id": self.tenant.id,
            "start": self.span.start_us,
            "stop": self.span.stop_us,
        }
        if connection.execute(Q["changes"], bounds).fetchone() != self.changes:
            return None
        deleted = _deleted(connection, bounds)
        names = ", ".join(HISTORY.column_names)
        connection.register(_ROWS, self.rows)
        try:
            connection.execute(f"INSERT INTO {HISTORY.name} ({names}) SELECT {names} FROM {_ROWS}")  # noqa: S608
        finally:
            connection.unregister(_ROWS)
        span = self.span.start_us, self.span.stop_us
        letters = supersede(connection, HISTORY.name, [self.tenant.id], span, with_copies=True)
        connection.execute(Q["recount_rows"], {"tenant_id": self.tenant.id})
        connection.execute(Q["audit"], self._entry(deleted, letters))
        return deleted

    def _entry(self, deleted: int, letters: int) -> dict[str, object]:
        detail = {
            "start": us_to_datetime(self.span.start_us).isoformat(),
            "end": us_to_datetime(self.span.stop_us).isoformat(),
            "rows_deleted": deleted,
            "rows_inserted": self.rows.num_rows,
            "letters_given_up": letters,
        }
        return {
            "actor": self.request.actor,
            "action": "repair",
            "tenant_id": self.tenant.id,
            "request_id": self.request.request_id,
            "detail": json.dumps(detail),
        }


def _deleted(connection: duckdb.DuckDBPyConnection, bounds: Parameters) -> int:
    row = connection.execute(Q["drop_span"], dict(bounds)).fetchone()
    assert row is not None
    return int(row[0])
