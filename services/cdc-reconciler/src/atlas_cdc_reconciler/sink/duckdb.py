"""The sink that keeps the warehouse in a DuckDB file."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import duckdb

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.changes import Batch, Relation
from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.sink import (
    Counts,
    SinkState,
    TooManyDeadLettersError,
    WarehouseError,
)
from atlas_cdc_reconciler.sink.apply import PoisonError, append_rows, apply_runs
from atlas_cdc_reconciler.sink.reading import Reader, ReadGate
from atlas_cdc_reconciler.sink.warehouse_file import opened
from atlas_cdc_reconciler.source import CopiedRows, SourcePosition, copy
from atlas_common.db import NO_BEAT, Beat, load_queries
from atlas_common.errors import FatalError
from atlas_common.telemetry import logger

T = TypeVar("T")
Parameters = Mapping[str, object]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REASON_CHARS_MAX = 1_000
_log = logger(__name__)
Q = {
    name: query.decode()
    for name, query in load_queries("atlas_cdc_reconciler", file="warehouse.sql").items()
}


class DuckDbWarehouse:
    """One thread writes, through one connection; readers have cursors of their own.

    DuckDB's readers see the last commit as of their first query, whatever is written meanwhile.
    """

    def __init__(self, config: WarehouseConfig) -> None:
        self._config = config
        self._writer = ThreadPoolExecutor(1, "warehouse-writer")
        self._resources = ExitStack()  # Entered and closed in the writer's thread.
        self._connection: duckdb.DuckDBPyConnection
        self._reads = ReadGate(config.concurrent_reads_max, config.waiting_reads_max)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: WarehouseConfig) -> AsyncIterator["DuckDbWarehouse"]:
        """Own the file until the block ends. Raises FatalError when it cannot be owned."""
        warehouse = cls(config)
        try:
            await warehouse._run(warehouse._open)
            yield warehouse
        finally:
            await warehouse._reads.close()
            await warehouse._run(warehouse._resources.close)
            warehouse._writer.shutdown()

    async def state(self) -> SinkState:
        """As Sink.state."""
        return await self._run(self._state)

    @asynccontextmanager
    async def load(self, position: SourcePosition) -> AsyncIterator["DuckDbLoad"]:
        """As Sink.load."""
        await self._run(lambda: self._connection.execute("BEGIN"))
        try:
            yield DuckDbLoad(self, position)
            await self._run(lambda: self._finish_load(position))
        except BaseException:
            # Not awaited when cancelled a second time, but the thread still does it.
            await self._run(self._rollback)
            raise

    async def apply(self, batch: Batch) -> SinkState:
        """As Sink.apply."""
        return await self._run(lambda: self._apply(batch))

    async def counts(self) -> Mapping[str, Counts]:
        """As Sink.counts."""
        async with self.reader() as reader:
            return {row[0]: Counts(*row[1:]) for row in await reader.all(Q["counts"])}

    def reader(self) -> AbstractAsyncContextManager[Reader]:
        """A consistent view of the warehouse; see ReadGate.snapshot."""
        return self._reads.snapshot(self._connection)

    async def write(self, statements: list[tuple[str, Parameters]]) -> None:
        """Run statements in one transaction, between batches. Raises WarehouseError."""

        def run() -> None:
            self._connection.execute("BEGIN")
            for statement, parameters in statements:
                self._connection.execute(statement, dict(parameters))
            self._connection.execute("COMMIT")

        await self._run(lambda: self._or_rollback(run))

    async def transact(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Do work in one transaction in the writer's thread, between batches.

        What it raises rolls everything back. Raises WarehouseError.
        """

        def run() -> T:
            self._connection.execute("BEGIN")
            result = work(self._connection)
            self._connection.execute("COMMIT")
            return result

        return await self._run(lambda: self._or_rollback(run))

    # From here on: in the writer's thread ---------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        """Work in the writer's thread; it is not interrupted when the caller is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._writer, work)
        try:
            return await asyncio.shield(future)
        except duckdb.FatalException as error:  # The database object is unusable from now on.
            raise FatalError(f"the warehouse failed: {error}") from error
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise WarehouseError(str(error)) from error

    def _open(self) -> None:
        self._connection = self._resources.enter_context(opened(self._config))

    def _rollback(self) -> None:
        with suppress(duckdb.TransactionException):  # None was open.
            self._connection.execute("ROLLBACK")

    def _or_rollback(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except BaseException:
            self._rollback()
            raise

    def _query(self, name: str, parameters: Parameters | None = None) -> list[tuple[object, ...]]:
        return self._connection.execute(Q[name], dict(parameters or {})).fetchall()

    def _state(self) -> SinkState:
        position = None
        for source_id, offset, lsn in self._query("position"):
            at = LogPosition(int(str(offset)), Lsn(int(str(lsn))))
            position = SourcePosition(str(source_id), at)
        return SinkState(position, self._beat())

    def _beat(self) -> Beat:
        row = self._connection.execute(Q["newest_beat"]).fetchone()
        return NO_BEAT if row is None else Beat(row[0], _EPOCH + timedelta(microseconds=row[1]))

    def _append(self, at: LogPosition, copied: CopiedRows) -> None:
        table, rejected = copied.table, len(copied.rejected)
        append_rows(self._connection, table, copied.rows)
        for raw, reason in copied.rejected:
            _log.error("dead letter", table=table.name, kind="COPY", reason=reason)
            relation = copy.relation(table)
            self._bury(at, relation, "COPY", raw=raw, reason=reason)
        applied = copied.rows.num_rows
        self._count(table.name, Counts(applied + rejected, applied, rejected, 0))

    def _finish_load(self, position: SourcePosition) -> None:
        self._query("begin_position", {"source_id": position.source_id, **_stored(position.at)})
        self._connection.execute("COMMIT")

    def _apply(self, batch: Batch) -> SinkState:
        state = self._state()
        if state.position is None:
            raise RuntimeError("changes before the first copy")
        if batch.position <= state.position.at:
            return state
        if batch.start != state.position.at:
            raise WarehouseError(
                f"the batch begins at {batch.start}, the warehouse stands at {state.position.at}"
            )
        poison: dict[int, str] = {}
        while not self._or_rollback(lambda: self._try(batch, poison)):
            ordinal, reason = self._or_rollback(lambda: self._find_poison(batch, poison))
            run, _ = batch.change(ordinal)
            poison[ordinal] = reason
            _log.error(
                "dead letter",
                table=run.relation.name,
                kind=run.kind.name,
                commit=str(run.commit),
                reason=reason,
            )
            if len(poison) > self._config.dead_letters_per_batch_max:
                raise TooManyDeadLettersError(
                    f"more than {self._config.dead_letters_per_batch_max} changes of one batch"
                    f" cannot be applied, the last one: {reason}"
                )
        return SinkState(SourcePosition(state.position.source_id, batch.position), self._beat())

    def _try(self, batch: Batch, poison: Mapping[int, str]) -> bool:
        """Commit the batch less its dead letters; False, and nothing stored, if there are more."""
        self._connection.execute("BEGIN")
        try:
            apply_runs(self._connection, batch.part(batch.change_count, poison))
        except PoisonError:
            self._rollback()
            return False
        self._keep_books(batch, poison)
        self._query("set_position", _stored(batch.position))
        self._connection.execute("COMMIT")
        return True

    def _find_poison(self, batch: Batch, poison: Mapping[int, str]) -> tuple[int, str]:
        """A change that cannot be applied behind those before it, and why: by bisection."""
        good, bad = 0, batch.change_count  # `good` first changes can be applied, `bad` cannot.
        reason = self._fault(batch, bad, poison)
        if reason is None:
            raise WarehouseError("a batch could not be applied, and then it could")
        while bad - good > 1:
            middle = (good + bad) // 2
            found = self._fault(batch, middle, poison)
            if found is None:
                good = middle
            else:
                bad, reason = middle, found
        return bad - 1, reason

    def _fault(self, batch: Batch, stop: int, poison: Mapping[int, str]) -> str | None:
        """Why the changes before `stop` cannot be applied; None if they can. Stores nothing."""
        self._connection.execute("BEGIN")
        try:
            apply_runs(self._connection, batch.part(stop, poison))
        except PoisonError as error:
            return str(error)[:_REASON_CHARS_MAX]
        finally:
            self._rollback()
        return None

    def _keep_books(self, batch: Batch, poison: Mapping[int, str]) -> None:
        dead: dict[str, int] = {}
        for ordinal, reason in poison.items():
            run, raw = batch.change(ordinal)
            name = run.relation.name
            dead[name] = dead.get(name, 0) + 1
            self._bury(run.commit, run.relation, run.kind.name, raw=raw, reason=reason)
        changes = batch.counts()
        for name in changes.keys() | batch.skipped.keys():
            buried, skipped = dead.get(name, 0), batch.skipped[name]
            read = changes[name] + skipped
            self._count(name, Counts(read, read - buried - skipped, buried, skipped))

    def _bury(
        self, at: LogPosition, relation: Relation, kind: str, *, raw: bytes, reason: str
    ) -> None:
        letter = {
            **_stored(at),
            "table_name": relation.name,
            "kind": kind,
            "codec": relation.codec.name,
            "source_columns": relation.columns_text(),
            "raw": raw,
            "reason": reason,
        }
        self._query("bury", letter)

    def _count(self, table_name: str, counts: Counts) -> None:
        outcomes = asdict(counts)
        del outcomes["read"]
        for outcome, number in outcomes.items():
            if number:
                metrics.changes.add(number, {"table": table_name, "outcome": outcome})
        self._query(
            "count_changes",
            {"table_name": table_name, "read": counts.read, **outcomes},
        )


def _stored(position: LogPosition) -> Parameters:
    return {"log_offset": position.offset, "lsn": position.lsn.value}


class DuckDbLoad:
    """As sink.Load: within the one transaction of DuckDbWarehouse.load()."""

    def __init__(self, warehouse: DuckDbWarehouse, position: SourcePosition) -> None:
        self._warehouse = warehouse
        self._position = position

    async def append(self, copied: CopiedRows) -> None:
        """As Load.append."""
        await self._warehouse._run(lambda: self._warehouse._append(self._position.at, copied))
