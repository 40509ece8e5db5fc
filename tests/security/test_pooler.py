"""Behind a pooler two tenants take turns on one session of the server, and see nothing of it."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from pydantic import SecretStr

from atlas_common.config import DatabaseConfig
from atlas_common.db import Database, tenant_snapshot, tenant_transaction
from atlas_common.errors import ServiceError
from atlas_devstack.database import Database as Devstack
from atlas_devstack.waiting import Patience

from .pgbouncer import PgBouncer, PgBouncerSite, binary, version

TENANTS = {1: "acme-canary", 2: "globex-canary"}
ROUNDS = 40

pytestmark = pytest.mark.skipif(
    binary() is None, reason="there is no pgbouncer here: apt-get install pgbouncer"
)


@pytest.fixture(scope="module")
def pooler(module_database: Devstack) -> Iterator[PgBouncer]:
    with psycopg.connect(module_database.admin_dsn) as admin:
        for tenant_id, key in TENANTS.items():
            admin.execute("INSERT INTO tenants (tenant_id, key) VALUES (%s, %s)", [tenant_id, key])
            admin.execute("INSERT INTO entities (tenant_id, key) VALUES (%s, %s)", [tenant_id, key])
    place = Path(tempfile.mkdtemp(prefix="atlas-pgbouncer-"))  # Its account enters no test's own.
    place.chmod(0o755)
    directory = place / "etc"
    directory.mkdir()
    keeping = ("max_prepared_statements = 100",) if version() >= (1, 21) else ()
    site = PgBouncerSite(directory, module_database, "atlas_query", keeping)
    pgbouncer = PgBouncer(site, Patience())
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, place)
        cleanup.callback(pgbouncer.stop)
        pgbouncer.start()
        yield pgbouncer


def configured(pooler: PgBouncer) -> DatabaseConfig:
    # Patient: all of them wait for one session.
    return DatabaseConfig(
        dsn=SecretStr(pooler.dsn), pooler=True, pool_size_max=4, acquire_timeout_seconds=60
    )


async def seen(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> tuple[set[object], int]:
    cursor = await connection.execute(
        "SELECT key, pg_backend_pid() FROM entities WHERE key LIKE %s", ["%canary"]
    )
    rows = await cursor.fetchall()
    backend = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert backend is not None
    return {key for key, _ in rows}, int(str(backend[0]))


async def test_tenants_that_take_turns_see_their_own(pooler: PgBouncer) -> None:
    backends: set[int] = set()

    async def read(database: Database, tenant_id: int) -> None:
        for turn in range(ROUNDS):
            if turn % 2:
                async with tenant_transaction(database, tenant_id, read_only=True) as connection:
                    keys, backend = await seen(connection)
            else:
                async with tenant_snapshot(database, tenant_id) as snapshot:
                    keys, backend = await seen(snapshot.connection)
            assert keys == {TENANTS[tenant_id]}
            async with database.transaction(read_only=True) as connection:
                assert (await seen(connection))[0] == set(), "without any tenant"
            backends.add(backend)

    async with Database.open(configured(pooler), name="pooled") as database:
        await asyncio.gather(*(read(database, tenant_id) for tenant_id in (1, 2, 1, 2)))
    assert len(backends) == 1, "they did not share a session, so that nothing was proven"


async def test_a_transaction_that_fails_or_is_given_up_leaves_no_tenant_behind(
    pooler: PgBouncer,
) -> None:
    async with Database.open(configured(pooler), name="pooled") as database:
        with pytest.raises(errors.DivisionByZero):
            async with tenant_transaction(database, 1) as failing:
                await failing.execute("SELECT 1 / 0")
        entered = asyncio.Event()

        async def held() -> None:
            async with tenant_transaction(database, 1) as sleeping:
                entered.set()
                await sleeping.execute("SELECT pg_sleep(600)")

        work = asyncio.create_task(held())
        await entered.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        async with database.transaction(read_only=True) as connection:
            assert (await seen(connection))[0] == set()
        async with tenant_transaction(database, 2, read_only=True) as connection:
            assert (await seen(connection))[0] == {TENANTS[2]}


async def test_a_service_that_was_not_told_of_the_pooler_is_refused(pooler: PgBouncer) -> None:
    """It would rely on settings of its session."""
    untold = configured(pooler).model_copy(update={"pooler": False, "acquire_timeout_seconds": 2})
    async with Database.open(untold, name="direct") as database:
        with pytest.raises(ServiceError):
            async with tenant_transaction(database, 1, read_only=True):
                pass


async def test_prepared_statements_carry_no_tenant(pooler: PgBouncer) -> None:
    """A client that prepares all the same gets its own rows or an error, never another's rows.

    Before 1.21 PgBouncer does not know of prepared statements, and clients trip over each other's.
    """
    served: dict[int, int] = dict.fromkeys(TENANTS, 0)
    refused = 0
    async with AsyncExitStack() as cleanup:
        clients = {
            tenant_id: await cleanup.enter_async_context(await prepares(pooler))
            for tenant_id in TENANTS
        }
        for turn in range(ROUNDS):
            tenant_id = 1 + turn % 2
            try:
                async with clients[tenant_id].transaction():
                    await clients[tenant_id].execute(
                        f"SET LOCAL atlas.tenant_id = {tenant_id}", prepare=False
                    )
                    keys, _ = await seen(clients[tenant_id])
            except (errors.DuplicatePreparedStatement, errors.InvalidSqlStatementName):
                refused += 1
                continue
            assert keys == {TENANTS[tenant_id]}
            served[tenant_id] += 1
    assert sum(served.values()) > 0
    if version() >= (1, 21):
        assert refused == 0


async def prepares(pooler: PgBouncer) -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(pooler.dsn, autocommit=True, prepare_threshold=0)
