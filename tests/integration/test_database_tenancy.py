"""No role reaches another tenant's rows, by any road."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

import atlas_db
from atlas_devstack.database import Database, another

from .conftest import Connect, connector, make_two_tenants
from .lane_writer import LaneWriter, RawPoint

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TENANT_TABLES = [
    "entities",
    "attributes",
    "entity_values_ts",
    "entity_jsonb",
    "attribute_access",
    "write_requests",
    "projected_attributes",
    "projection_jobs",
    "attribute_indexes",
    "attribute_promotion",
    "promotion_decisions",
    "audit_log",
]


@pytest.fixture(scope="module")
def written(database: Database) -> Iterator[Database]:
    """A database of this module, in which both tenants wrote."""
    with another(database) as own, ExitStack() as cleanup:
        connect_as = connector(own, cleanup)
        tenants = make_two_tenants(connect_as("admin"))
        writer = LaneWriter(connect_as("atlas_ingest"))
        for tenant_id in tenants:
            writer.stage_request(tenant_id, "r1", batch_no=tenant_id)
            writer.stage([RawPoint(tenant_id, 1, 1, NOW, float(tenant_id), batch_no=tenant_id)])
        writer.flush()
        start_jobs(connect_as("atlas_hotcache"), tenants)
        count_and_decide(connect_as("admin"))
        yield own


@pytest.fixture
def connect(written: Database) -> Iterator[Connect]:
    """Connections by role, of each test its own."""
    with ExitStack() as cleanup:
        yield connector(written, cleanup)


def start_jobs(hotcache: "psycopg.Connection[Any]", tenants: tuple[int, ...]) -> None:
    """A promotion and an index in each tenant, which nobody works on."""
    for tenant_id in tenants:
        with hotcache.transaction():
            hotcache.execute(f"SET LOCAL atlas.tenant_id = {tenant_id}")
            hotcache.execute(
                "SELECT start_projection_job(%s, 'promote', 3, NULL, 100::smallint, false, false,"
                " NULL)",
                [tenant_id],
            )
            hotcache.execute("SELECT start_attribute_index(%s, 3, 4, 16)", [tenant_id])


def count_and_decide(admin: "psycopg.Connection[Any]") -> None:
    """What is counted and decided about an attribute of each tenant."""
    for table, columns, values in (
        ("attribute_access", "hour", "now()"),
        ("attribute_promotion", "pin", "'hot'"),
        (
            "promotion_decisions",
            "decided_at, actor, action, dry_run, outcome, why",
            "now(), 'policy', 'promote', true, 'would', 'read'",
        ),
    ):
        admin.execute(
            f"INSERT INTO {table} (tenant_id, attribute_id, {columns})"
            f" SELECT t, 3, {values} FROM generate_series(1, 2) AS t"
        )
    admin.execute(
        "INSERT INTO audit_log (tenant_id, act, event, actor, actor_kind, actor_tenant, method,"
        " request_id) SELECT t, gen_random_uuid(), 'begun', 'ann', 'user', '', '/m', 'r'"
        " FROM generate_series(1, 2) AS t"
    )


@pytest.mark.parametrize("role", atlas_db.SERVICE_ROLES)
@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_role_sees_its_transactions_tenant_only(connect: Connect, role: str, table: str) -> None:
    connection = connect(role)
    select = sql.SQL("SELECT DISTINCT tenant_id FROM {}").format(sql.Identifier(table))
    try:
        assert connection.execute(select).fetchall() == [], "rows without any tenant"
        for tenant_id in (2, 1):
            with connection.transaction():
                connection.execute(f"SET LOCAL atlas.tenant_id = {tenant_id}")
                seen = {row[0] for row in connection.execute(select)}
                assert seen <= {tenant_id}
                assert seen == {tenant_id}
        # A setting of the transaction is gone with it; the session's is '' now, not missing.
        assert connection.execute(select).fetchall() == []
    except errors.InsufficientPrivilege:
        return  # No grant at all is the better answer.


@pytest.mark.parametrize("role", [*atlas_db.SERVICE_ROLES])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO entity_values_ts (tenant_id, entity_id, attribute_id, event_time, ingested_at,"
        " value_double) VALUES (1, 1, 1, now(), now(), 1)",
        "UPDATE entity_values_ts SET value_double = 0",
        "DELETE FROM entity_values_ts",
        "COPY entity_values_ts TO STDOUT",
        "UPDATE entity_jsonb SET version = 0",
        "SELECT * FROM entity_values_ts_default",
        "SELECT * FROM staging.lane_0_a_points",
        "TRUNCATE staging.lane_0_a_points",
        "UPDATE flush_positions SET sequence = 0",
        "UPDATE flush_control SET sealed_before = 'infinity'",
        "INSERT INTO write_requests (tenant_id) VALUES (1)",
        "DELETE FROM entities",
        "UPDATE projection_jobs SET state = 'done'",
        "DELETE FROM projected_attributes",
        "UPDATE projection_runner SET owner = 'mine'",
        "UPDATE attribute_indexes SET state = 'ready'",
        "SET ROLE atlas_flusher",
        "SET ROLE atlas_projector",
        "SET ROLE atlas_owner",
        "CREATE TABLE atlas.mine (x int)",
    ],
)
def test_telemetry_is_written_by_the_flush_alone(
    connect: Connect, role: str, statement: str
) -> None:
    connection = connect(role)
    if statement.startswith("COPY") and role in {"atlas_query", "atlas_reconciler"}:
        # Both may read the table; COPY gives what row-level security shows them: nothing.
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            assert list(copy) == []
        return
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement)


def test_a_tenant_cannot_write_into_anothers_catalog(connect: Connect) -> None:
    connection = connect("atlas_ingest")
    steal = (
        "BEGIN; SET LOCAL atlas.tenant_id = 1;"
        " INSERT INTO entities (tenant_id, key) VALUES (2, 'stolen'); COMMIT"
    )
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute(steal)
    connection.rollback()
    with connection.transaction():
        connection.execute("SET LOCAL atlas.tenant_id = 1")
        changed = connection.execute("UPDATE attributes SET unit = 'x' WHERE tenant_id = 2")
        assert changed.rowcount == 0


def test_the_owning_roles_cannot_log_in(database: Database) -> None:
    with psycopg.connect(database.admin_dsn) as connection:
        flags: list[Any] = connection.execute(
            "SELECT rolcanlogin, rolsuper, rolbypassrls FROM pg_roles"
            " WHERE rolname IN ('atlas_owner', 'atlas_flusher', 'atlas_projector', 'atlas_meter')"
        ).fetchall()
    assert flags == [(False, False, False)] * 4


def test_jobs_on_the_projection_stay_in_their_transactions_tenant(connect: Connect) -> None:
    hotcache = connect("atlas_hotcache")
    jobs = hotcache.execute("SELECT tenant_id, job_id FROM running_projection_jobs(10)").fetchall()
    assert {tenant_id for tenant_id, _ in jobs} == {1, 2}, "which there are is asked of all"
    epoch = hotcache.execute("SELECT lease_projection('test', 60)").fetchone()
    assert epoch is not None
    theirs = next(job_id for tenant_id, job_id in jobs if tenant_id == 2)
    for claimed in (1, 2):  # As one's own, and as what it is.
        hotcache.execute("BEGIN; SET LOCAL atlas.tenant_id = 1")
        with pytest.raises(psycopg.Error) as refused:
            hotcache.execute(
                "SELECT * FROM write_projection_batch('test', %s, %s, %s, 'drain', 10, NULL)",
                [epoch[0], claimed, theirs],
            )
        hotcache.execute("ROLLBACK")
        assert refused.value.sqlstate == {1: "AT004", 2: "42501"}[claimed]
    hotcache.execute("SELECT keep_projection_lease('test', 0)")
