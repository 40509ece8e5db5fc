"""Postgres' streaming replication protocol over psycopg's libpq.

https://www.postgresql.org/docs/current/protocol-replication.html. psycopg has no API for it, but
its libpq wrapper has all it takes: a simple query, then COPY data in both directions.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.pq import ExecStatus

from atlas_cdc_reconciler.lsn import Lsn
from atlas_common.config import DatabaseConfig
from atlas_common.db.connection import away, connect_arguments

_DATA, _KEEPALIVE = ord("w"), ord("k")
_DATA_HEADER_BYTES = 25
_REPLY_WANTED_OFFSET = 17
_STATUS = struct.Struct(">cQQQqB")
_SETTLE_SECONDS_MAX = 10.0


class Walsender:
    """One replication connection: first commands, then, once started, a stream of messages."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._confirmed = Lsn(0)

    @property
    def server_version(self) -> int:
        """As 170002."""
        return self._connection.info.server_version

    async def command(self, command: sql.Composable) -> dict[str, Any]:
        """Run a replication command that answers one row. Raises psycopg.Error."""
        # Without parameters psycopg uses the simple protocol, the only one that walsenders speak.
        cursor = await self._connection.execute(command.as_string(self._connection))
        row = await cursor.fetchone()
        assert row is not None
        assert cursor.description is not None
        return dict(zip((column.name for column in cursor.description), row, strict=True))

    async def start(self, slot: str, publication: str) -> None:
        """Begin to stream from where the slot stands. Raises psycopg.Error."""
        # 0/0 leaves the start to the slot: what was not confirmed is sent again, and skipped.
        start = sql.SQL(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0"
            " (proto_version '1', publication_names {publication}, binary 'true')"
        ).format(
            slot=sql.Identifier(slot),
            publication=sql.Literal(sql.Identifier(publication).as_string(self._connection)),
        )
        self._pgconn.send_query(start.as_bytes(self._connection))
        async with asyncio.timeout(_SETTLE_SECONDS_MAX):
            while self._pgconn.is_busy():
                await self._readable()
                self._pgconn.consume_input()
        result = self._pgconn.get_result()
        if result is None or result.status != ExecStatus.COPY_BOTH:
            raise self._failure(result)

    async def wait(self, timeout_seconds: float | None) -> None:
        """Return when there may be something to receive, or after the timeout."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._readable()
        except TimeoutError:
            return
        self._pgconn.consume_input()

    def receive(self) -> bytes | None:
        """The next change message that is here already; None when there is none yet.

        Raises psycopg.Error when the server ended the stream.
        """
        while True:
            size, data = self._pgconn.get_copy_data(1)
            if size > 0:
                if data[0] == _DATA:
                    return bytes(data[_DATA_HEADER_BYTES:])
                if data[0] == _KEEPALIVE and data[_REPLY_WANTED_OFFSET]:
                    self.send_status()
            elif size == 0:
                return None
            else:
                raise self._failure(self._pgconn.get_result())

    def confirm(self, position: Lsn) -> None:
        """Let the server forget what lies before `position`; told with the next status."""
        self._confirmed = max(self._confirmed, position)

    def send_status(self) -> None:
        """Say how far we are, which is also the sign of life the server waits for."""
        at = self._confirmed.value
        self._pgconn.put_copy_data(_STATUS.pack(b"r", at, at, at, 0, 0))
        # What does not fit into the socket now goes with the next call.
        self._pgconn.flush()

    def _failure(self, result: Any) -> psycopg.Error:
        message = self._pgconn.error_message.decode(errors="replace").strip()
        if result is not None and result.status == ExecStatus.FATAL_ERROR:
            return psycopg.errors.error_from_result(result)
        return psycopg.OperationalError(message or "the server ended the stream")

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        # Only while we wait: a socket with data in it would otherwise wake the loop without end.
        loop.add_reader(self._pgconn.socket, wake)
        try:
            await ready
        finally:
            loop.remove_reader(self._pgconn.socket)


@asynccontextmanager
async def open_walsender(config: DatabaseConfig) -> AsyncIterator[Walsender]:
    """A replication connection to the database of the DSN, which must not lead to a pooler.

    Raises ServiceError UNAVAILABLE when the server is away, psycopg.Error when it refuses.
    """
    # A stream is one endless statement, and an exported snapshot an idle transaction.
    unbounded = config.model_copy(
        update={
            "statement_timeout_seconds": 0.0,
            "idle_in_transaction_timeout_seconds": 0.0,
            "pooler": False,
        }
    )
    arguments = connect_arguments(unbounded, "cdc-stream")
    try:
        connection: AsyncConnection[Any] = await AsyncConnection.connect(
            **arguments, replication="database"
        )
    except psycopg.OperationalError as error:
        raise away("cdc-stream") from error
    try:
        yield Walsender(connection)
    finally:
        await connection.close()
