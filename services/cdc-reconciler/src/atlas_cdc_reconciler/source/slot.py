"""The source that reads Postgres' logical replication slot itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from atlas_cdc_reconciler.changes import Batch, MessageError
from atlas_cdc_reconciler.columns import Field, FieldError, table_from
from atlas_cdc_reconciler.config import SlotConfig
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.source import CopiedRows, SourceLostError, SourcePosition
from atlas_cdc_reconciler.source.collector import Collector
from atlas_cdc_reconciler.source.copy import CopyColumns
from atlas_cdc_reconciler.source.walsender import Walsender, open_walsender
from atlas_cdc_reconciler.tables import TABLES, Table
from atlas_common.config import DatabaseConfig
from atlas_common.db import (
    Connection,
    Database,
    Isolation,
    ReadConnection,
    load_queries,
    tenant_transaction,
)
from atlas_common.telemetry import logger

Q = load_queries("atlas_cdc_reconciler")
_log = logger(__name__)
_PLUGIN = "pgoutput"
_REBUILD = "rebuild the warehouse: stop this service, move its file away, start it again"
# The loop's other tasks get their turn after this many messages.
_MESSAGES_PER_TURN = 500


class SlotSource:
    """Reads one slot; at most one process can, the server sees to that."""

    def __init__(self, config: SlotConfig, direct: DatabaseConfig, database: Database) -> None:
        self._config = config
        self._direct = direct
        self._database = database

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["SlotSnapshot"]:
        """As Source.snapshot: makes the slot, and shows the tables as of its very beginning."""
        async with open_walsender(self._direct) as walsender:
            await self._drop_leftover()
            identity = await walsender.command(sql.SQL("IDENTIFY_SYSTEM"))
            slot = await walsender.command(
                sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')").format(
                    sql.Identifier(self._config.name)
                )
            )
            position = SourcePosition(
                self._source_id(identity["systemid"]),
                LogPosition.at(Lsn.parse(slot["consistent_point"])),
            )
            _log.info("slot made", slot=self._config.name, position=str(position.lsn))
            # The exported snapshot lives as long as this connection stays as it is.
            yield SlotSnapshot(
                self._database, slot["snapshot_name"], position, self._config.snapshot_rows_max
            )

    @asynccontextmanager
    async def stream(self, position: SourcePosition) -> AsyncIterator["SlotStream"]:
        """As Source.stream."""
        async with AsyncExitStack() as stack:
            walsender = await stack.enter_async_context(open_walsender(self._direct))
            identity = await walsender.command(sql.SQL("IDENTIFY_SYSTEM"))
            source_id = self._source_id(identity["systemid"])
            if source_id != position.source_id:
                raise SourceLostError(
                    f"the warehouse was filled from {position.source_id}, this is {source_id}:"
                    f" {_REBUILD}"
                )
            await self._check_slot(position.lsn)
            try:
                await walsender.start(self._config.name, self._config.publication)
            except psycopg.errors.ObjectNotInPrerequisiteState as error:
                raise SourceLostError(f"slot {self._config.name}: {error}; {_REBUILD}") from error
            stream = SlotStream(walsender, self._config, position.lsn)
            life = asyncio.create_task(stream.keep_alive(), name="slot-status")
            stack.callback(life.cancel)
            yield stream

    async def retained_bytes(self) -> int:
        """As Source.retained_bytes."""
        async with self._database.transaction(read_only=True) as connection:
            row = await _one(connection, "slot_retained_bytes", slot=self._config.name)
        return int(row[0]) if row else 0

    async def _check_slot(self, position: Lsn) -> None:
        name = self._config.name
        async with self._database.transaction(read_only=True) as connection:
            row = await _one(connection, "slot", slot=name)
        if row is None:
            raise SourceLostError(f"slot {name} is gone: {_REBUILD}")
        plugin, is_here, _, wal_status, confirmed = row
        if plugin != _PLUGIN or not is_here:
            raise SourceLostError(f"slot {name} is another's (plugin {plugin}): {_REBUILD}")
        if wal_status == "lost":
            raise SourceLostError(f"slot {name} lost its log: it fell too far behind; {_REBUILD}")
        if confirmed is not None and Lsn(confirmed) > position:
            # Somebody else read from it, or the warehouse's file is an old copy.
            raise SourceLostError(
                f"slot {name} stands at {Lsn(confirmed)}, beyond the warehouse at {position}:"
                f" the changes between are lost; {_REBUILD}"
            )

    async def _drop_leftover(self) -> None:
        async with self._database.transaction(read_only=True) as connection:
            row = await _one(connection, "slot", slot=self._config.name)
        if row is None:
            return
        _log.warning("dropping a slot that no warehouse stands on", slot=self._config.name)
        async with self._database.transaction() as connection:
            await connection.execute(Q["drop_slot"], {"slot": self._config.name})

    def _source_id(self, system_id: str) -> str:
        return f"{system_id}/{self._config.name}"


@dataclass(frozen=True)
class SlotSnapshot:
    """The tables at the slot's first position."""

    database: Database
    snapshot_name: str
    position: SourcePosition
    rows_max: int

    async def rows(self) -> AsyncIterator[CopiedRows]:
        """As InitialSnapshot.rows."""
        async with self.database.transaction(
            read_only=True, isolation=Isolation.REPEATABLE_READ
        ) as connection:
            await self._adopt(connection)
            for table in TABLES.values():
                if not table.by_tenant:
                    async for piece in self._copy(connection, table):
                        yield piece
            cursor = await connection.execute(Q["list_tenants"], {})
            tenant_ids = [row[0] for row in await cursor.fetchall()]
        for tenant_id in tenant_ids:
            async with tenant_transaction(
                self.database, tenant_id, read_only=True, isolation=Isolation.REPEATABLE_READ
            ) as connection:
                await self._adopt(connection)
                for table in TABLES.values():
                    if table.by_tenant:
                        async for piece in self._copy(connection, table):
                            yield piece

    async def _adopt(self, connection: ReadConnection) -> None:
        name = sql.Literal(self.snapshot_name)
        await connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(name))
        # The largest table of all is read in one statement.
        await connection.execute("SET LOCAL statement_timeout = 0")

    async def _copy(self, connection: ReadConnection, table: Table) -> AsyncIterator[CopiedRows]:
        statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT BINARY)").format(
            sql.SQL(", ").join(map(sql.Identifier, table.column_names)),
            sql.Identifier(table.name),
        )
        rows = CopyColumns(len(table.columns))

        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            async for data in copy:
                rows.feed(bytes(data))
                if rows.row_count >= self.rows_max:
                    yield _copied(table, rows)
        if rows.row_count:
            yield _copied(table, rows)


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


class SlotStream:
    """The slot's changes as they are committed."""

    def __init__(self, walsender: Walsender, config: SlotConfig, position: Lsn) -> None:
        self._walsender = walsender
        self._config = config
        self._collector = Collector(position)
        self._walsender.confirm(position)

    async def next_batch(self) -> Batch:
        """As ChangeStream.next_batch: waits for a change, then a moment for more of them."""
        collector, config = self._collector, self._config
        ends: float | None = None
        while True:
            arrived = self._gather()
            if not collector.in_transaction and collector.has_news:
                now = time.monotonic()
                if ends is None:
                    ends = now + config.linger_ms / 1000
                if now >= ends or self._is_full():
                    return collector.take()
            self._check_size()
            if arrived:
                await asyncio.sleep(0)
                continue
            linger = None if ends is None else max(0.0, ends - time.monotonic())
            await self._walsender.wait(None if collector.in_transaction else linger)

    def confirm(self, position: LogPosition) -> None:
        """As ChangeStream.confirm; the server hears of it within a second."""
        self._walsender.confirm(position.lsn)

    async def keep_alive(self) -> None:
        """Tell the server about us, again and again, also while a batch is being applied."""
        # When the connection is lost, next_batch tells of it.
        with suppress(psycopg.Error):
            while True:
                self._walsender.send_status()
                await asyncio.sleep(self._config.status_interval_seconds)

    def _gather(self) -> bool:
        """Feed what has arrived, a bounded piece of it; says whether there was anything."""
        for count in range(_MESSAGES_PER_TURN):
            raw = self._walsender.receive()
            if raw is None:
                return count > 0
            try:
                self._collector.feed(raw)
            except MessageError as error:
                # Not a bad row but a stream we cannot follow: to skip it would be to guess.
                raise SourceLostError(f"the stream cannot be read: {error}") from error
            if not self._collector.in_transaction and self._is_full():
                return True
        return True

    def _is_full(self) -> bool:
        collector = self._collector
        return (
            collector.change_count >= self._config.batch_changes_max
            or collector.byte_count >= self._config.batch_bytes_max
        )

    def _check_size(self) -> None:
        if self._collector.byte_count > self._config.transaction_bytes_max:
            raise SourceLostError(
                f"a transaction has over {self._config.transaction_bytes_max} bytes of changes:"
                " raise ATLAS_SLOT__TRANSACTION_BYTES_MAX to have memory spent on it"
            )


async def _one(
    connection: Connection | ReadConnection, query: str, **parameters: object
) -> tuple[Any, ...] | None:
    cursor = await connection.execute(Q[query], parameters)
    return await cursor.fetchone()
