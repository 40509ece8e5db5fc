"""The tenant door, the guarded snapshot, the tenants' registry, heartbeats, rights, schema."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

import atlas_db
from atlas_common.background import Supervisor
from atlas_common.config import DatabaseConfig
from atlas_common.db import (
    BehindError,
    Database,
    Freshness,
    Heartbeat,
    Isolation,
    PositionLostError,
    PostgresTenants,
    PrimaryClock,
    PrimaryClockPoller,
    Schema,
    direct_connection,
    rights,
    tenant_snapshot,
    tenant_transaction,
    use_tenant,
)
from atlas_common.errors import FatalError, ServiceError
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_devstack.database import Database as Devstack
from atlas_devstack.proxy import FaultProxy
from tests.integration.waiting import eventually

ACME = Tenant(101, "acme")
GLOBEX = Tenant(102, "globex")


@pytest.fixture
async def ingest(fresh_database: Devstack) -> AsyncIterator[Database]:
    """A pool of one connection, so that tenants must share it."""
    settings = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_ingest")), pool_size_max=1)
    async with Database.open(settings, name="primary") as database:
        async with database.transaction() as connection:
            for tenant in (ACME, GLOBEX):
                await connection.execute(
                    "INSERT INTO tenants (tenant_id, key) VALUES (%s, %s)", [tenant.id, tenant.key]
                )
        for tenant in (ACME, GLOBEX):
            async with tenant_transaction(database, tenant) as writer:
                await writer.execute(
                    "INSERT INTO entities (tenant_id, key) VALUES (%s, %s)",
                    [tenant.id, f"pump of {tenant.key}"],
                )
        yield database


async def keys(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> list[object]:
    cursor = await connection.execute("SELECT key FROM entities ORDER BY key")
    return [key for (key,) in await cursor.fetchall()]


async def test_each_tenant_sees_its_own_rows_on_a_shared_connection(ingest: Database) -> None:
    for tenant in (ACME, GLOBEX, ACME):
        async with tenant_transaction(ingest, tenant, read_only=True) as connection:
            assert await keys(connection) == [f"pump of {tenant.key}"]


async def test_no_tenant_sees_no_rows_also_after_another_used_the_connection(
    ingest: Database,
) -> None:
    async with tenant_transaction(ingest, ACME, read_only=True) as connection:
        assert await keys(connection)
    async with ingest.transaction(read_only=True) as connection:
        assert await keys(connection) == []
    async with ingest.connection() as connection:
        assert await keys(connection) == []


async def test_a_row_of_another_tenant_cannot_be_written(ingest: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with tenant_transaction(ingest, ACME) as connection:
            await connection.execute(
                "INSERT INTO entities (tenant_id, key) VALUES (%s, 'theirs')", [GLOBEX.id]
            )


async def test_the_tenant_changes_within_a_transaction(ingest: Database) -> None:
    async with tenant_transaction(ingest, ACME) as connection:
        assert await keys(connection) == ["pump of acme"]
        await use_tenant(connection, GLOBEX)
        assert await keys(connection) == ["pump of globex"]


async def test_a_tenant_is_not_used_outside_a_transaction(
    fresh_database: Devstack, ingest: Database
) -> None:
    settings = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_ingest")))
    async with direct_connection(settings, name="direct") as connection:
        with pytest.raises(RuntimeError, match="within a transaction"):
            await use_tenant(connection, ACME)  # type: ignore[arg-type]  # What is tested.
        async with tenant_transaction(connection, GLOBEX, isolation=Isolation.SERIALIZABLE) as own:
            assert await keys(own) == ["pump of globex"]
            with pytest.raises(RuntimeError, match="in a transaction already"):
                async with tenant_transaction(connection, ACME):
                    pass
        assert await keys(connection) == []


@pytest.mark.parametrize("id_", [0, -1, 2**31])
async def test_what_is_no_tenants_id_is_refused(ingest: Database, id_: int) -> None:
    with pytest.raises(ValueError, match="no tenant's id"):
        tenant_transaction(ingest, id_)


async def test_behind_a_pooler_the_door_works_the_same(fresh_database: Devstack) -> None:
    settings = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_ingest")), pooler=True)
    async with (
        Database.open(settings, name="pooled") as database,
        tenant_transaction(database, ACME) as connection,
    ):
        cursor = await connection.execute(
            "SELECT current_setting('atlas.tenant_id'), current_setting('lock_timeout')"
        )
        assert await cursor.fetchone() == ("101", "5s")


async def arrange(database: Devstack, sql: str) -> None:
    async with await psycopg.AsyncConnection.connect(
        database.admin_dsn, autocommit=True
    ) as connection:
        await connection.execute("SET search_path = atlas")
        await connection.execute(sql.encode())


async def test_a_snapshot_tells_its_heartbeat_and_sees_one_tenant(
    fresh_database: Devstack, ingest: Database
) -> None:
    await Heartbeat(ingest, interval_seconds=0.001).beat()
    async with tenant_snapshot(ingest, ACME) as snapshot:
        assert (snapshot.beat.timeline, snapshot.beat.beat_id) == (1, 1 << 32)
        assert (snapshot.positions, snapshot.timeline) == ((), 1)
        assert snapshot.beat.beaten_at.tzinfo is not None
        assert await keys(snapshot.connection) == ["pump of acme"]
        cursor = await snapshot.connection.execute(
            "SELECT current_setting('transaction_isolation'),"
            " current_setting('transaction_read_only')"
        )
        assert await cursor.fetchone() == ("repeatable read", "on")
        # The guard took the snapshot: what commits from now on is not in it.
        await arrange(
            fresh_database,
            f"INSERT INTO entities (tenant_id, key) VALUES ({ACME.id}, 'later')",
        )
        assert await keys(snapshot.connection) == ["pump of acme"]


async def test_a_snapshot_demands_heartbeat_and_positions(
    fresh_database: Devstack, ingest: Database
) -> None:
    await arrange(
        fresh_database,
        "INSERT INTO lane_epochs (lane, epoch, first_sequence, claimed_at)"
        " VALUES (3, 10, 1, now()), (3, 20, 5, now());"
        "INSERT INTO flush_positions (lane, epoch, sequence, flushed_at) VALUES (3, 20, 7, now())",
    )
    reached = Freshness(datetime(2020, 1, 1, tzinfo=UTC), (Position(3, 10, 4), Position(3, 20, 7)))
    async with tenant_snapshot(ingest, ACME, fresh=reached) as snapshot:
        assert snapshot.beat.beat_id > 0
        assert snapshot.positions == (Position(3, 20, 7),)
        cursor = await snapshot.connection.execute("SELECT transaction_timestamp()")
        assert await cursor.fetchone() == (snapshot.begun_at,)

    later = Freshness(datetime.now(UTC) + timedelta(hours=1))
    for behind in (
        later,
        Freshness(positions=(Position(3, 20, 8),)),
        Freshness(None, (Position(4, 1, 1),)),
    ):
        with pytest.raises(BehindError) as raised:
            async with tenant_snapshot(ingest, ACME, fresh=behind):
                pytest.fail("the guard let it pass")
        assert raised.value.reason == "FRESHNESS_UNMET"
        assert raised.value.retryable

    with pytest.raises(PositionLostError) as lost:
        async with tenant_snapshot(ingest, ACME, fresh=Freshness(positions=(Position(3, 10, 5),))):
            pytest.fail("the guard let it pass")
    assert lost.value.reason == "POSITION_LOST"
    assert not lost.value.retryable
    await ingest.check()  # The connection that refused is whole.


async def test_a_direct_connection_is_free_again_after_a_refusal(
    fresh_database: Devstack, ingest: Database
) -> None:
    settings = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_ingest")))
    unmet = Freshness(positions=(Position(200, 1, 1),))
    async with direct_connection(settings, name="direct") as connection:
        with pytest.raises(BehindError):
            async with tenant_snapshot(connection, ACME, fresh=unmet):
                pytest.fail("the guard let it pass")
        async with tenant_snapshot(connection, GLOBEX) as snapshot:
            assert await keys(snapshot.connection) == ["pump of globex"]


async def test_tenants_resolve_by_key(fresh_database: Devstack, ingest: Database) -> None:
    tenants = PostgresTenants(ingest)
    assert await tenants.resolve("acme") == ACME
    assert await tenants.resolve("globex") == GLOBEX
    for key, reason in (("nobody", "TENANT_UNKNOWN"), ("Not A Key", "INVALID_FIELD")):
        with pytest.raises(ServiceError, match=reason):
            await tenants.resolve(key)
    await arrange(fresh_database, "UPDATE tenants SET status = 'suspended' WHERE key = 'acme'")
    assert await tenants.resolve("acme") == ACME  # Remembered,
    tenants.forget("acme")
    with pytest.raises(ServiceError, match="PERMISSION_DENIED"):  # until told otherwise.
        await tenants.resolve("acme")


async def test_a_tenant_that_was_just_made_is_found_at_once_when_forgotten(
    fresh_database: Devstack, ingest: Database
) -> None:
    tenants = PostgresTenants(ingest)
    with pytest.raises(ServiceError, match="TENANT_UNKNOWN"):
        await tenants.resolve("newcomer")
    await arrange(fresh_database, "INSERT INTO tenants (key) VALUES ('newcomer')")
    tenants.forget("newcomer")
    assert (await tenants.resolve("newcomer")).key == "newcomer"


async def test_known_tenants_outlive_an_outage(fresh_database: Devstack, ingest: Database) -> None:
    dsn = fresh_database.dsn("atlas_ingest")
    port = int(conninfo_to_dict(dsn)["port"] or 0)
    async with FaultProxy.listen(port) as proxy:
        settings = DatabaseConfig(
            dsn=SecretStr(dsn_through(dsn, proxy.port)), acquire_timeout_seconds=0.2
        )
        async with Database.open(settings, name="p") as database:
            tenants = PostgresTenants(database, ttl_seconds=1e-9)
            assert await tenants.resolve("acme") == ACME
            proxy.refuse()
            assert await tenants.resolve("acme") == ACME
            with pytest.raises(ServiceError, match="DEPENDENCY_UNAVAILABLE"):
                await tenants.resolve("globex")


def dsn_through(dsn: str, port: int) -> str:
    return psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", hostaddr="", port=port)


async def test_two_writers_make_one_heartbeat(ingest: Database) -> None:
    for _ in range(2):
        await Heartbeat(ingest, interval_seconds=60).beat()
    async with tenant_snapshot(ingest, ACME) as snapshot:
        # The row is as old as the database; only a minute later would another beat count.
        assert snapshot.beat.beat_id == 1


async def test_the_clock_of_the_primary_measures_a_copys_lag(ingest: Database) -> None:
    clock = PrimaryClock()
    poller = PrimaryClockPoller(ingest, clock)
    heart = Heartbeat(ingest, interval_seconds=0.001)
    loop = asyncio.get_running_loop()
    await heart.beat()
    async with tenant_snapshot(ingest, ACME) as old:
        pass
    await poller.poll()
    assert 0.0 <= clock.lag_seconds(old.beat, loop.time()) < 2.0
    await heart.beat()
    await poller.poll()
    assert clock.newest_beat is not None
    behind = (clock.newest_beat.beaten_at - old.beat.beaten_at).total_seconds()
    assert 0.0 < behind <= clock.lag_seconds(old.beat, loop.time()) < 2.0


@pytest.mark.parametrize("role", ["atlas_ingest", "atlas_hotcache", "atlas_query"])
async def test_the_services_roles_have_no_right_in_excess(
    fresh_database: Devstack, role: str
) -> None:
    settings = DatabaseConfig(dsn=SecretStr(fresh_database.dsn(role)))
    async with Database.open(settings, name="p") as database:
        await rights.guard(database)()


async def test_only_the_reconciler_may_replicate(fresh_database: Devstack) -> None:
    settings = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_reconciler")))
    async with direct_connection(settings, name="p") as connection:
        await rights.check(connection, replication=True)
        with pytest.raises(FatalError, match=r'REPLICATION .*ALTER ROLE "atlas_reconciler" NOREPL'):
            await rights.check(connection)


@pytest.mark.parametrize(
    ("grant", "named"),
    [
        ("ALTER ROLE intruder BYPASSRLS", 'BYPASSRLS (ALTER ROLE "intruder" NOBYPASSRLS)'),
        ("ALTER ROLE intruder CREATEROLE CREATEDB", 'CREATEDB (ALTER ROLE "intruder" NOCREATEDB)'),
        ("ALTER ROLE intruder SUPERUSER", 'SUPERUSER (ALTER ROLE "intruder" NOSUPERUSER)'),
        ("CREATE TABLE loot (); ALTER TABLE loot OWNER TO intruder", "ownership of atlas.loot"),
        ("GRANT atlas_owner TO intruder", 'REVOKE "atlas_owner" FROM "intruder"'),
        ("GRANT pg_read_all_data TO intruder", 'REVOKE "pg_read_all_data" FROM "intruder"'),
        (
            "CREATE TABLE p (x int) PARTITION BY LIST (x); CREATE TABLE p1 PARTITION OF p DEFAULT;"
            "GRANT SELECT ON p1 TO intruder",
            'REVOKE ALL ON atlas.p1 FROM "intruder"',
        ),
    ],
)
async def test_a_right_in_excess_is_named_with_its_remedy(
    fresh_database: Devstack, grant: str, named: str
) -> None:
    await arrange(fresh_database, "DROP ROLE IF EXISTS intruder; CREATE ROLE intruder LOGIN")
    try:
        await arrange(fresh_database, grant)
        async with await psycopg.AsyncConnection.connect(fresh_database.admin_dsn) as connection:
            await connection.execute("SET ROLE intruder")
            with pytest.raises(FatalError) as raised:
                await rights.check(connection)
            assert named in str(raised.value)
    finally:
        await arrange(fresh_database, "DROP OWNED BY intruder; DROP ROLE intruder")


@pytest.mark.parametrize("mark", [None, "revision 0011", "not ours"])
async def test_work_waits_for_the_schema_that_it_needs(
    fresh_database: Devstack, mark: str | None
) -> None:
    """As every service's role, none of which has a right to the migrations' own table."""
    begun: list[str] = []

    async def work() -> None:
        begun.append("work")

    settings = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_query")))
    async with Database.open(settings, name="primary") as database, Supervisor() as tasks:
        schema = Schema([database])
        with psycopg.connect(fresh_database.admin_dsn, autocommit=True) as admin:
            comment = sql.Literal(mark)
            admin.execute(sql.SQL("COMMENT ON SCHEMA atlas IS {}").format(comment))
        tasks.start("work", schema.before({"work": work})["work"])
        found = "revision 0011" if mark == "revision 0011" else "an unknown revision"
        with pytest.raises(ServiceError, match=f"at {found}, this release needs 0012: run its mig"):
            await schema.check()
        assert begun == []
        atlas_db.upgrade(fresh_database.admin_dsn)
        await schema.check()
        await eventually(lambda: begun)
