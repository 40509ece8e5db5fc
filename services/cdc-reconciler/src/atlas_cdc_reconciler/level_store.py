"""The store of levelling: what of the warehouse differs from a snapshot, and rows taken over."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import duckdb

from atlas_cdc_reconciler.digest import Digest, Engine, digests_of, window_digests_sql
from atlas_cdc_reconciler.lsn import LogPosition
from atlas_cdc_reconciler.sink.books import forget_rows
from atlas_cdc_reconciler.sink.doubt import doubt_windows
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse, Exclusive
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.replaying import supersede
from atlas_cdc_reconciler.source import CopiedRows, SourcePosition
from atlas_cdc_reconciler.tables import HISTORY, Table
from atlas_cdc_reconciler.windows import Span

_WINDOW_DIGESTS = window_digests_sql(
    Engine.DUCKDB,
    ("$tenant_id", "make_timestamptz($start)", "make_timestamptz($stop)", "$width_us::BIGINT"),
)


class Taking:
    """Rows of a snapshot on their way into the warehouse, within one transaction."""

    def __init__(self, exclusive: Exclusive, at: LogPosition) -> None:
        self._exclusive = exclusive
        self._at = at
        self.row_count = 0
        self.rejected_count = 0

    async def append(self, copied: CopiedRows) -> None:
        """Take in rows. What cannot be held is buried, once however often it is copied."""
        if copied.rejected:
            self.rejected_count += len(copied.rejected)
            known = await self._exclusive.execute(
                "buried_copies", {"table_name": copied.table.name}
            )
            buried = {bytes(raw) for (raw,) in known}
            new = tuple(row for row in copied.rejected if row[0] not in buried)
            copied = replace(copied, rejected=new)
        self.row_count += copied.rows.num_rows
        await self._exclusive.append(self._at, copied)


class LevelStore:
    """Reads and replaces parts of the warehouse."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        self._warehouse = warehouse

    async def levelling(self) -> str | None:
        """Why the warehouse is being levelled; None: it is not."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["levelling"])
        return str(rows[0][0]) if rows else None

    async def begin(self, reason: str) -> None:
        """Remember that from now on the warehouse may be neither the old state nor the new one."""
        await self._warehouse.write([(Q["begin_levelling"], {"reason": reason})])

    async def set_timeline(self, timeline: int) -> None:
        """Remember which fork of the log the position lies on."""
        await self._warehouse.write([(Q["set_timeline"], {"timeline": timeline})])

    async def row_counts(self, tenant_id: int, span: Span, width_us: int) -> Mapping[int, int]:
        """Rows of the history by window of this width, by its number since 1970."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["window_row_counts"], _within(tenant_id, span, width_us))
        return dict(rows)

    async def digests(self, tenant_id: int, span: Span, width_us: int) -> Mapping[int, Digest]:
        """Digests of the history's windows that have rows, by number since 1970."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(_WINDOW_DIGESTS, _within(tenant_id, span, width_us))
        return digests_of(rows)

    async def recount(self) -> None:
        """Let the books say what rows there are: what they said before may have been healed."""
        await self._warehouse.write([(Q["recount_rows"], {"tenant_id": None})])

    @asynccontextmanager
    async def replacing(
        self, position: SourcePosition, tenant_id: int, span: Span
    ) -> AsyncIterator[Taking]:
        """Take over a span of a tenant's history instead of what is here, or leave it as it is."""
        parameters = {"tenant_id": tenant_id, "start": span.start_us, "stop": span.stop_us}
        async with self._warehouse.exclusive() as exclusive:
            await exclusive.do(lambda connection: _drop_span(connection, parameters))
            yield Taking(exclusive, position.at)

    @asynccontextmanager
    async def replacing_tables(
        self, position: SourcePosition, tables: tuple[Table, ...], tenant_ids: list[int] | None
    ) -> AsyncIterator["TableTaking"]:
        """Take over tables with a key whole, or their rows of some tenants."""
        async with self._warehouse.exclusive() as exclusive:
            for table in tables:
                await exclusive.do(
                    lambda connection, table=table: _drop_keyed(  # type: ignore[misc]
                        connection, table, tenant_ids
                    )
                )
            yield TableTaking(exclusive, position)


class TableTaking(Taking):
    """The last step of levelling: tables with a key, and with them how far the warehouse is."""

    def __init__(self, exclusive: Exclusive, position: SourcePosition) -> None:
        super().__init__(exclusive, position.at)
        self._position = position

    async def finish(self, tenant_ids: list[int]) -> None:
        """The warehouse stands at the snapshot's position; tenants that are gone are gone here."""
        await self._exclusive.do(lambda connection: _keep_tenants(connection, tenant_ids))
        await self._exclusive.execute("recount_rows", {"tenant_id": None})
        await self._exclusive.begin_at(self._position)
        await self._exclusive.execute("end_levelling")


def _drop_span(connection: duckdb.DuckDBPyConnection, parameters: dict[str, int]) -> None:
    connection.execute(Q["span_rows"], parameters)
    doubt_windows(connection, "replaced_rows")
    tenant_id, span = parameters["tenant_id"], (parameters["start"], parameters["stop"])
    deleted = connection.execute(Q["drop_span"], parameters).fetchone()
    forget_rows(connection, {tenant_id: deleted[0] if deleted else 0})
    supersede(connection, HISTORY.name, [tenant_id], span, with_copies=True)


def _drop_keyed(
    connection: duckdb.DuckDBPyConnection, table: Table, tenant_ids: list[int] | None
) -> None:
    supersede(connection, table.name, tenant_ids, with_copies=True)
    if tenant_ids is None:
        connection.execute(f"DELETE FROM {table.name}")  # noqa: S608 - our own name.
        return
    connection.execute(
        f"DELETE FROM {table.name} WHERE list_contains($tenant_ids, tenant_id)",  # noqa: S608
        {"tenant_ids": tenant_ids},
    )


def _keep_tenants(connection: duckdb.DuckDBPyConnection, tenant_ids: list[int]) -> None:
    supersede(connection, with_copies=False)  # Also of windows that were found to be equal.
    gone = connection.execute(
        f"SELECT tenant_id, count(*) FROM {HISTORY.name}"  # noqa: S608
        " WHERE NOT list_contains($tenant_ids, tenant_id) GROUP BY tenant_id",
        {"tenant_ids": tenant_ids},
    ).fetchall()
    forget_rows(connection, dict(gone))
    connection.execute(
        f"DELETE FROM {HISTORY.name} WHERE NOT list_contains($tenant_ids, tenant_id)",  # noqa: S608
        {"tenant_ids": tenant_ids},
    )


def _within(tenant_id: int, span: Span, width_us: int) -> dict[str, object]:
    return {
        "tenant_id": tenant_id,
        "start": span.start_us,
        "stop": span.stop_us,
        "width_us": width_us,
    }
