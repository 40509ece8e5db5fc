"""A pool of connections to one Postgres server."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import psycopg
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from atlas_common import errors
from atlas_common.config import DatabaseConfig
from atlas_common.db import connection as connections
from atlas_common.db.connection import Connection, Isolation, ReadConnection, WriteConnection
from atlas_common.db.queries import load_queries
from atlas_common.db.transaction import Begun, begin, begin_sql, ended
from atlas_common.telemetry import metrics
from atlas_common.telemetry.tracing import tracer

_CONNECTION_IDLE_SECONDS = 300.0
# Bounds the pool's own backoff (1, 2 s): after an outage the next request or check connects anew.
_RECONNECT_TIMEOUT_SECONDS = 3.0
_CLOSE_TIMEOUT_SECONDS = 5.0
_QUERIES = load_queries("atlas_common.db")
_CANCEL_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool at this moment; `waiting` callers have no connection yet."""

    size: int
    size_max: int
    idle: int
    in_use: int
    waiting: int


class Database:
    """Connections to one server under one role. Open with `Database.open(config, name=...)`."""

    def __init__(self, config: DatabaseConfig, *, name: str) -> None:
        self.name = name
        self.config = config
        self._in_use: set[Connection] = set()
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            connection_class=AsyncConnection,
            # Asked anew for each connection: the login may have been rotated.
            kwargs=partial(connections.connect_arguments, config, name),
            min_size=config.pool_size_min,
            max_size=config.pool_size_max,
            timeout=config.acquire_timeout_seconds,
            max_waiting=config.acquire_waiting_max,
            max_lifetime=connections.lifetime_seconds(config),
            max_idle=_CONNECTION_IDLE_SECONDS,
            reconnect_timeout=_RECONNECT_TIMEOUT_SECONDS,
            name=name,
            open=False,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, config: DatabaseConfig, *, name: str) -> "AsyncIterator[Database]":
        """A pool that fills in the background; opening it does not fail when the server is away."""
        database = cls(config, name=name)
        await database._pool.open(wait=False)
        _open.append(database)
        try:
            yield database
        finally:
            _open.remove(database)
            await database._pool.close(timeout=_CLOSE_TIMEOUT_SECONDS)

    def stats(self) -> PoolStats:
        """How busy the pool is."""
        stats = self._pool.get_stats()
        return PoolStats(
            size=stats.get("pool_size", 0),
            size_max=self.config.pool_size_max,
            idle=stats.get("pool_available", 0),
            in_use=len(self._in_use),
            waiting=stats.get("requests_waiting", 0),
        )

    async def sever(self) -> None:
        """End the sessions that are in use: whoever works on one fails now.

        The server ends them: to close a connection under somebody who waits for its answer is not
        safe. Behind a pooler, where a session is not ours to end, what runs is cancelled.
        """
        busy = [connection for connection in self._in_use if not connection.closed]
        with contextlib.suppress(psycopg.Error, errors.ServiceError):  # It is gone already.
            if self.config.pooler:
                for connection in busy:
                    await connection.cancel_safe(timeout=_CANCEL_TIMEOUT_SECONDS)
            elif busy:
                pids = [connection.info.backend_pid for connection in busy]
                async with connections.direct_connection(self.config, name=self.name) as direct:
                    await direct.execute(_QUERIES["end_sessions"], {"pids": pids})

    async def check(self) -> None:
        """Return if the server answers, or if all connections are at work; a readiness check.

        Raises ServiceError UNAVAILABLE or psycopg.Error.
        """
        try:
            async with self.transaction(read_only=True):
                pass
        except errors.ServiceError as error:
            if error.reason != "OVERLOADED":  # Busy is not broken.
                raise

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit, for single statements that are no tenant's.

        Raises ServiceError RESOURCE_EXHAUSTED / OVERLOADED when all are busy for too long, and
        UNAVAILABLE / DEPENDENCY_UNAVAILABLE when the server is away.
        """
        begun = await self._begun(None)
        try:
            yield begun.connection
        finally:
            await self._release(begun.connection)

    @overload
    def transaction(
        self, *, read_only: Literal[True], isolation: Isolation | None = None
    ) -> AbstractAsyncContextManager[ReadConnection]: ...

    @overload
    def transaction(
        self, *, read_only: Literal[False] = False, isolation: Isolation | None = None
    ) -> AbstractAsyncContextManager[WriteConnection]: ...

    def transaction(
        self, *, read_only: bool = False, isolation: Isolation | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """A transaction on the platform's own tables: no tenant is set, so no tenant's row shows.

        Raises as `connection` does.
        """
        settings = self.transaction_settings()
        return self._platform(
            begin_sql(read_only=read_only, isolation=isolation, settings=settings)
        )

    def transaction_settings(self) -> dict[str, str]:
        """Settings that each transaction must make for itself: behind a pooler, the bounds."""
        return connections.bounds(self.config) if self.config.pooler else {}

    @asynccontextmanager
    async def begun(self, sql: str) -> AsyncIterator[Begun]:
        """A transaction begun with this SQL (see `begin_sql`); ends with the block."""
        async with _span(self.name):
            begun = await self._begun(sql)
            try:
                async with ended(begun.connection):
                    yield begun
            finally:
                await self._release(begun.connection)

    @asynccontextmanager
    async def _platform(self, sql: str) -> AsyncIterator[Connection]:
        async with self.begun(sql) as begun:
            yield begun.connection

    async def _begun(self, sql: str | None) -> Begun:
        """A connection that answers, with the transaction begun, if any is asked for.

        Connections in the pool can be dead without anyone knowing: each server restart kills all
        of them. Beginning is the first thing said on one, so it fails before any of the caller's
        work is done and can be repeated on the next; at most once for every connection there is.
        """
        give_up = time.monotonic() + self.config.acquire_timeout_seconds
        last: psycopg.OperationalError | None = None
        for _ in range(self.config.pool_size_max + 1):
            connection = await self._acquire(give_up - time.monotonic())
            try:
                if sql is None:
                    await self._pool.check_connection(connection)
                    return Begun(connection, None)
                return Begun(connection, await begin(connection, sql))
            except psycopg.OperationalError as error:
                closed = connection.closed
                await self._release(connection)
                if not closed:
                    raise
                last = error
            except BaseException:
                await self._release(connection)
                raise
        raise connections.away(self.name) from last

    async def _acquire(self, timeout: float) -> Connection:
        try:
            connection = await self._pool.getconn(max(0.001, timeout))
        except TooManyRequests as error:
            raise self._busy() from error
        except PoolTimeout as error:
            if len(self._in_use) >= self.config.pool_size_max:
                raise self._busy() from error
            raise connections.away(self.name) from error
        except PoolClosed as error:
            raise connections.away(self.name) from error
        self._in_use.add(connection)
        return connection

    async def _release(self, connection: Connection) -> None:
        self._in_use.discard(connection)
        # Shielded: a cancellation while the pool waits for its own lock would lose the connection
        # for good, and enough of those would empty the pool.
        await asyncio.shield(self._pool.putconn(connection))

    def _busy(self) -> errors.ServiceError:
        return errors.resource_exhausted(
            "OVERLOADED",
            "all database connections are busy",
            retry_after=0.25,
            database=self.name,
        )


_open: list[Database] = []  # For the gauges: one of a name covers all pools of the process.


def _of_pools(read: Callable[[PoolStats], int]) -> Callable[[], Mapping[str, float]]:
    return lambda: {database.name: float(read(database.stats())) for database in tuple(_open)}


metrics.gauge(
    "atlas.db.pool.in_use", "{connections}", "At work.", _of_pools(lambda pool: pool.in_use)
)
metrics.gauge(
    "atlas.db.pool.limit", "{connections}", "At most.", _of_pools(lambda pool: pool.size_max)
)
metrics.gauge(
    "atlas.db.pool.waiting",
    "{calls}",
    "Without a connection.",
    _of_pools(lambda pool: pool.waiting),
)


@asynccontextmanager
async def _span(database: str) -> AsyncIterator[None]:
    """A span for the transaction within a traced call; background work is not worth one each."""
    if not trace.get_current_span().is_recording():
        yield
        return
    # Started, not made current: a generator may be finished from another context than it began in.
    span = tracer.start_span(
        "db.transaction",
        kind=SpanKind.CLIENT,
        attributes={"db.system.name": "postgresql", "atlas.database": database},
    )
    try:
        yield
    except BaseException as error:
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        span.end()
