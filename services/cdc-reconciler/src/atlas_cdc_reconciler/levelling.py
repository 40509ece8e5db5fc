"""Brings the warehouse level with a snapshot of the source, by the least copying.

One mechanism for the first copy, for recovery when the slot is lost, and for copying a part again.
The history is compared window by window, by digest, and only windows that differ are copied, each
piece in a transaction of its own: what was cut short is done again and finds most of it equal, so
that nothing has to be remembered of how far it came. Tables with a key are copied whole in the
last transaction, together with the position; until then tokens, heartbeat and `as_of` are the old
ones.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.level_store import LevelStore
from atlas_cdc_reconciler.progress import CopyProgress, Progress
from atlas_cdc_reconciler.scope import Scope, WindowState, copied_spans
from atlas_cdc_reconciler.sink import WarehouseError
from atlas_cdc_reconciler.source import CopiedRows, SourcePosition
from atlas_cdc_reconciler.tables import HISTORY, Table
from atlas_cdc_reconciler.windows import Span, paired, pieces
from atlas_common.telemetry import logger

T = TypeVar("T")
_LOG_SECONDS = 10.0
_log = logger(__name__)


class ComparableSnapshot(Protocol):
    """A source's tables at one position, which can be asked for parts of them."""

    @property
    def position(self) -> SourcePosition:
        """All that was committed before it shows, and nothing else."""
        ...

    async def tenant_ids(self) -> list[int]:
        """All tenants."""
        ...

    async def retention_floor_us(self) -> int:
        """What was ingested before it was dropped by retention, as it is now."""
        ...

    async def row_counts(self, tenant_id: int, span: Span, width_us: int) -> Mapping[int, int]:
        """Rows of the history by window of this width, by its number since 1970."""
        ...

    async def digests(self, tenant_id: int, span: Span, width_us: int) -> Mapping[int, Digest]:
        """Digests of the history's windows that have rows, by number since 1970."""
        ...

    def table_rows(
        self, table: Table, tenant_id: int | None, span: Span | None = None
    ) -> AsyncGenerator[CopiedRows, None]:
        """Rows of one table in bounded pieces."""
        ...


class ComparableSource(Protocol):
    """Where the rows can be had again."""

    def snapshot(self) -> AbstractAsyncContextManager[ComparableSnapshot]:
        """All rows as of a position from which the stream goes on, whatever was lost before."""
        ...

    def cut(self) -> AbstractAsyncContextManager[ComparableSnapshot]:
        """All rows as of a position that the open stream will come to."""
        ...


@dataclass(frozen=True, slots=True)
class Cutting:
    """How levelling is cut into pieces."""

    window_us: int
    windows_per_statement: int
    rows_max: int
    """Rows of one piece, as far as windows can be cut."""
    connections: int

    @property
    def piece_us(self) -> int:
        """Width of what one statement digests."""
        return self.window_us * self.windows_per_statement


class Leveller:
    """Levels the warehouse; one call at a time."""

    def __init__(self, store: LevelStore, progress: Progress, cutting: Cutting) -> None:
        self._store = store
        self._progress = progress
        self._cutting = cutting

    async def level_all(self, snapshot: ComparableSnapshot) -> CopyProgress:
        """Everything, after which the warehouse stands at the snapshot's position.

        May be called again after any failure or cancellation, with another snapshot. Raises
        psycopg.Error or ServiceError when the source is away, WarehouseError.
        """
        return await _Levelling(self, snapshot, Scope(), dry_run=False).all()

    async def level_part(
        self, snapshot: ComparableSnapshot, scope: Scope, *, dry_run: bool
    ) -> CopyProgress:
        """A part, for a warehouse that stands at the snapshot's position. Raises the same.

        `dry_run` compares and counts only.
        """
        return await _Levelling(self, snapshot, scope, dry_run=dry_run).part()


class _Levelling:
    """One run."""

    def __init__(
        self, leveller: Leveller, snapshot: ComparableSnapshot, scope: Scope, *, dry_run: bool
    ) -> None:
        self._store = leveller._store
        self._progress = leveller._progress
        self._cutting = leveller._cutting
        self._snapshot = snapshot
        self._scope = scope
        self._dry_run = dry_run
        self._done = CopyProgress(tables_total=len(scope.tables))
        self._told = time.monotonic()

    async def all(self) -> CopyProgress:
        tenant_ids = await self._history()
        async with self._store.replacing_tables(
            self._snapshot.position, self._scope.keyed, None
        ) as taking:
            for table in self._scope.keyed:
                await self._take_table(taking.append, table, tenant_ids)
            await taking.finish(tenant_ids)
        return self._done

    async def part(self) -> CopyProgress:
        tenant_ids = await self._history() if self._scope.has_history else await self._tenants()
        if not self._dry_run and self._scope.has_history:
            await self._store.recount()
        if self._dry_run or not self._scope.keyed:
            return self._done
        chosen = None if self._scope.tenant_ids is None else tenant_ids
        async with self._store.replacing_tables(
            self._snapshot.position, self._scope.keyed, chosen
        ) as taking:
            for table in self._scope.keyed:
                await self._take_table(taking.append, table, tenant_ids)
        return self._done

    async def _tenants(self) -> list[int]:
        if self._scope.tenant_ids is None:
            return await self._snapshot.tenant_ids()
        return list(self._scope.tenant_ids)

    async def _history(self) -> list[int]:
        tenant_ids = await self._tenants()
        await self._note(tenants_total=len(tenant_ids))
        for tenant_id in tenant_ids:
            await self._tenant(tenant_id)
            await self._note(tenants_done=self._done.tenants_done + 1, rows_done=0, rows_total=0)
        await self._note(tables_done=1)
        return tenant_ids

    async def _tenant(self, tenant_id: int) -> None:
        piece_us, span = self._cutting.piece_us, self._scope.span
        source, here = await asyncio.gather(
            self._snapshot.row_counts(tenant_id, span, piece_us),
            self._store.row_counts(tenant_id, span, piece_us),
        )
        await self._note(rows_done=0, rows_total=sum(source.values()))
        numbers = source.keys() | here.keys()

        async def level(piece: Span) -> None:
            number = piece.start_us // piece_us
            rows = source.get(number, 0)
            windows = await self._windows(tenant_id, piece, rows, here.get(number, 0))
            for part, part_rows in copied_spans(windows, self._cutting.rows_max):
                await self._take_span(tenant_id, part, part_rows)
                if number in here and not self._dry_run:
                    await self._check(tenant_id, part)
            await self._note(
                rows_done=self._done.rows_done + rows,
                rows_compared=self._done.rows_compared + rows,
            )

        await _each(level, pieces(numbers, span, piece_us), self._cutting.connections)

    async def _windows(
        self, tenant_id: int, piece: Span, source_rows: int, rows_here: int
    ) -> list[WindowState]:
        width_us = self._cutting.window_us
        if source_rows and not rows_here:
            # Nothing to compare with: no digests. Few rows are one window, whatever its width.
            if source_rows <= self._cutting.rows_max:
                return [WindowState(piece, source_rows, differs=True)]
            counts = await self._snapshot.row_counts(tenant_id, piece, width_us)
            source = {number: Digest(rows) for number, rows in counts.items()}
            here: Mapping[int, Digest] = {}
        else:
            source_digests, here = await asyncio.gather(
                self._snapshot.digests(tenant_id, piece, width_us),
                self._store.digests(tenant_id, piece, width_us),
            )
            source = dict(source_digests)
        # Read after the rows: a partition may be dropped at any time, and then they are not there.
        floor_us = await self._snapshot.retention_floor_us()
        return [
            WindowState(
                window.span,
                window.source.rows,
                # The warehouse keeps what retention dropped: it was no deletion.
                differs=not (window.is_matched or window.is_retired(floor_us)),
            )
            for window in paired(source, here, piece, width_us)
        ]

    async def _take_span(self, tenant_id: int, span: Span, rows: int) -> None:
        await self._note(
            spans_copied=self._done.spans_copied + 1,
            rows_differing=self._done.rows_differing + rows,
        )
        if self._dry_run:
            return
        async with aclosing(self._snapshot.table_rows(HISTORY, tenant_id, span)) as copied:
            # The first rows are here before the warehouse is asked to wait for the others.
            first = await anext(copied, None)
            async with self._store.replacing(self._snapshot.position, tenant_id, span) as taking:
                if first is not None:
                    await taking.append(first)
                    async for more in copied:
                        await taking.append(more)
                if taking.row_count + taking.rejected_count != rows:
                    raise WarehouseError(
                        f"{taking.row_count} rows were copied of tenant {tenant_id}, the snapshot"
                        f" has {rows}"
                    )
        await self._note(
            rows_copied=self._done.rows_copied + taking.row_count,
            rows_rejected=self._done.rows_rejected + taking.rejected_count,
        )

    async def _check(self, tenant_id: int, span: Span) -> None:
        """What was taken over is what the snapshot has, by digest: for the windows that differed.

        Where nothing was here before, the number of rows was compared.
        """
        if self._done.rows_rejected:
            return  # They differ for a reason that is told.
        width_us = self._cutting.window_us
        source, here = await asyncio.gather(
            self._snapshot.digests(tenant_id, span, width_us),
            self._store.digests(tenant_id, span, width_us),
        )
        if source != here:
            raise WarehouseError(f"tenant {tenant_id} still differs after {span} was copied")

    async def _take_table(
        self, take: Callable[[CopiedRows], Awaitable[None]], table: Table, tenant_ids: list[int]
    ) -> None:
        owners: Iterable[int | None] = tenant_ids if table.by_tenant else (None,)
        for owner in owners:
            async with aclosing(self._snapshot.table_rows(table, owner)) as copied:
                async for rows in copied:
                    await take(rows)
                    await self._note(rows_copied=self._done.rows_copied + rows.rows.num_rows)
        await self._note(tables_done=self._done.tables_done + 1)

    async def _note(self, **changes: int) -> None:
        self._done = replace(self._done, **changes)
        await self._progress.move(copy=self._done)
        if time.monotonic() - self._told >= _LOG_SECONDS:
            self._told = time.monotonic()
            done = self._done
            _log.info(
                "levelling",
                percent=round(100 * done.share, 1),
                tables=f"{done.tables_done}/{done.tables_total}",
                tenants=f"{done.tenants_done}/{done.tenants_total}",
                rows_compared=done.rows_compared,
                rows_copied=done.rows_copied,
            )


async def _each(work: Callable[[T], Awaitable[None]], items: Iterable[T], concurrency: int) -> None:
    """Do the work for all items, so many at a time; the first failure ends the others."""
    waiting = iter(items)

    async def go_on() -> None:
        for item in waiting:  # Shared: each takes the next.
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(go_on())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
