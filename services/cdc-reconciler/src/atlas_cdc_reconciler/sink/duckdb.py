"""The sink that keeps the warehouse in a DuckDB file."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import duckdb

from atlas_cdc_reconciler.changes import Batch
from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.letters import Replayed, Request
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.sink import Counts, SinkState, WarehouseError, replaying
from atlas_cdc_reconciler.sink.applier import Applier, stored
from atlas_cdc_reconciler.sink.ownership import Claim
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.reading import Reader, ReadGate
from atlas_cdc_reconciler.sink.warehouse_file import opened
from atlas_cdc_reconciler.source import CopiedRows, SourcePosition
from atlas_common import errors
from atlas_common.db import NO_BEAT, Beat
from atlas_common.errors import FatalError

T = TypeVar("T")
Parameters = Mapping[str, object]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DuckDbWarehouse:
    """One thread writes, through one connection; readers have cursors of their own.

    DuckDB's readers see the last commit as of their first query, whatever is written meanwhile.
    """

    def __init__(self, config: WarehouseConfig) -> None:
        self._config = config
        self._writer = ThreadPoolExecutor(1, "warehouse-writer")
        self._resources = ExitStack()  # Entered and closed in the writer's thread.
        self._connection: duckdb.DuckDBPyConnection
        self._applier: Applier
        self.is_open = False
        """Whether the file is ours, so that it can be read."""
        # A transaction of several steps must not be joined by others' statements.
        self._turn = asyncio.Lock()
        self._reads = ReadGate(config.concurrent_reads_max, config.waiting_reads_max)

    @classmethod
    @asynccontextmanager
    async def open(cls, config: WarehouseConfig) -> AsyncIterator["DuckDbWarehouse"]:
        """Own the file until the block ends. Raises FatalError when it cannot be owned."""
        async with cls.unopened(config) as warehouse:
            await warehouse.own()
            yield warehouse

    @classmethod
    @asynccontextmanager
    async def unopened(cls, config: WarehouseConfig) -> AsyncIterator["DuckDbWarehouse"]:
        """A standby's: until `own`, whatever is asked of it is refused as UNAVAILABLE."""
        warehouse = cls(config)
        try:
            yield warehouse
        finally:
            await warehouse._reads.close()
            await warehouse._in_thread(warehouse._resources.close)
            warehouse._writer.shutdown()

    async def own(self, claim: Claim | None = None) -> None:
        """Own the file from now on; `claim` is what to do with a former leader that holds it.

        Raises FatalError when it cannot be owned.
        """
        if self.is_open:
            return
        await self._in_thread(lambda: self._open(claim))
        self.is_open = True

    async def claim(self, owner: str) -> int:
        """As Sink.claim."""
        async with self._turn:
            return await self._run(lambda: self._applier.claim(owner))

    async def state(self) -> SinkState:
        """As Sink.state."""
        return await self._run(self._state)

    @asynccontextmanager
    async def load(self, position: SourcePosition) -> AsyncIterator["DuckDbLoad"]:
        """As Sink.load."""
        async with self.exclusive():
            yield DuckDbLoad(self, position)
            await self._run(lambda: self._begin_at(position))

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator["Exclusive"]:
        """One transaction over several steps; nothing else is written meanwhile.

        Leaving the block commits it, an exception drops all of it.
        """
        async with self._turn:
            try:
                # A cancelled caller waits no longer, but the thread begins all the same: left open,
                # the transaction would be in the way of whoever has the next turn.
                await self._run(self._begin)
                yield Exclusive(self)
                await self._run(self._commit)
            except BaseException:
                # Not awaited when cancelled a second time, but the thread still does it.
                await self._run(self._rollback)
                raise

    async def apply(self, batch: Batch) -> SinkState:
        """As Sink.apply."""
        async with self._turn:
            return await self._run(lambda: self._apply(batch))

    async def counts(self) -> Mapping[str, Counts]:
        """As Sink.counts."""
        async with self.reader() as reader:
            return {row[0]: Counts(*row[1:]) for row in await reader.all(Q["counts"])}

    def reader(self) -> AbstractAsyncContextManager[Reader]:
        """A consistent view of the warehouse; see ReadGate.snapshot.

        Raises ServiceError UNAVAILABLE / DEPENDENCY_UNAVAILABLE on a standby.
        """
        self._check_open()
        return self._reads.snapshot(self._connection)

    async def replay(self, request: Request, *, adopt_schema: bool = False) -> Replayed:
        """See replaying.replay; between batches."""
        async with self._turn:
            return await self._run(
                lambda: replaying.replay(self._applier, request, adopt_schema=adopt_schema)
            )

    async def discard(self, request: Request, reason: str) -> int:
        """See replaying.discard; between batches."""
        async with self._turn:
            return await self._run(lambda: replaying.discard(self._applier, request, reason))

    async def write(self, statements: Sequence[tuple[str, Parameters]]) -> None:
        """Run statements in one transaction, between batches. Raises WarehouseError."""

        def run() -> None:
            self._begin()
            for statement, parameters in statements:
                self._connection.execute(statement, dict(parameters))
            self._connection.execute("COMMIT")

        async with self._turn:
            await self._run(lambda: self._or_rollback(run))

    async def checkpoint(self) -> None:
        """Give back the space of rows that were deleted; as far as no reader still sees them.

        Raises WarehouseError.
        """
        async with self._turn:
            await self._run(lambda: self._connection.execute("CHECKPOINT"))

    async def transact(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Do work in one transaction in the writer's thread, between batches.

        What it raises rolls everything back. Raises WarehouseError.
        """

        def run() -> T:
            self._begin()
            result = work(self._connection)
            self._commit()
            return result

        async with self._turn:
            return await self._run(lambda: self._or_rollback(run))

    # From here on: in the writer's thread ---------------------------------------------------------

    def _check_open(self) -> None:
        if not self.is_open:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", "this instance is a standby: the warehouse is another's"
            )

    async def _run(self, work: Callable[[], T]) -> T:
        self._check_open()
        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Work in the writer's thread; it is not interrupted when the caller is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._writer, work)
        try:
            return await asyncio.shield(future)
        except duckdb.FatalException as error:  # The database object is unusable from now on.
            raise FatalError(f"the warehouse failed: {error}") from error
        # The last: so a disk without space shows at COMMIT.
        except (
            duckdb.IOException,
            duckdb.OutOfMemoryException,
            duckdb.TransactionException,
        ) as error:
            raise WarehouseError(str(error)) from error

    def _open(self, claim: Claim | None) -> None:
        self._connection = self._resources.enter_context(opened(self._config, claim))
        self._applier = Applier(self._connection, self._config)

    def _begin(self) -> None:
        self._applier.begin()
        self._applier.check_owner(strict=False)

    def _commit(self) -> None:
        self._connection.execute("COMMIT")
        self._applier.forget()  # Letters may have come, or gone.

    def _rollback(self) -> None:
        self._applier.rollback()

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
        for source_id, offset, lsn, timeline in self._query("position"):
            at = LogPosition(int(str(offset)), Lsn(int(str(lsn))))
            position = SourcePosition(str(source_id), at, int(str(timeline)))
        return SinkState(position, self._beat())

    def _beat(self) -> Beat:
        row = self._connection.execute(Q["newest_beat"]).fetchone()
        return NO_BEAT if row is None else Beat(row[0], _EPOCH + timedelta(microseconds=row[1]))

    def _append(self, at: LogPosition, copied: CopiedRows) -> None:
        self._applier.append(at, copied)

    def _begin_at(self, position: SourcePosition) -> None:
        self._query("forget_position")
        self._query(
            "begin_position",
            {
                "source_id": position.source_id,
                **stored(position.at),
                "timeline": position.timeline,
            },
        )

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
        self._applier.apply(batch)
        return SinkState(replace(state.position, at=batch.position), self._beat())


class DuckDbLoad:
    """As sink.Load: within the one transaction of DuckDbWarehouse.load()."""

    def __init__(self, warehouse: DuckDbWarehouse, position: SourcePosition) -> None:
        self._warehouse = warehouse
        self._position = position

    async def append(self, copied: CopiedRows) -> None:
        """As Load.append."""
        await self._warehouse._run(lambda: self._warehouse._append(self._position.at, copied))


class Exclusive:
    """The writer's connection within `DuckDbWarehouse.exclusive`."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        self._warehouse = warehouse

    async def execute(self, name: str, parameters: Parameters | None = None) -> list[tuple]:  # type: ignore[type-arg]
        """Run a named query; its rows."""
        return await self._warehouse._run(lambda: self._warehouse._query(name, parameters))

    async def do(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Work on the connection, in the writer's thread."""
        return await self._warehouse._run(lambda: work(self._warehouse._connection))

    async def append(self, at: LogPosition, copied: CopiedRows) -> None:
        """Take in rows as of a position, with the books; those rejected become dead letters."""
        await self._warehouse._run(lambda: self._warehouse._append(at, copied))

    async def begin_at(self, position: SourcePosition) -> None:
        """Let the warehouse stand at this position, whatever it stood at before."""
        await self._warehouse._run(lambda: self._warehouse._begin_at(position))
