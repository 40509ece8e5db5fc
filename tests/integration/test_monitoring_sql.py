"""ops/monitoring.sql runs as the role that may only look, and tells the truth."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from atlas_common.db import rights
from atlas_common.db.queries import parse_queries
from atlas_devstack.database import Database

from .conftest import Connect
from .lane_writer import LaneWriter, RawPoint
from .partition_rig import Admin, fill, keep, make_day, midnight, writing
from .waiting import eventually

SOURCE = Path(__file__).parents[2] / "ops" / "monitoring.sql"
QUERIES = parse_queries(SOURCE.read_text(), str(SOURCE))
T0 = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "a value of a tenant"

pytestmark = pytest.mark.usefixtures("two_tenants")


def ask(connection: Admin, name: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(QUERIES[name]).fetchall()


def test_every_query_runs_on_an_empty_database(connect: Connect) -> None:
    monitor = connect("atlas_monitor")
    answers = {name: ask(monitor, name) for name in QUERIES}
    assert {"staging", "table_sizes", "wal_pressure"} <= set(answers)
    assert answers["default_rows"][0]["row_count"] == 0
    assert all(root["covers_now"] for root in answers["partitions_ahead"])
    assert answers["retention_overdue"] == answers["blocked_flushes"] == []


async def test_every_query_runs_on_a_busy_database_and_shows_no_tenants_value(
    connect: Connect, fresh_database: Database
) -> None:
    admin, monitor = connect("admin"), connect("atlas_monitor")
    make_day(admin, 40)
    keep(admin, "month", 30, "archive", 1)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40), 50)
        fill(admin, tenant, midnight(9), 50)
        admin.execute(
            "INSERT INTO ingest_dead_letters (tenant_id, source, topic, reason, message, raw,"
            " stored_at) VALUES (%s, 'kafka', 'points', 'NOT_UTF8', %s, %s, now())",
            [tenant, SECRET, SECRET.encode()],
        )
        admin.execute(
            "INSERT INTO producer_positions VALUES (%s, 'p1', 7, 0, 1, 1, now() - interval '1 h')",
            [tenant],
        )
    with writing(fresh_database) as stored, blocked_flush(connect):
        await eventually(lambda: ask(monitor, "blocked_flushes"))
        for name in QUERIES:
            assert SECRET not in repr(ask(monitor, name)), name
        (overdue,) = [r for r in ask(monitor, "retention_overdue") if r["step"] == "archive"]
        assert (overdue["retention_class"], overdue["tenants"]) == ("month", 1)
        (default,) = ask(monitor, "default_rows")
        assert default["row_count"] == 100
        (letters,) = ask(monitor, "dead_letters")
        assert (letters["reason"], letters["letters"], letters["tenants"]) == ("NOT_UTF8", 2, 2)
        assert [row["tenant"] for row in ask(monitor, "producers_lagging")] == ["acme", "globex"]
    assert stored


@contextmanager
def blocked_flush(connect: Connect, lane: int = 3) -> Iterator[int]:
    """A flush that waits for somebody's forgotten transaction; its process."""
    blocker, flusher = connect("admin"), connect("atlas_ingest")
    writer = LaneWriter(flusher, lane)
    writer.write([RawPoint(t, 1, 1, T0, 1.0) for t in (1, 2)])
    writer.stage([RawPoint(t, 1, 1, T0, 2.0) for t in (1, 2)])
    thread = threading.Thread(target=writer.flush)
    with blocker.transaction():
        blocker.execute("SELECT 1 FROM entity_jsonb WHERE attrs::text <> %s FOR UPDATE", [SECRET])
        blocker.execute(
            f"SELECT 17, '{SECRET}', $x$it's {SECRET}$x$, E'it\\'s {SECRET}', '{SECRET}'".encode()
        )
        thread.start()
        yield blocker.info.backend_pid
    thread.join()


async def test_a_blocked_flush_names_who_is_in_its_way(connect: Connect) -> None:
    monitor = connect("atlas_monitor")
    with blocked_flush(connect) as pid:
        await eventually(lambda: ask(monitor, "blocked_flushes"))
        (row,) = ask(monitor, "blocked_flushes")
        assert row["lane"] == 3
        assert f"held by process {pid} (no name, idle in transaction" in row["waits_for"]
        assert SECRET not in row["waits_for"]
        (lane,) = [row for row in ask(monitor, "staging") if row["lane"] == 3]
        assert lane["staged_points"] == 2
        assert lane["reason"] == row["waits_for"]
        assert ask(monitor, "flush_backlog")[0]["flushes_under_way"] == 1
    assert ask(monitor, "blocked_flushes") == []


def test_a_lane_without_an_owner_is_told(connect: Connect) -> None:
    ingest = connect("atlas_ingest")
    writer = LaneWriter(ingest, 5)
    writer.stage([RawPoint(t, 1, 1, T0, 1.0) for t in (1, 2)])
    ingest.execute("SELECT pg_advisory_unlock_all()")
    (lane,) = [row for row in ask(connect("atlas_monitor"), "staging") if row["lane"] == 5]
    assert (lane["owned"], lane["staged_points"]) == (False, 2)
    assert "no process owns the lane" in lane["reason"]


def test_the_monitor_sees_counts_and_sizes_only(connect: Connect) -> None:
    LaneWriter(connect("atlas_ingest"))
    monitor = connect("atlas_monitor")
    for statement in (
        "SELECT * FROM entity_values_ts",
        "SELECT * FROM entity_jsonb",
        "SELECT raw FROM ingest_dead_letters",
        "SELECT message FROM ingest_dead_letters",
        "SELECT * FROM staging.lane_0_a_points",
        "SELECT move_default_rows()",
        "SELECT maintain_partitions()",
        "UPDATE tenants SET key = 'x'",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            monitor.execute(statement.encode())


async def test_no_login_role_has_rights_in_excess(fresh_database: Database) -> None:
    for role in ("atlas_maintenance", "atlas_monitor", "atlas_ingest"):
        dsn = fresh_database.dsn(role)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await rights.check(connection)
