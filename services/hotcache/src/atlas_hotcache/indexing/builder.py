"""Builds and drops indexes of cold attributes, one partition at a time; one process of all."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psycopg

from atlas_common import telemetry
from atlas_common.config import DatabaseConfig
from atlas_common.db import Connection, direct_connection, load_queries, tenant_transaction
from atlas_common.errors import ServiceError
from atlas_hotcache.config import IndexingConfig

Q = load_queries("atlas_hotcache.indexing", file="builder.sql")

_FAILURES_MAX = 3
_ORPHANED_SECONDS = 2
"""How long a statement goes on after its client has died."""
# Older transactions, another's lock, a partition that was retired between the look and the step.
_PUT_OFF = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UndefinedTable,
)
_log = telemetry.logger(__name__)


class Step(NamedTuple):
    """What is to be done next about an index; see attribute_index_steps() in db."""

    tenant_id: int
    attribute_id: int
    step: str
    index_name: str
    statement: str | None
    partitions_total: int
    partitions_done: int


class Builder:
    """Makes what there is into what there shall be.

    The database compares the two and says the next step, each time anew; so nothing is remembered
    here that could not be lost. CREATE INDEX CONCURRENTLY lets everybody write and read meanwhile.
    """

    def __init__(
        self,
        database: DatabaseConfig,
        config: IndexingConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`database`: with the role atlas_indexer. `clock`: monotonic seconds."""
        self._database = database
        self._config = config
        self._clock = clock
        self._not_before: dict[tuple[int, int], float] = {}
        self._failures: dict[tuple[int, int], int] = {}

    async def run(self) -> None:
        """Build until cancelled, through outages; while another process builds, wait."""
        while True:
            try:
                async with direct_connection(self._database, name="indexer") as connection:
                    await self._bound(connection)
                    is_ours = False
                    while True:
                        is_ours = is_ours or await self._lock(connection)
                        if is_ours:
                            await self._work(connection)
                        await asyncio.sleep(self._config.poll_seconds)
            except (ServiceError, psycopg.Error) as error:
                _log.warning("indexes not looked after", error=str(error))
            await asyncio.sleep(self._config.poll_seconds)

    async def walk(self) -> bool:
        """Do what can be done now; False: another process is at it.

        Raises ServiceError, psycopg.Error when the database is away.
        """
        async with direct_connection(self._database, name="indexer") as connection:
            await self._bound(connection)
            is_ours = await self._lock(connection)
            if is_ours:
                await self._work(connection)
        return is_ours

    async def _bound(self, connection: Connection) -> None:
        config = self._config
        for setting, value in (
            ("lock_timeout", f"{round(config.wait_seconds_max * 1000)}ms"),
            ("statement_timeout", f"{round(config.build_seconds_max * 1000)}ms"),
            # Else the build of a process that was killed goes on, and whoever comes next waits.
            ("client_connection_check_interval", f"{_ORPHANED_SECONDS}s"),
        ):
            await connection.execute("SELECT set_config(%s, %s, false)", [setting, value])

    async def _lock(self, connection: Connection) -> bool:
        row = await (await connection.execute(Q["lock"])).fetchone()
        assert row is not None
        return bool(row[0])

    async def _work(self, connection: Connection) -> None:
        while True:
            cursor = await connection.execute(Q["steps"])
            steps = [Step(*row) for row in await cursor.fetchall()]
            step = next((step for step in steps if self._is_due(step)), None)
            if step is None:
                return
            await self._do(connection, step)

    def _is_due(self, step: Step) -> bool:
        return self._clock() >= self._not_before.get(step[:2], 0.0)

    async def _do(self, connection: Connection, step: Step) -> None:
        index = step[:2]
        try:
            if step.step == "finish":
                await self._finish(connection, step)
            else:
                await self._note(connection, step, f"{step.step}s {step.index_name}")
                await self._define(connection, step)
        except _PUT_OFF as error:
            self._not_before[index] = self._clock() + self._config.retry_seconds
            await self._note(connection, step, f"tries again: {_line(error)}")
        except psycopg.Error as error:
            if connection.closed:
                raise
            failures = self._failures[index] = self._failures.get(index, 0) + 1
            self._not_before[index] = self._clock() + self._config.retry_seconds
            _log.warning("index step failed", index=step.index_name, error=str(error))
            is_over = failures >= _FAILURES_MAX
            word = "gave up" if is_over else "tries again"
            await self._note(connection, step, f"{word}: {_line(error)}", is_failed=is_over)
        else:
            self._failures.pop(index, None)
            self._not_before.pop(index, None)

    async def _define(self, connection: Connection, step: Step) -> None:
        assert step.statement is not None
        await connection.execute(Q["become_owner"])
        try:
            await connection.execute(step.statement.encode(), prepare=False)
        finally:
            with suppress(psycopg.OperationalError):  # The session has ended, and its role with it.
                await connection.execute(Q["become_oneself"])
        _log.info("index step done", step=step.step, index=step.index_name)

    async def _finish(self, connection: Connection, step: Step) -> None:
        values = {"tenant_id": step.tenant_id, "attribute_id": step.attribute_id}
        async with tenant_transaction(connection, step.tenant_id) as transaction:
            await transaction.execute(Q["finish"], values)

    async def _note(
        self, connection: Connection, step: Step, message: str, *, is_failed: bool = False
    ) -> None:
        values = {
            "tenant_id": step.tenant_id,
            "attribute_id": step.attribute_id,
            "partitions_total": step.partitions_total,
            "partitions_done": step.partitions_done,
            "message": message,
            "failed": is_failed,
        }
        async with tenant_transaction(connection, step.tenant_id) as transaction:
            await transaction.execute(Q["note"], values)


def _line(error: psycopg.Error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
