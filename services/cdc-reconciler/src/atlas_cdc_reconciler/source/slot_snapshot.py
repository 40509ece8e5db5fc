"""The tables as an exported snapshot shows them, while the connection lives that made it."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pyarrow as pa
from psycopg import sql

from atlas_cdc_reconciler.columns import Field, FieldError, table_from
from atlas_cdc_reconciler.digest import Digest, Engine, digests_of, window_digests_sql
from atlas_cdc_reconciler.retention import retention_floor_us
from atlas_cdc_reconciler.source import CopiedRows, SourcePosition
from atlas_cdc_reconciler.source.copy import CopyColumns
from atlas_cdc_reconciler.tables import TABLES, Table
from atlas_cdc_reconciler.windows import Span
from atlas_common.db import (
    Database,
    Isolation,
    ReadConnection,
    load_queries,
    tenant_transaction,
)
from atlas_common.values import us_to_datetime

Q = load_queries("atlas_cdc_reconciler")
_WINDOW_DIGESTS = window_digests_sql(
    Engine.POSTGRES, ("%(tenant_id)s", "%(start)s", "%(stop)s", "%(width_us)s::bigint")
).encode()


@dataclass(frozen=True)
class SlotSnapshot:
    """The tables at the slot's first position.

    Every call is a transaction of its own on a pooled connection, so that several may work at a
    time and none waits inside one. All raise psycopg.Error once the snapshot is gone.
    """

    database: Database
    snapshot_name: str
    position: SourcePosition
    rows_max: int

    async def tenant_ids(self) -> list[int]:
        """All tenants."""
        async with self._transaction(None) as connection:
            await self._adopt(connection)
            cursor = await connection.execute(Q["list_tenants"], {})
            return [row[0] for row in await cursor.fetchall()]

    async def retention_floor_us(self) -> int:
        """See retention.py: as it is now, whatever the snapshot shows."""
        return await retention_floor_us(self.database)

    async def row_counts(self, tenant_id: int, span: Span, width_us: int) -> Mapping[int, int]:
        """Rows of the history by window of this width, by its number since 1970."""
        async with self._transaction(tenant_id) as connection:
            await self._adopt(connection)
            cursor = await connection.execute(
                Q["window_row_counts"], _within(tenant_id, span, width_us)
            )
            return dict(await cursor.fetchall())

    async def digests(self, tenant_id: int, span: Span, width_us: int) -> Mapping[int, Digest]:
        """Digests of the history's windows that have rows, by number since 1970."""
        async with self._transaction(tenant_id) as connection:
            await self._adopt(connection)
            cursor = await connection.execute(_WINDOW_DIGESTS, _within(tenant_id, span, width_us))
            rows = await cursor.fetchall()
        return digests_of(rows)

    async def table_rows(
        self, table: Table, tenant_id: int | None, span: Span | None = None
    ) -> AsyncGenerator[CopiedRows, None]:
        """Rows of one table, of one tenant if it is by tenant, within a span of ingested_at."""
        columns = sql.SQL(", ").join(map(sql.Identifier, table.column_names))
        query = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(table.name))
        conditions = []
        if tenant_id is not None:
            conditions.append(sql.SQL("tenant_id = {}").format(sql.Literal(tenant_id)))
        if span is not None:
            start, stop = (us_to_datetime(us) for us in (span.start_us, span.stop_us))
            conditions.append(
                sql.SQL("ingested_at >= {} AND ingested_at < {}").format(
                    sql.Literal(start), sql.Literal(stop)
                )
            )
        if conditions:
            query = sql.SQL("{} WHERE {}").format(query, sql.SQL(" AND ").join(conditions))
        async with self._transaction(tenant_id if table.by_tenant else None) as connection:
            await self._adopt(connection)
            async for piece in self._copy(connection, table, query):
                yield piece

    async def rows(self) -> AsyncIterator[CopiedRows]:
        """As InitialSnapshot.rows."""
        for table in TABLES.values():
            if not table.by_tenant:
                async for piece in self.table_rows(table, None):
                    yield piece
        for tenant_id in await self.tenant_ids():
            for table in TABLES.values():
                if table.by_tenant:
                    async for piece in self.table_rows(table, tenant_id):
                        yield piece

    def _transaction(self, tenant_id: int | None) -> AbstractAsyncContextManager[ReadConnection]:
        isolation = Isolation.REPEATABLE_READ
        if tenant_id is None:
            return self.database.transaction(read_only=True, isolation=isolation)
        return tenant_transaction(self.database, tenant_id, read_only=True, isolation=isolation)

    async def _adopt(self, connection: ReadConnection) -> None:
        name = sql.Literal(self.snapshot_name)
        await connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(name))
        # The largest table of all may be read in one statement.
        await connection.execute("SET LOCAL statement_timeout = 0")

    async def _copy(
        self, connection: ReadConnection, table: Table, query: sql.Composable
    ) -> AsyncIterator[CopiedRows]:
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
        rows = CopyColumns(len(table.columns))
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            async for data in copy:
                rows.feed(bytes(data))
                if rows.row_count >= self.rows_max:
                    yield _copied(table, rows)
        if rows.row_count:
            yield _copied(table, rows)


def _within(tenant_id: int, span: Span, width_us: int) -> dict[str, object]:
    return {
        "tenant_id": tenant_id,
        "start": us_to_datetime(span.start_us),
        "stop": us_to_datetime(span.stop_us),
        "width_us": width_us,
    }


def _copied(table: Table, gathered: CopyColumns) -> CopiedRows:
    """What was gathered, in the warehouse's columns."""
    rejected: list[tuple[bytes, str]] = []
    try:
        rows = _columns(table, gathered.columns)
    except FieldError:
        rows = _sifted(table, gathered, rejected)
    gathered.take()
    return CopiedRows(table, rows, tuple(rejected))


def _sifted(table: Table, gathered: CopyColumns, rejected: list[tuple[bytes, str]]) -> pa.Table:
    """The rows that fit; the others go to `rejected`. One by one: slow, and hardly ever needed."""
    kept: list[list[Field]] = [[] for _ in table.columns]
    for number in range(gathered.row_count):
        fields = [column[number] for column in gathered.columns]
        try:
            _columns(table, [[field] for field in fields])
        except FieldError as error:
            rejected.append((gathered.row(number), str(error)))
            continue
        for column, field in zip(kept, fields, strict=True):
            column.append(field)
    return _columns(table, kept)


def _columns(table: Table, fields: Sequence[Sequence[Field]]) -> pa.Table:
    return table_from(
        {
            column.name: (column.type, values)
            for column, values in zip(table.columns, fields, strict=True)
        }
    )
