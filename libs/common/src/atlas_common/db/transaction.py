"""Begin and end of a transaction on a connection that is at hand."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus

from atlas_common import errors
from atlas_common.db.connection import Connection, Isolation

_ROLLBACK_TIMEOUT_SECONDS = 5.0


class Begun(NamedTuple):
    """A transaction under way, and the first row of the query it began with, if there was one."""

    connection: Connection
    row: tuple[Any, ...] | None


def begin_sql(
    *,
    read_only: bool,
    isolation: Isolation | None,
    settings: Mapping[str, str],
) -> str:
    """BEGIN and its SET LOCALs as one simple query: one round trip, each SET at the top level.

    Values are made by us (numbers), never by callers.
    """
    level = f" ISOLATION LEVEL {isolation.value}" if isolation else ""
    access = " READ ONLY" if read_only else " READ WRITE"
    sets = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in settings.items())
    return f"BEGIN{level}{access}{sets}"


async def begin(connection: Connection, sql: str) -> tuple[Any, ...] | None:
    """Run what `begin_sql` made, perhaps with a query after it, whose first row is the answer.

    Leaves no transaction behind when it fails.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise RuntimeError("this connection is in a transaction already")
    try:
        # Never prepared: a prepared statement is one statement, and this is several.
        cursor = await connection.execute(sql.encode(), prepare=False)
        await cursor.set_result(-1)
        return await cursor.fetchone() if cursor.description else None
    except BaseException:
        await rollback(connection)
        raise


@asynccontextmanager
async def ended(connection: Connection) -> AsyncIterator[None]:
    """COMMIT at the end of the block; ROLLBACK if it raises or is cancelled."""
    try:
        yield
        await _commit(connection)
    except BaseException:
        await rollback(connection)
        raise


@asynccontextmanager
async def begun(connection: Connection, sql: str) -> AsyncIterator[Begun]:
    """A transaction on this connection, begun with what `begin_sql` made."""
    row = await begin(connection, sql)
    async with ended(connection):
        yield Begun(connection, row)


async def _commit(connection: Connection) -> None:
    cursor = await connection.execute(b"COMMIT", prepare=False)
    if cursor.statusmessage != "COMMIT":
        # The block caught a database error and went on: the server answers COMMIT with ROLLBACK,
        # and the caller would believe that its changes are stored.
        raise errors.internal("INTERNAL", "the transaction was rolled back at its commit")


async def rollback(connection: Connection) -> None:
    """End whatever transaction there is; a connection on which that fails is closed."""
    if connection.closed or connection.info.transaction_status == TransactionStatus.IDLE:
        return
    try:
        async with asyncio.timeout(_ROLLBACK_TIMEOUT_SECONDS):
            await connection.execute(b"ROLLBACK", prepare=False)
    except (psycopg.Error, TimeoutError):
        # The error that brought us here matters, not this one. Closing ends the transaction too.
        await connection.close()
    except BaseException:  # Cancelled a second time: do not wait for the server again.
        await connection.close()
        raise
