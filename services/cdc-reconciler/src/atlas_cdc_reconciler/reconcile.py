"""Proves source and warehouse equal: sealed window by sealed window, tenant by tenant."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.bisect import Bisector, Found
from atlas_cdc_reconciler.catalog_comparison import CatalogComparer, TableComparison
from atlas_cdc_reconciler.differences import Difference
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.report_store import Cause, ReportStore
from atlas_cdc_reconciler.seal import Sealer
from atlas_cdc_reconciler.source_digests import SourceDigests
from atlas_cdc_reconciler.verification_store import VerificationStore
from atlas_cdc_reconciler.warehouse_digests import WarehouseDigests
from atlas_cdc_reconciler.windows import (
    Span,
    WindowComparison,
    align_down,
    between,
    cut,
    halves,
    joined,
    paired,
    pieces,
)
from atlas_common.telemetry import logger
from atlas_common.tenant import Tenant

# Mismatches of earlier runs that are compared again; the first of them decides verified_through.
_RECHECKED_WINDOWS_MAX = 1_000
# How often windows are compared again whose rows keep changing.
_SETTLING_ROUNDS_MAX = 5
# A longer span is first asked for the pieces that have rows.
_PIECES_UNASKED_MAX = 8
_KEYS_LOGGED_MAX = 10
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class WindowDifferences:
    """The rows at fault for a window that does not agree."""

    span: Span
    found: Found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found."""

    windows_compared: int
    windows_mismatched: int
    source: Digest
    """Of all the tenant's rows before the moment asked for."""
    warehouse: Digest
    verified_through_us: int | None
    report_id: int
    """0: there is none."""
    tables_mismatched: int = 0
    """Of the catalog."""


Event = TableComparison | WindowComparison | WindowDifferences | Outcome


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """How the past is cut into windows, and windows into statements."""

    window_us: int
    windows_per_statement: int

    @property
    def piece_us(self) -> int:
        """Width of what one statement digests."""
        return self.window_us * self.windows_per_statement


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a run compares: old mismatches again, what is new, a cut window for the answer."""

    again: tuple[WindowComparison, ...]
    """As they were remembered."""
    begun: WindowComparison | None
    """A window of which only a part was there: what agreed is not digested again."""
    rest: Span
    """What is new in it."""
    fresh: Span
    partial: Span
    """A part of a window that is remembered whole: compared, and not remembered."""


class _Findings:
    """What a run has found so far."""

    def __init__(self, differences_max: int) -> None:
        self.compared = 0
        self.mismatched = 0
        self.differences: list[Difference] = []
        self.is_complete = True
        self.is_news = False
        """Whether a mismatch is not as an earlier run left it."""
        self._differences_max = differences_max

    @property
    def room(self) -> int:
        """How many more rows are named."""
        return self._differences_max - len(self.differences)

    def count(self, windows: Sequence[WindowComparison]) -> None:
        """Note the windows of one piece."""
        self.compared += len(windows)
        self.mismatched += sum(not window.is_matched for window in windows)

    def name(self, found: Found) -> None:
        """Note the rows of a window."""
        self.is_complete &= found.is_complete and len(found.differences) <= self.room
        self.differences += found.differences[: self.room]


class Reconciler:
    """Compares a tenant's copies, and remembers how they were."""

    def __init__(
        self,
        source: SourceDigests,
        warehouse: WarehouseDigests,
        *,
        catalog: CatalogComparer,
        store: VerificationStore,
        reports: ReportStore,
        sealer: Sealer,
        progress: Progress,
        grid: WindowGrid,
        differences_per_window_max: int = 1_000,
        differences_per_report_max: int = 10_000,
    ) -> None:
        self._source = source
        self._warehouse = warehouse
        self._catalog = catalog
        self._store = store
        self._reports = reports
        self._sealer = sealer
        self._progress = progress
        self.grid = grid
        self._bisector = Bisector(source, warehouse, differences_per_window_max)
        self._differences_max = differences_per_report_max
        # Two runs of one tenant would take each other's remembered windows away.
        self.busy: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held per tenant id while its remembered windows change, by repairs as well."""

    async def reconcile(
        self, tenant: Tenant, through_us: int | None, *, from_start: bool
    ) -> AsyncGenerator[Event, None]:
        """Compare everything ingested before `through_us`, or before now; the Outcome comes last.

        Shows the catalog's tables as they are now, then the windows that have rows on either side,
        and the rows at fault behind each one that does not agree. What agreed in an earlier run is
        not compared again unless `from_start`. Raises as Sealer.seal, and psycopg.Error.
        """
        sealed_us = await self._sealer.seal(through_us)
        async with self.busy[tenant.id]:
            tables = await self.compare_catalog(tenant)
            for table in tables:
                yield table
            events = self.compare_windows(
                tenant, sealed_us, Cause.CALL, tables=tables, from_start=from_start
            )
            async for event in events:
                yield event

    async def compare_again(
        self, tenant: Tenant, span: Span, checked_at_us: int
    ) -> list[WindowComparison]:
        """Compare windows once more and remember how they are. The caller holds `busy`."""
        windows = await self._compare_span(tenant, span)
        known = await self._store.verification(tenant)
        through = 0 if known is None else known.compared_through_us
        await self._store.keep(
            tenant, span, windows, compared_through_us=through, checked_at_us=checked_at_us
        )
        await self._progress.move()
        return windows

    async def find(self, tenant: Tenant, window: WindowComparison) -> Found:
        """The rows at fault for a window; none that is only on its way.

        A correction under way makes a row differ for a moment. So it is looked for twice, with the
        warehouse made to catch up in between: only what differs in the same way both times counts.
        """
        first = await self._bisector.find(tenant, window)
        if not first.differences:
            return first
        await self._sealer.catch_up()
        return first.and_still(await self._bisector.find(tenant, window))

    async def occupied(self, tenant: Tenant, span: Span) -> AsyncGenerator[Span, None]:
        """The pieces of a span that have rows, each for one statement, in order."""
        piece_us = self.grid.piece_us
        if span.stop_us - span.start_us <= _PIECES_UNASKED_MAX * piece_us:
            for piece in cut(span, piece_us):
                yield piece
            return
        # The warehouse knows at once which pieces it has rows in. For all years in which it has
        # none the source need only say that it has none either, which it sees in its indexes; and
        # where it has some, they are found by halving.
        numbers = await self._warehouse.occupied(tenant, span, piece_us)
        occupied = list(pieces(numbers, span, piece_us))
        for part in between(occupied, span):
            if part.is_occupied:
                yield part.span
            else:
                async for piece in self._found(tenant, part.span):
                    yield piece

    async def compare_catalog(self, tenant: Tenant) -> list[TableComparison]:
        """Compare the tenant's rows of the catalog's tables, as they are now."""
        tables = await self._catalog.compare(tenant)
        for table in tables:
            metrics.tables.add(1, {"table": table.table, "matched": table.is_matched})
            if not table.is_matched:
                _log.error(
                    "the catalog differs",
                    tenant=tenant.key,
                    table=table.table,
                    rows=len(table.differences),
                    keys=[one.key for one in table.differences[:_KEYS_LOGGED_MAX]],
                )
        return tables

    async def compare_windows(
        self,
        tenant: Tenant,
        through_us: int,
        cause: Cause,
        *,
        tables: Sequence[TableComparison] = (),
        from_start: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Compare what was ingested before a moment that is sealed. The caller holds `busy`.

        As `reconcile`; `tables` are what was found of the catalog, for the report.
        """
        plan = await self._plan(tenant, through_us, from_start=from_start)
        findings = _Findings(self._differences_max)
        known_bad = frozenset(plan.again)
        async for windows in self._whole_windows(tenant, through_us, plan):
            async for event in self._shown(tenant, windows, findings, cause, known_bad):
                yield event
        cut_short = await self._settled(tenant, await self._compare_span(tenant, plan.partial))
        async for event in self._shown(tenant, cut_short, findings, cause, known_bad):
            yield event
        whole_before = plan.partial.start_us if not plan.partial.is_empty else through_us
        source, warehouse = await self._store.totals(tenant, whole_before)
        found = await self._store.verification(tenant)
        yield Outcome(
            findings.compared,
            findings.mismatched,
            _sum(source, (window.source for window in cut_short)),
            _sum(warehouse, (window.warehouse for window in cut_short)),
            None if found is None else found.verified_through_us,
            await self._report(tenant, through_us, findings, cause, tables),
            sum(not table.is_matched for table in tables),
        )

    async def _found(self, tenant: Tenant, span: Span) -> AsyncGenerator[Span, None]:
        """The pieces of a span that have rows at the source, in order."""
        if not await self._source.has_rows(tenant, span):
            return
        if span.stop_us - span.start_us <= self.grid.piece_us:
            for piece in cut(span, self.grid.piece_us):
                yield piece
            return
        for half in halves(span, self.grid.piece_us):
            async for piece in self._found(tenant, half):
                yield piece

    async def _shown(
        self,
        tenant: Tenant,
        windows: Sequence[WindowComparison],
        findings: _Findings,
        cause: Cause,
        known_bad: frozenset[WindowComparison],
    ) -> AsyncGenerator[Event, None]:
        """The windows, and behind each one that does not agree its rows."""
        findings.count(windows)
        for window in windows:
            yield window
            # The sweep has named the rows of a mismatch when it was new, and does so once.
            is_news = window not in known_bad
            if window.is_matched or (cause is Cause.CONTINUOUS and not is_news):
                continue
            findings.is_news |= is_news
            if findings.room > 0:
                found = await self.find(tenant, window)
                findings.name(found)
                yield WindowDifferences(window.span, found)
            else:
                findings.is_complete = False

    async def _report(
        self,
        tenant: Tenant,
        through_us: int,
        findings: _Findings,
        cause: Cause,
        tables: Sequence[TableComparison],
    ) -> int:
        if cause is Cause.CONTINUOUS and not findings.is_news:
            return 0
        return await self._reports.keep(
            tenant,
            findings.differences,
            [table for table in tables if not table.is_matched],
            cause=cause,
            through_us=through_us,
            windows_compared=findings.compared,
            windows_mismatched=findings.mismatched,
            is_complete=findings.is_complete,
        )

    async def _whole_windows(
        self, tenant: Tenant, through_us: int, plan: _Plan
    ) -> AsyncGenerator[list[WindowComparison], None]:
        """Compare and remember, piece by piece; what is cancelled in between goes on from there."""
        known = await self._store.verification(tenant)
        through = 0 if known is None else known.compared_through_us

        async def keep(span: Span, windows: list[WindowComparison]) -> None:
            await self._store.keep(
                tenant, span, windows, compared_through_us=through, checked_at_us=through_us
            )
            await self._progress.move()  # verified_through may be what somebody waits for.

        starts = [window.span.start_us for window in plan.again]
        for span in joined(starts, self.grid.window_us, self.grid.windows_per_statement):
            windows = await self._settled(tenant, await self._compare_span(tenant, span))
            await keep(span, windows)
            yield windows
        if plan.begun is not None:
            windows = await self._extended(tenant, plan.begun, plan.rest, through_us)
            through = max(through, plan.rest.stop_us)
            await self._progress.move()
            yield windows
        begun = plan.fresh.start_us
        async for span in self.occupied(tenant, plan.fresh):
            windows = await self._settled(tenant, await self._compare_span(tenant, span))
            through = max(through, span.stop_us)
            # What lies between this piece and the one before has no rows on either side.
            await keep(Span(begun, span.stop_us), windows)
            begun = span.stop_us
            yield windows
        if begun < plan.fresh.stop_us:
            through = max(through, plan.fresh.stop_us)
            await keep(Span(begun, plan.fresh.stop_us), [])

    async def _extended(
        self, tenant: Tenant, begun: WindowComparison, rest: Span, checked_at_us: int
    ) -> list[WindowComparison]:
        """Compare the rest of a window that agreed so far, and all of it if that does not agree."""
        none = WindowComparison(rest, Digest(), Digest())
        more = sum(await self._compare_span(tenant, rest), none)
        if more.is_matched:
            await self._store.extend(tenant, begun, more, checked_at_us=checked_at_us)
            return [begun + more]
        whole = Span(begun.span.start_us, rest.stop_us)
        windows = await self._settled(tenant, await self._compare_span(tenant, whole))
        await self._store.keep(
            tenant, whole, windows, compared_through_us=rest.stop_us, checked_at_us=checked_at_us
        )
        return windows

    async def _plan(self, tenant: Tenant, through_us: int, *, from_start: bool) -> _Plan:
        width_us = self.grid.window_us
        known = await self._store.verification(tenant)
        stop, partial = through_us, Span(through_us, through_us)
        if known is not None and through_us < known.compared_through_us:
            # The window around the moment is remembered whole; a part must not take its place.
            stop = align_down(through_us, width_us)
            partial = Span(stop, through_us)
        if from_start or known is None:
            return _Plan((), None, Span(0, 0), Span(0, stop), partial)
        start = align_down(known.compared_through_us, width_us)
        before = Span(0, min(start, stop))
        again = await self._store.mismatched(tenant, before, _RECHECKED_WINDOWS_MAX)
        rest = Span(known.compared_through_us, min(start + width_us, stop))
        begun = None if rest.is_empty else await self._store.begun(tenant, start)
        if begun is not None:
            start = rest.stop_us
        return _Plan(tuple(again), begun, rest, Span(start, stop), partial)

    async def _settled(
        self, tenant: Tenant, windows: list[WindowComparison]
    ) -> list[WindowComparison]:
        """The windows; those that do not agree anew, behind what was under way.

        Rows that are being corrected differ for moments, and in another way each time. A window
        that differs in the same way twice does not agree.
        """
        settled = {window.span: window for window in windows}
        moving = {window.span: window for window in windows if not window.is_matched}
        for _ in range(_SETTLING_ROUNDS_MAX):
            if not moving:
                break
            await self._sealer.catch_up()
            whole = Span(min(moving).start_us, max(span.stop_us for span in moving))
            again = {window.span: window for window in await self._compare_span(tenant, whole)}
            none = Digest()
            now = {span: again.get(span, WindowComparison(span, none, none)) for span in moving}
            settled |= now
            moving = {
                span: window
                for span, window in now.items()
                if not window.is_matched and window != moving[span]
            }
        return list(settled.values())

    async def _compare_span(self, tenant: Tenant, span: Span) -> list[WindowComparison]:
        if span.is_empty:
            return []
        begun = time.monotonic()
        width_us = self.grid.window_us
        source, warehouse = await asyncio.gather(
            self._source.digests(tenant, span, width_us),
            self._warehouse.digests(tenant, span, width_us),
        )
        windows = await self._without_retired(paired(source, warehouse, span, width_us))
        metrics.compare_seconds.record(time.monotonic() - begun)
        matched = sum(window.is_matched for window in windows)
        metrics.windows.add(matched, {"matched": True})
        metrics.windows.add(len(windows) - matched, {"matched": False})
        return windows

    async def _without_retired(self, windows: list[WindowComparison]) -> list[WindowComparison]:
        """Less those that the warehouse alone keeps: there is nothing to compare them with."""
        if all(window.source.rows for window in windows):
            return windows
        floor_us = await self._source.retention_floor_us()  # Behind the digests: it only rises.
        return [window for window in windows if not window.is_retired(floor_us)]


def _sum(total: Digest, digests: Iterable[Digest]) -> Digest:
    return sum(digests, total)
