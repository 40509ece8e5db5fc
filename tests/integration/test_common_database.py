"""The pool: bounds, outages, cancellation, and the transactions it hands out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from atlas_common.config import DatabaseConfig
from atlas_common.db import Database, Isolation, direct_connection
from atlas_common.errors import ServiceError
from atlas_devstack.database import Database as Devstack
from atlas_devstack.proxy import FaultProxy

DEADLINE_SECONDS = 15.0


@pytest.fixture
def dsn(database: Devstack) -> str:
    return database.dsn("atlas_ingest")


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[FaultProxy]:
    parts = conninfo_to_dict(dsn)
    port = int(parts.get("port") or 5432)
    async with FaultProxy.listen(port, str(parts.get("host") or "127.0.0.1")) as proxy:
        yield proxy


def config(dsn: str, **fields: object) -> DatabaseConfig:
    return DatabaseConfig.model_validate({"dsn": SecretStr(dsn), **fields})


def through(proxy: FaultProxy, dsn: str) -> str:
    return make_conninfo(dsn, host="127.0.0.1", hostaddr="", port=proxy.port)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not await holds():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.02)


async def answers(database: Database) -> bool:
    try:
        await database.check()
    except (ServiceError, psycopg.Error):
        return False
    return True


async def insert_and_fail(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO tenants (key) VALUES ('dropped')")
        raise ZeroDivisionError


async def fail_and_go_on(database: Database) -> None:
    async with database.transaction() as connection:
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1/0")


async def insert_and_lose_the_connection(database: Database, proxy: FaultProxy) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO tenants (key) VALUES ('torn')")
        proxy.cut()
        await connection.execute("SELECT 1")


async def running(admin_dsn: str, mark: str) -> int:
    async with await psycopg.AsyncConnection.connect(admin_dsn, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s"
            " AND pid <> pg_backend_pid()",
            [f"%{mark}%"],
        )
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])


async def test_every_connection_has_its_name_and_its_bounds(dsn: str) -> None:
    settings = config(dsn, lock_timeout_seconds=1.5)
    async with (
        Database.open(settings, name="primary") as database,
        database.connection() as connection,
    ):
        cursor = await connection.execute(
            "SELECT current_setting('application_name'), current_setting('statement_timeout'),"
            " current_setting('lock_timeout'),"
            " current_setting('idle_in_transaction_session_timeout')"
        )
        assert await cursor.fetchone() == ("atlas primary", "30s", "1500ms", "1min")


async def test_behind_a_pooler_the_transaction_sets_the_bounds_and_nothing_is_prepared(
    dsn: str,
) -> None:
    async with Database.open(config(dsn, pooler=True), name="primary") as database:
        async with database.transaction() as connection:
            assert connection.prepare_threshold is None
            cursor = await connection.execute("SELECT current_setting('statement_timeout')")
            assert await cursor.fetchone() == ("30s",)
        async with database.connection() as outside:
            cursor = await outside.execute("SELECT current_setting('statement_timeout')")
            assert await cursor.fetchone() == ("0",)


async def test_a_statement_over_its_time_is_ended_by_the_server(dsn: str) -> None:
    async with Database.open(config(dsn, statement_timeout_seconds=0.05), name="p") as database:
        with pytest.raises(psycopg.errors.QueryCanceled):
            async with database.transaction() as connection:
                await connection.execute("SELECT pg_sleep(30)")


async def test_the_isolation_and_access_that_were_asked_for(dsn: str) -> None:
    async with Database.open(config(dsn), name="p") as database:
        async with database.transaction(isolation=Isolation.SERIALIZABLE) as connection:
            cursor = await connection.execute(
                "SELECT current_setting('transaction_isolation'),"
                " current_setting('transaction_read_only')"
            )
            assert await cursor.fetchone() == ("serializable", "off")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            async with database.transaction(read_only=True) as reader:
                await reader.execute("INSERT INTO tenants (key) VALUES ('read-only')")


async def test_a_transaction_commits_at_its_end_and_rolls_back_on_an_error(dsn: str) -> None:
    async with Database.open(config(dsn), name="p") as database:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO tenants (key) VALUES ('kept')")
        with pytest.raises(ZeroDivisionError):
            await insert_and_fail(database)
        async with database.connection() as connection:
            cursor = await connection.execute(
                "SELECT key FROM tenants WHERE key IN ('kept', 'dropped')"
            )
            assert await cursor.fetchall() == [("kept",)]


async def test_a_swallowed_database_error_does_not_pass_for_a_commit(dsn: str) -> None:
    async with Database.open(config(dsn), name="p") as database:
        with pytest.raises(ServiceError, match="rolled back at its commit"):
            await fail_and_go_on(database)
        assert await answers(database)


async def test_a_busy_pool_answers_overloaded_in_time(dsn: str) -> None:
    settings = config(dsn, pool_size_max=1, acquire_timeout_seconds=0.1)
    async with Database.open(settings, name="p") as database, database.connection():
        with pytest.raises(ServiceError) as raised:
            async with database.transaction():
                pass
        assert raised.value.reason == "OVERLOADED"
        assert raised.value.retry_after
        assert database.stats().in_use == 1
        await database.check()  # Busy is not broken.


async def test_callers_beyond_the_waiting_bound_are_refused_at_once(dsn: str) -> None:
    settings = config(dsn, pool_size_max=1, acquire_waiting_max=1, acquire_timeout_seconds=10)
    async with Database.open(settings, name="p") as database:
        async with database.connection():

            async def queue() -> None:
                async with database.transaction():
                    pass

            waiting = asyncio.create_task(queue())

            async def is_waiting() -> bool:
                return database.stats().waiting == 1

            await eventually(is_waiting)
            with pytest.raises(ServiceError, match="OVERLOADED"):
                await queue()
        await waiting


async def test_opening_does_not_need_the_server_and_recovers_when_it_comes(
    dsn: str, proxy: FaultProxy
) -> None:
    proxy.refuse()
    settings = config(through(proxy, dsn), acquire_timeout_seconds=0.2)
    async with Database.open(settings, name="primary") as database:
        with pytest.raises(ServiceError) as raised:
            await database.check()
        assert raised.value.reason == "DEPENDENCY_UNAVAILABLE"
        assert raised.value.metadata == {"database": "primary"}
        proxy.resume()
        await eventually(lambda: answers(database))


async def test_dead_connections_in_the_pool_cost_no_caller_an_error(
    dsn: str, proxy: FaultProxy
) -> None:
    settings = config(through(proxy, dsn), pool_size_min=3, pool_size_max=3)
    async with Database.open(settings, name="p") as database:

        async def is_full() -> bool:
            return database.stats().idle == 3

        await eventually(is_full)
        proxy.cut()
        for _ in range(6):
            async with database.transaction(read_only=True) as connection:
                cursor = await connection.execute("SELECT 1")
                assert await cursor.fetchone() == (1,)


async def test_a_connection_that_dies_in_the_middle_is_an_error_and_is_replaced(
    dsn: str, proxy: FaultProxy
) -> None:
    async with Database.open(config(through(proxy, dsn), pool_size_max=1), name="p") as database:
        with pytest.raises(psycopg.OperationalError):
            await insert_and_lose_the_connection(database, proxy)
        await eventually(lambda: answers(database))
        assert database.stats().in_use == 0


async def test_cancelling_a_task_cancels_its_statement_and_keeps_the_connection(
    dsn: str, database: Devstack
) -> None:
    async with Database.open(config(dsn, pool_size_max=1), name="p") as own:

        async def work() -> None:
            async with own.transaction() as connection:
                await connection.execute("SELECT pg_sleep(60) /* cancel me */")

        task = asyncio.create_task(work())

        async def is_running() -> bool:
            return await running(database.admin_dsn, "cancel me") > 0

        async def is_gone() -> bool:
            return not await is_running()

        await eventually(is_running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(is_gone)
        async with own.transaction() as connection:  # The only connection there is.
            assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
        assert own.stats().size == 1


async def test_a_timeout_around_a_statement_reaches_the_server(
    dsn: str, database: Devstack
) -> None:
    async with Database.open(config(dsn, pool_size_max=1), name="p") as own:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), own.transaction() as connection:
                await connection.execute("SELECT pg_sleep(60) /* time out */")
        assert time.monotonic() - started < 5
        assert await running(database.admin_dsn, "time out") == 0


async def test_many_cancelled_callers_leak_no_connection(dsn: str) -> None:
    settings = config(dsn, pool_size_min=2, pool_size_max=2, acquire_timeout_seconds=5)
    async with Database.open(settings, name="p") as database:

        async def work() -> None:
            async with database.transaction() as connection:
                await connection.execute("SELECT pg_sleep(0.002)")

        for round_ in range(60):
            tasks = [asyncio.create_task(work()) for _ in range(6)]
            # A different moment in each round: while waiting, beginning, working, returning.
            await asyncio.sleep(0.0003 * (round_ % 20))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        async def is_whole() -> bool:
            stats = database.stats()
            return stats.in_use == 0 and stats.idle == stats.size

        await eventually(is_whole)
        async with database.transaction(), database.transaction():
            assert database.stats().in_use == 2


async def test_a_caller_cancelled_while_it_returns_a_connection_does_not_lose_it(
    dsn: str,
) -> None:
    settings = config(dsn, pool_size_max=1, acquire_timeout_seconds=1)
    async with Database.open(settings, name="p") as database:
        lock = database._pool._lock  # Whoever returns a connection has to wait for it.

        async def work() -> None:
            async with database.transaction():
                await lock.acquire()

        task = asyncio.create_task(work())

        async def is_returning() -> bool:
            return database.stats().in_use == 0 and lock.locked()

        await eventually(is_returning)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        lock.release()
        await eventually(lambda: answers(database))
        assert database.stats().size == 1


async def test_a_direct_connection_is_a_session_of_its_own(dsn: str) -> None:
    async with (
        direct_connection(config(dsn), name="one") as one,
        direct_connection(config(dsn), name="two") as two,
    ):
        lock = "SELECT pg_try_advisory_lock(424242)"
        assert await (await one.execute(lock)).fetchone() == (True,)
        assert await (await two.execute(lock)).fetchone() == (False,)


async def test_a_direct_connection_to_nowhere_is_unavailable(dsn: str, proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ServiceError, match="DEPENDENCY_UNAVAILABLE"):
        async with direct_connection(config(through(proxy, dsn)), name="one"):
            pass
