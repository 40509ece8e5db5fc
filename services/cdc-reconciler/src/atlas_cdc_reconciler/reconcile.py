"""Proves source and warehouse equal: sealed window by sealed window, tenant by tenant."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

import psycopg

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.seal import Sealer
from atlas_cdc_reconciler.sink import WarehouseError
from atlas_cdc_reconciler.source_digests import SourceDigests
from atlas_cdc_reconciler.verification_store import VerificationStore
from atlas_cdc_reconciler.windows import (
    Span,
    WindowComparison,
    align_down,
    cut,
    joined,
    paired,
    pieces,
)
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger
from atlas_common.tenant import Tenant

# Mismatches of earlier runs that are compared again; the first of them decides verified_through.
_RECHECKED_WINDOWS_MAX = 1_000
# A longer span is first asked for the pieces that have rows.
_PIECES_UNASKED_MAX = 8
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found."""

    windows_compared: int
    windows_mismatched: int
    source: Digest
    """Of all the tenant's rows before the moment asked for."""
    warehouse: Digest
    verified_through_us: int | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a run compares: old mismatches again, what is new, a cut window for the answer."""

    again: tuple[Span, ...]
    fresh: Span
    partial: Span
    """A part of a window that is remembered whole: compared, and not remembered."""


class Reconciler:
    """Compares on demand and, while `run` runs, by itself."""

    def __init__(
        self,
        source: SourceDigests,
        store: VerificationStore,
        sealer: Sealer,
        progress: Progress,
        *,
        window_us: int,
        windows_per_statement: int,
    ) -> None:
        self._source = source
        self._store = store
        self._sealer = sealer
        self._progress = progress
        self._window_us = window_us
        self._piece_us = window_us * windows_per_statement
        self._windows_per_statement = windows_per_statement
        # Two runs of one tenant would take each other's remembered windows away.
        self._busy: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def reconcile(
        self, tenant: Tenant, through_us: int | None, *, from_start: bool
    ) -> AsyncGenerator[WindowComparison | Outcome, None]:
        """Compare everything ingested before `through_us`, or before now; the Outcome comes last.

        Shows the windows that have rows on either side. What agreed in an earlier run is not
        compared again unless `from_start`. Raises as Sealer.seal, and psycopg.Error.
        """
        sealed_us = await self._sealer.seal(through_us)
        async with self._busy[tenant.id]:
            async for event in self._compare(tenant, sealed_us, from_start=from_start):
                yield event

    async def run(self, interval_seconds: float) -> None:
        """Compare all tenants' whole windows, again and again, through outages."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self._sweep()
            except (ServiceError, psycopg.Error, WarehouseError, TimeoutError) as error:
                _log.warning("not reconciled", error=str(error))

    async def _sweep(self) -> None:
        sealed_us = align_down(await self._sealer.seal(None), self._window_us)
        for tenant in await self._source.tenants():
            async with self._busy[tenant.id]:
                known = await self._store.verification(tenant)
                # A call may have compared further, into a window.
                through_us = (
                    sealed_us if known is None else max(sealed_us, known.compared_through_us)
                )
                async for event in self._compare(tenant, through_us, from_start=False):
                    if isinstance(event, Outcome):
                        _report(tenant, event)

    async def _compare(
        self, tenant: Tenant, through_us: int, *, from_start: bool
    ) -> AsyncGenerator[WindowComparison | Outcome, None]:
        plan = await self._plan(tenant, through_us, from_start=from_start)
        compared = mismatched = 0
        async for comparisons in self._whole_windows(tenant, through_us, plan):
            for comparison in comparisons:
                compared += 1
                mismatched += not comparison.is_matched
                yield comparison
        cut_short = await self._compare_span(tenant, plan.partial)
        for comparison in cut_short:
            compared += 1
            mismatched += not comparison.is_matched
            yield comparison
        whole_before = plan.partial.start_us if not plan.partial.is_empty else through_us
        source, warehouse = await self._store.totals(tenant, whole_before)
        found = await self._store.verification(tenant)
        yield Outcome(
            compared,
            mismatched,
            _sum(source, (comparison.source for comparison in cut_short)),
            _sum(warehouse, (comparison.warehouse for comparison in cut_short)),
            None if found is None else found.verified_through_us,
        )

    async def _whole_windows(
        self, tenant: Tenant, through_us: int, plan: _Plan
    ) -> AsyncGenerator[list[WindowComparison], None]:
        """Compare and remember, piece by piece; what is cancelled in between goes on from there."""
        known = await self._store.verification(tenant)
        through = 0 if known is None else known.compared_through_us

        async def keep(span: Span, comparisons: list[WindowComparison]) -> None:
            await self._store.keep(
                tenant, span, comparisons, compared_through_us=through, checked_at_us=through_us
            )
            await self._progress.move()  # verified_through may be what somebody waits for.

        for span in plan.again:
            comparisons = await self._compare_span(tenant, span)
            await keep(span, comparisons)
            yield comparisons
        begun = plan.fresh.start_us
        for span in await self._occupied(tenant, plan.fresh):
            comparisons = await self._compare_span(tenant, span)
            through = max(through, span.stop_us)
            # What lies between this piece and the one before has no rows on either side.
            await keep(Span(begun, span.stop_us), comparisons)
            begun = span.stop_us
            yield comparisons
        if begun < plan.fresh.stop_us:
            through = max(through, plan.fresh.stop_us)
            await keep(Span(begun, plan.fresh.stop_us), [])

    async def _occupied(self, tenant: Tenant, span: Span) -> list[Span]:
        """The pieces of a span that have rows, each for one statement."""
        if span.stop_us - span.start_us <= _PIECES_UNASKED_MAX * self._piece_us:
            return list(cut(span, self._piece_us))
        # To ask is to read the span once, but years without rows are then left out at once.
        source, warehouse = await asyncio.gather(
            self._source.occupied(tenant, span, self._piece_us),
            self._store.occupied(tenant, span, self._piece_us),
        )
        return list(pieces(source | warehouse, span, self._piece_us))

    async def _plan(self, tenant: Tenant, through_us: int, *, from_start: bool) -> _Plan:
        width_us = self._window_us
        known = await self._store.verification(tenant)
        stop, partial = through_us, Span(through_us, through_us)
        if known is not None and through_us < known.compared_through_us:
            # The window around the moment is remembered whole; a part must not take its place.
            stop = align_down(through_us, width_us)
            partial = Span(stop, through_us)
        if from_start or known is None:
            return _Plan((), Span(0, stop), partial)
        start = align_down(known.compared_through_us, width_us)
        starts = await self._store.mismatched_starts(
            tenant, min(start, stop), _RECHECKED_WINDOWS_MAX
        )
        again = joined(starts, width_us, self._windows_per_statement)
        return _Plan(tuple(again), Span(start, stop), partial)

    async def _compare_span(self, tenant: Tenant, span: Span) -> list[WindowComparison]:
        if span.is_empty:
            return []
        source, warehouse = await asyncio.gather(
            self._source.digests(tenant, span, self._window_us),
            self._store.digests(tenant, span, self._window_us),
        )
        windows = paired(source, warehouse, span, self._window_us)
        matched = sum(window.is_matched for window in windows)
        metrics.windows.add(matched, {"matched": True})
        metrics.windows.add(len(windows) - matched, {"matched": False})
        return windows


def _report(tenant: Tenant, outcome: Outcome) -> None:
    if outcome.windows_mismatched:
        level = _log.error
    else:
        level = _log.info if outcome.windows_compared else _log.debug
    level(
        "reconciled",
        tenant=tenant.key,
        windows=outcome.windows_compared,
        mismatched=outcome.windows_mismatched,
        rows=outcome.warehouse.rows,
    )


def _sum(total: Digest, digests: Iterable[Digest]) -> Digest:
    return sum(digests, total)
