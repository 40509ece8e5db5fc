"""One instance works, the others wait: whoever holds a lock on the primary leads.

The lock is a session's advisory lock, so it is free the moment its holder dies. A holder that hangs
(stopped, swapped out, cut off) says nothing for a while, and the server ends its session: that is
how the others get the lock, and how the holder learns that it has lost it. Between the two nothing
is written twice, since the warehouse has a fence of its own: a file has one owner.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg
from psycopg import AsyncConnection, sql

from atlas_cdc_reconciler.config import LeaderConfig
from atlas_cdc_reconciler.progress import Phase, Progress
from atlas_cdc_reconciler.sink.ownership import Claim
from atlas_cdc_reconciler.source.walsender import open_walsender
from atlas_common.config import DatabaseConfig
from atlas_common.db import Connection, load_queries
from atlas_common.db.connection import connect_arguments
from atlas_common.errors import FatalError, ServiceError
from atlas_common.telemetry import logger

Q = load_queries("atlas_cdc_reconciler")
_NAME_CHARS_MAX = 40
_AWAY = (ServiceError, psycopg.Error, OSError, TimeoutError)
_log = logger(__name__)


class Leadership:
    """Whether this instance leads those of one source, a slot or a topic."""

    def __init__(
        self, config: LeaderConfig, direct: DatabaseConfig, source: str, instance: str
    ) -> None:
        self._config = config
        # The lease bounds how long the session may say nothing; nothing else may end it.
        self._direct = direct.model_copy(
            update={"idle_in_transaction_timeout_seconds": 0.0, "pooler": False}
        )
        self._session_name = f"cdc-leader {instance[:_NAME_CHARS_MAX]}"
        digest = hashlib.blake2b(f"cdc-reconciler/{source}".encode(), digest_size=8).digest()
        self._key = int.from_bytes(digest, "big", signed=True)
        self._instance = instance
        self.leader = ""
        """Who leads, as last seen; empty: not known."""

    async def lead(self, progress: Progress, work: Callable[[], Awaitable[None]]) -> None:
        """Wait until this instance leads, then work for as long as it does.

        Raises FatalError when another leads: this process has to end then, and begin as a standby;
        and what the work raises.
        """
        connection = await self._acquired(progress)
        tasks = {
            asyncio.ensure_future(self._keep(connection)),
            asyncio.ensure_future(work()),
        }
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in ended:
            task.result()

    async def claim(self) -> Claim:
        """What entitles the leader to the warehouse's file. Raises ServiceError, psycopg.Error."""
        async with open_walsender(self._direct) as walsender:
            identity = await walsender.command(sql.SQL("IDENTIFY_SYSTEM"))
        return Claim(
            # The same on the server's standbys: it is the same lock after a promotion.
            lock=f"{identity['systemid']}/{identity['dbname']}/{self._key}",
            instance=self._instance,
            hung_owner_seconds=self._config.hung_owner_seconds,
            kills=self._config.kill_hung_owner,
        )

    async def _acquired(self, progress: Progress) -> Connection:
        while True:
            connection: Connection | None = None
            try:
                connection = await self._session()
                while not await self._try(connection):
                    await self._stand_by(progress)
                    await asyncio.sleep(self._config.poll_seconds)
            except _AWAY as error:
                await self._close(connection)
                await progress.move(
                    phase=Phase.STANDBY, reason=f"cannot ask the primary who leads: {error}"
                )
                await asyncio.sleep(self._config.poll_seconds)
            except BaseException:
                await self._close(connection)
                raise
            else:
                _log.info("leading", instance=self._instance)
                return connection

    async def _stand_by(self, progress: Progress) -> None:
        reason = f"{self.leader or 'another instance'} leads"
        standing = progress.now
        if (standing.phase, standing.reason) != (Phase.STANDBY, reason):
            _log.info("standing by", leader=self.leader)
            await progress.move(phase=Phase.STANDBY, reason=reason)

    async def _keep(self, connection: Connection) -> None:
        """Give signs of life. Raises FatalError once another leads."""
        try:
            while True:
                try:
                    async with asyncio.timeout(self._config.lease_seconds / 2):
                        await connection.execute("SELECT 1")
                except _AWAY as error:
                    _log.warning("the leader's session is lost", error=str(error))
                    await self._close(connection)
                    connection = await self._regained()
                await asyncio.sleep(self._config.lease_seconds / 4)
        finally:
            await self._close(connection)

    async def _regained(self) -> Connection:
        """The lock again, for a server that was away. Raises FatalError if another has it."""
        while True:
            connection: Connection | None = None
            try:
                connection = await self._session()
                if await self._try(connection):
                    _log.info("leading again", instance=self._instance)
                    return connection
            except _AWAY:
                # Nobody can lead while the server is away, and the file stays ours.
                await self._close(connection)
                await asyncio.sleep(self._config.poll_seconds)
                continue
            except BaseException:
                await self._close(connection)
                raise
            await self._close(connection)
            raise FatalError(f"leadership is lost: {self.leader or 'another instance'} leads")

    async def _session(self) -> Connection:
        arguments = connect_arguments(self._direct, self._session_name)
        connection: Connection = await AsyncConnection.connect(**arguments)
        try:
            # The others end it also if our host vanishes without a word.
            for setting, value in (
                ("idle_session_timeout", self._lease_ms),
                ("tcp_user_timeout", self._lease_ms),
                ("tcp_keepalives_idle", 1),
                ("tcp_keepalives_interval", 1),
            ):
                await connection.execute(f"SET {setting} = {value}".encode())
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _try(self, connection: Connection) -> bool:
        cursor = await connection.execute(Q["try_to_lead"], {"key": self._key})
        row = await cursor.fetchone()
        assert row is not None
        is_ours, self.leader = row[0], row[1] or ""
        if is_ours:
            self.leader = self._instance
        return bool(is_ours)

    @property
    def _lease_ms(self) -> int:
        return round(self._config.lease_seconds * 1000)

    @staticmethod
    async def _close(connection: Connection | None) -> None:
        if connection is not None:
            with suppress(psycopg.Error):
                await connection.close()
