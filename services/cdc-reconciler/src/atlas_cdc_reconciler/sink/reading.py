"""Reading the warehouse: consistent snapshots, bounded in number, interrupted when nobody waits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import duckdb
import pyarrow as pa

from atlas_common import errors

T = TypeVar("T")
Row = tuple[object, ...]
_RETRY_AFTER_SECONDS = 0.25


class Reader:
    """One read-only transaction: all its queries see the same state of the warehouse."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, threads: ThreadPoolExecutor) -> None:
        self._cursor = cursor
        self._threads = threads
        self._seconds_max = 0.0
        self._ends: float | None = None

    def limit(self, seconds: float) -> None:
        """Let all that is read from here on take so long at most, waits for the caller included."""
        self._seconds_max = seconds
        self._ends = asyncio.get_running_loop().time() + seconds

    async def all(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[tuple]:  # type: ignore[type-arg]
        """All rows of a query that is known to have few. Raises as `_run`."""
        given = dict(parameters or {})
        return await self._run(lambda: self._cursor.execute(sql, given).fetchall())

    async def pieces(
        self, sql: str, parameters: Mapping[str, object], piece_rows: int
    ) -> AsyncIterator[list[tuple]]:  # type: ignore[type-arg]
        """The rows of a query in pieces; the next one is made when it is asked for."""
        given = dict(parameters)
        await self._run(lambda: self._cursor.execute(sql, given))
        while rows := await self._run(lambda: self._cursor.fetchmany(piece_rows)):
            yield rows

    async def batches(
        self, sql: str, parameters: Mapping[str, object], batch_rows: int
    ) -> AsyncIterator[pa.RecordBatch]:
        """The rows of a query in Arrow; the next ones are made when they are asked for."""
        given = dict(parameters)
        batches = await self._run(
            lambda: self._cursor.execute(sql, given).to_arrow_reader(batch_rows)
        )
        while (batch := await self._run(lambda: next(batches, None))) is not None:
            yield batch

    async def _run(self, work: Callable[[], T]) -> T:
        """Run in a thread; a cancelled caller interrupts the query and waits for its end.

        Raises ServiceError RESOURCE_EXHAUSTED / OVERLOADED when the query needs too much memory,
        DEADLINE_EXCEEDED when it takes longer than `limit()` allows.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            async with asyncio.timeout_at(self._ends):
                return await asyncio.shield(future)
        except asyncio.CancelledError:
            await self._interrupt(future)
            raise
        except TimeoutError as error:
            await self._interrupt(future)
            raise errors.deadline_exceeded(
                "DEADLINE_EXCEEDED",
                f"the query takes longer than {self._seconds_max:g} s: ask for less at a time",
            ) from error
        except duckdb.OutOfMemoryException as error:
            raise errors.resource_exhausted(
                "OVERLOADED",
                "the query needs more memory than the warehouse has: ask for less at a time",
            ) from error

    async def _interrupt(self, future: "asyncio.Future[T]") -> None:
        # The cursor is closed next, and must not be while a thread is inside it.
        self._cursor.interrupt()
        await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # Seen.


class ReadGate:
    """Lets a bounded number of readers in at a time."""

    def __init__(self, concurrent_max: int, waiting_max: int) -> None:
        self._slots = asyncio.Semaphore(concurrent_max)
        self._threads = ThreadPoolExecutor(concurrent_max, "warehouse-reader")
        self._waiting = 0
        self._waiting_max = waiting_max

    @asynccontextmanager
    async def snapshot(self, connection: duckdb.DuckDBPyConnection) -> AsyncIterator[Reader]:
        """A view that stands still; it begins with its first query.

        Raises ServiceError RESOURCE_EXHAUSTED / OVERLOADED when too many wait already.
        """
        await self._enter()
        try:
            cursor = connection.cursor()
            reader = Reader(cursor, self._threads)
            try:
                await reader.all("BEGIN TRANSACTION READ ONLY")
                yield reader
            finally:
                cursor.close()  # Ends the transaction too.
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Wait for the readers' threads."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _enter(self) -> None:
        if self._slots.locked() and self._waiting >= self._waiting_max:
            raise errors.resource_exhausted(
                "OVERLOADED", "too many reads of the warehouse", retry_after=_RETRY_AFTER_SECONDS
            )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
