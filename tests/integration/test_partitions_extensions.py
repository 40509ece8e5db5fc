"""pg_partman makes the partitions and pg_cron runs the maintenance, where both are installed.

They need PostgreSQL's server packages of the distribution: elsewhere these tests are skipped.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

import atlas_db
from atlas_devstack.database import Database
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

from .conftest import make_two_tenants
from .lane_writer import LaneWriter, RawPoint
from .partition_rig import T0, Admin, counts, fetch, fill, keep, make_day, midnight, partitions
from .waiting import eventually

BINARIES = Path("/usr/lib/postgresql/15/bin")
EXTENSIONS = Path("/usr/share/postgresql/15/extension")

pytestmark = [
    pytest.mark.skipif(
        not all((EXTENSIONS / f"{name}.control").exists() for name in ("pg_partman", "pg_cron")),
        reason="needs postgresql-15, postgresql-15-partman and postgresql-15-cron",
    ),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Database]:
    """A database on PostgreSQL 15 with both extensions, upgraded after they were installed."""
    settings = {
        "shared_preload_libraries": "pg_cron",
        "cron.database_name": "atlas",
        # Else pg_cron logs in over the network as the job's role, without a password.
        "cron.use_background_workers": "on",
        "max_worker_processes": "20",
    }
    postgres = replace(server_options.postgres, replicas=0, bin_dir=BINARIES, settings=settings)
    servers = replace(server_options, postgres=postgres, pg_dsn=None, containers=False)
    options = StackOptions(services=(), servers=replace(servers, replica_dsns=(), valkey=False))
    stack = Stack.start(tmp_path_factory.mktemp("extensions") / "state", options)
    try:
        with psycopg.connect(stack.database.admin_dsn, autocommit=True) as admin:
            admin.execute("CREATE SCHEMA partman")
            admin.execute("CREATE EXTENSION pg_partman SCHEMA partman")
            admin.execute("CREATE EXTENSION pg_cron")
            make_two_tenants(admin)
        for _ in range(2):  # Safe to repeat here too.
            atlas_db.upgrade(stack.database.admin_dsn)
        yield stack.database
    finally:
        stack.remove()


@pytest.fixture
def admin(installed: Database) -> Iterator[Admin]:
    with psycopg.connect(installed.admin_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def ingest(installed: Database) -> Iterator[Admin]:
    with psycopg.connect(installed.dsn("atlas_ingest"), autocommit=True) as connection:
        yield connection


def dresses(admin: Admin) -> set[tuple[Any, ...]]:
    return set(
        admin.execute(
            "SELECT relrowsecurity, relforcerowsecurity, relreplident, relowner::regrole::text,"
            " (SELECT count(*) FROM aclexplode(relacl) AS a WHERE a.grantee <> relowner)"
            " FROM partitions_of('entity_values_ts') AS p JOIN pg_class AS c ON c.oid = p.partition"
            " WHERE NOT is_default"
        )
    )


def test_partman_makes_the_partitions_and_we_dress_them(admin: Admin, ingest: Admin) -> None:
    ours = partitions(admin)
    (done,) = fetch(ingest, "SELECT maintain_partitions(6)")
    made = [name for name in partitions(admin) if name not in ours]
    assert made == [f"entity_values_ts_p{midnight(-day):%Y_%m_%d}" for day in (4, 5, 6)]
    assert [word for word in done if "write_requests" not in word] == [f"made {n}" for n in made]
    assert dresses(admin) == {(True, True, "f", "atlas_owner", 0)}
    assert fetch(ingest, "SELECT maintain_partitions(6)") == ([],)


def test_what_partman_makes_by_itself_is_dressed_later(admin: Admin, ingest: Admin) -> None:
    fetch(ingest, "SELECT maintain_partitions(6)")
    admin.execute("UPDATE partman.part_config SET premake = 9")
    admin.execute("SET ROLE atlas_owner")
    admin.execute("SELECT partman.run_maintenance('atlas.entity_values_ts')")
    admin.execute("RESET ROLE")
    assert partitions(admin)[-1] == f"entity_values_ts_p{midnight(-9):%Y_%m_%d}"
    assert len(dresses(admin)) == 2
    fetch(ingest, "SELECT maintain_partitions(6)")
    assert dresses(admin) == {(True, True, "f", "atlas_owner", 0)}
    uncovered = admin.execute("SELECT * FROM uncovered_spans(%s, %s)", [midnight(1), midnight(-10)])
    assert uncovered.fetchall() == []
    writer = LaneWriter(ingest)
    writer.write([RawPoint(tenant, 1, 1, T0, 1.0) for tenant in (1, 2)])
    assert counts(admin) == {1: 1, 2: 1}


async def test_cron_runs_what_needs_no_files(admin: Admin) -> None:
    jobs = admin.execute("SELECT jobname, username, database FROM cron.job ORDER BY 1").fetchall()
    assert jobs == [
        (name, "atlas_maintenance", "atlas")
        for name in ("atlas default rows", "atlas ledger", "atlas partitions", "atlas retention")
    ]
    # Only days without a partition: what lies there is moved by the next minute's run.
    for tenant in (1, 2):
        fill(admin, tenant, midnight(9), 10)

    def is_moved() -> bool:
        return bool(fetch(admin, "SELECT row_count = 0 FROM default_rows()")[0])

    await eventually(is_moved, seconds=90)
    failed = admin.execute(
        "SELECT command, return_message FROM cron.job_run_details WHERE status = 'failed'"
    ).fetchall()
    assert failed == []


async def test_the_database_retires_by_itself_what_needs_no_archive(
    installed: Database, admin: Admin
) -> None:
    make_day(admin, 40)
    make_day(admin, 20)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40), 10)
        fill(admin, tenant, midnight(20), 10)
    keep(admin, "week", 7, "drop", 1)
    keep(admin, "month", 30, "drop", 2)
    with psycopg.connect(installed.dsn("atlas_maintenance"), autocommit=True) as maintenance:
        await asyncio.to_thread(maintenance.execute, "CALL run_retention()")
    days = "SELECT lower_bound FROM partitions_of('entity_values_ts') WHERE NOT is_default"
    assert midnight(40) not in [day for (day,) in admin.execute(days)]
    assert midnight(20) in [day for (day,) in admin.execute(days)]
    left = admin.execute(
        "SELECT DISTINCT tenant_id FROM entity_values_ts WHERE ingested_at < %s", [midnight(10)]
    )
    assert left.fetchall() == [(2,)]
    assert fetch(admin, "SELECT count(*) FROM retired_partitions WHERE dropped_at IS NULL") == (0,)
