"""Partitions whose time has passed are retired, archived and dropped; nothing else is."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from pyarrow import parquet
from pydantic import SecretStr

from atlas_common.config import DatabaseConfig
from atlas_common.db import load_queries
from atlas_devstack.database import Database
from atlas_ingest.config import MaintenanceConfig
from atlas_ingest.maintenance.archive import checksum_of
from atlas_ingest.maintenance.parquet import SCHEMA
from atlas_ingest.maintenance.retention import Outcome, Result, Retention

from .conftest import Connect
from .partition_rig import Admin, counts, fetch, fill, keep, make_day, midnight, partitions
from .waiting import eventually

pytestmark = pytest.mark.usefixtures("two_tenants")

HOUR = timedelta(hours=1)
JOB = (sys.executable, "-m", "atlas_ingest.maintenance")
TIMES = ("event_time", "ingested_at", "value_time")


def retention(database: Database, directory: Path | None) -> Retention:
    dsn = DatabaseConfig(dsn=SecretStr(database.dsn("atlas_maintenance")))
    return Retention(dsn, MaintenanceConfig(archive_directory=directory))


def told(outcomes: Sequence[Outcome] | None) -> list[tuple[str, str | None, Result]]:
    assert outcomes is not None
    return [(o.step.step, o.step.retention_class, o.result) for o in outcomes]


def rows_of_tenant(admin: Admin, tenant_id: int) -> list[tuple[str, ...]]:
    """As archives hold them, in their order; spelled out, since NaN equals nothing."""
    columns = {
        **{name: name for name in SCHEMA.names},
        **{n: f"(extract(epoch FROM {n}) * 1000000)::bigint" for n in TIMES},
        "value_json": "value_json::text",
    }
    rows = admin.execute(
        f"SELECT {', '.join(columns.values())} FROM entity_values_ts WHERE tenant_id = %s"
        " ORDER BY tenant_id, entity_id, attribute_id, event_time, ingested_at",
        [tenant_id],
    ).fetchall()
    return [tuple(map(repr, row)) for row in rows]


def archived_rows(file: Path) -> list[tuple[str, ...]]:
    """The same from Parquet."""
    table = parquet.read_table(file).cast(SCHEMA)
    for name in TIMES:
        index = SCHEMA.get_field_index(name)
        table = table.set_column(index, name, table.column(index).cast("int64"))
    return [tuple(repr(row[name]) for name in SCHEMA.names) for row in table.to_pylist()]


def files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


async def test_a_class_kept_for_ever_keeps_everything(
    connect: Connect, fresh_database: Database, tmp_path: Path
) -> None:
    admin = connect("admin")
    name = make_day(admin, 400)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(400), 5)
    keep(admin, "short", 30, "drop")  # Nobody is in it.
    assert await retention(fresh_database, tmp_path).walk() == []
    assert name in partitions(admin)
    assert counts(admin) == {1: 5, 2: 5}


async def test_when_every_class_has_passed_the_partition_goes(
    connect: Connect, fresh_database: Database
) -> None:
    admin = connect("admin")
    old, young = make_day(admin, 40), make_day(admin, 20)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40), 5)
        fill(admin, tenant, midnight(20), 7)
    keep(admin, "month", 30, "drop", 1)
    keep(admin, "week", 7, "drop", 2)
    job = retention(fresh_database, None)
    assert [(step.step, step.partition_name) for step in await job.plan()] == [
        ("retire", old),
        ("expire", young),
    ]
    assert counts(admin) == {1: 12, 2: 12}, "a plan changes nothing"
    outcomes = await job.walk()
    assert told(outcomes) == [
        ("retire", None, Result.DONE),
        ("expire", "week", Result.DONE),
        ("drop", None, Result.DONE),
    ]
    assert old not in partitions(admin)
    assert young in partitions(admin)
    assert counts(admin) == {1: 7}
    assert fetch(admin, "SELECT to_regclass(%s)", f"retired.{old}") == (None,)
    assert await job.walk() == []


async def test_archives_hold_every_value_and_are_verified(
    connect: Connect, fresh_database: Database, tmp_path: Path
) -> None:
    admin = connect("admin")
    name = make_day(admin, 40)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40) + HOUR, 500)
    keep(admin, "month", 30, "archive", 1)
    keep(admin, "dropped", 30, "drop", 2)
    before = rows_of_tenant(admin, 1)
    outcomes = await retention(fresh_database, tmp_path / "archive").walk()
    assert told(outcomes) == [
        ("retire", None, Result.DONE),
        ("archive", "month", Result.DONE),
        ("drop", None, Result.DONE),
    ]
    (name_of_file,) = files(tmp_path / "archive")
    file = tmp_path / "archive" / name_of_file
    (path, row_count, byte_count, checksum, tenants) = fetch(
        admin, "SELECT path, row_count, byte_count, checksum, tenant_ids FROM partition_archives"
    )
    assert (name_of_file, row_count, tenants) == (path, 500, [1])
    assert file.stat().st_size == byte_count
    assert checksum_of(file).text() == checksum
    assert parquet.read_metadata(file).row_group(0).column(0).compression == "ZSTD"
    assert archived_rows(file) == before
    assert name not in partitions(admin)
    assert counts(admin) == {}


async def test_a_class_that_passes_earlier_leaves_alone(
    connect: Connect, fresh_database: Database, tmp_path: Path
) -> None:
    admin = connect("admin")
    name = make_day(admin, 40)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40) + HOUR, 30)
    keep(admin, "month", 30, "archive", 1)  # Tenant 2 stays for ever.
    kept = rows_of_tenant(admin, 2)
    job = retention(fresh_database, tmp_path)
    assert told(await job.walk()) == [
        ("archive", "month", Result.DONE),
        ("expire", "month", Result.DONE),
    ]
    assert counts(admin) == {2: 30}
    assert rows_of_tenant(admin, 2) == kept
    assert fetch(admin, "SELECT row_count, deleted_count FROM partition_archives") == (30, 30)
    assert await job.walk() == []
    # The other one's time comes later: a part of its own class, then the partition goes.
    keep(admin, "year", 39, "archive", 2)
    admin.execute("UPDATE retention_classes SET keep = '39 days' WHERE keep IS NULL")
    assert told(await job.walk()) == [
        ("retire", None, Result.DONE),
        ("archive", "year", Result.DONE),
        ("drop", None, Result.DONE),
    ]
    assert name not in partitions(admin)
    assert len(files(tmp_path)) == 2


async def test_without_a_directory_nothing_that_wants_an_archive_is_touched(
    connect: Connect, fresh_database: Database
) -> None:
    admin = connect("admin")
    name = make_day(admin, 40)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40), 5)
    keep(admin, "month", 30, "archive", 1, 2)
    job = retention(fresh_database, None)
    outcomes = await job.walk()
    assert told(outcomes) == [("retire", None, Result.BLOCKED)]
    assert outcomes is not None
    assert "archive_directory is not set" in outcomes[0].detail
    assert job.unfinished == {"postponed": 0, "blocked": 1, "failed": 0}
    assert name in partitions(admin)
    assert counts(admin) == {1: 5, 2: 5}


async def test_what_was_archived_but_lost_is_not_deleted(
    connect: Connect, fresh_database: Database, tmp_path: Path
) -> None:
    admin = connect("admin")
    name = make_day(admin, 40)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40), 5)
    keep(admin, "month", 30, "archive", 1, 2)
    job = retention(fresh_database, tmp_path)
    (tmp_path / "archive").mkdir()
    maintenance = connect("atlas_maintenance")
    maintenance.execute("SELECT retire_partition(%s)", [name])
    # As if it had been written to a disk that is no more.
    record = "SELECT record_archive(%s, 'month', '{1,2}', 'gone.parquet', %s, 1, 'sha256:0')"
    with pytest.raises(psycopg.Error, match="has 9 rows, the partition 10"):
        maintenance.execute(record, [name, 9])
    maintenance.execute(record, [name, 10])
    outcomes = await job.walk()
    assert told(outcomes) == [("drop", None, Result.FAILED)]
    assert fetch(admin, f"SELECT count(*) FROM retired.{name}") == (10,)


async def test_two_jobs_at_once_are_one(
    connect: Connect, fresh_database: Database, tmp_path: Path
) -> None:
    admin = connect("admin")
    for days in range(40, 46):
        make_day(admin, days)
        for tenant in (1, 2):
            fill(admin, tenant, midnight(days), 20)
    keep(admin, "month", 30, "archive", 1, 2)
    jobs = [retention(fresh_database, tmp_path) for _ in range(3)]

    async def until_nothing_is_due(job: Retention) -> None:
        async def nothing_is_due() -> bool:
            return await job.walk() == []

        await eventually(nothing_is_due)

    await asyncio.gather(*map(until_nothing_is_due, jobs))
    assert counts(admin) == {}
    rows = admin.execute("SELECT path, row_count FROM partition_archives").fetchall()
    assert len(rows) == 6
    assert files(tmp_path) == sorted(path for path, _ in rows)
    assert sum(count for _, count in rows) == 240


async def test_killed_anywhere_it_goes_on_where_it_was(
    connect: Connect, fresh_database: Database, tmp_path: Path
) -> None:
    admin = connect("admin")
    for days in (41, 42):
        make_day(admin, days)
        for tenant in (1, 2):
            fill(admin, tenant, midnight(days), 20_000)
    keep(admin, "month", 30, "archive", 1, 2)
    environment = job_environment(fresh_database, tmp_path)
    states = [
        "SELECT count(*) > 0 FROM retired_partitions",
        "SELECT count(*) > 0 FROM partition_archives",
        "SELECT count(*) > 0 FROM retired_partitions WHERE dropped_at IS NOT NULL",
    ]
    for reached in states:
        async with killed_at_the_end(environment):
            await eventually(lambda: fetch(admin, reached)[0])  # noqa: B023 - called at once.
        await eventually(lambda: not sessions(admin))
    finished = await asyncio.to_thread(run_job, environment, "run", "--json")
    assert finished.returncode == 0, finished.stderr
    assert {o["result"] for o in json.loads(finished.stdout)["outcomes"]} <= {"done"}
    assert counts(admin) == {}
    archives = admin.execute("SELECT path, row_count, checksum FROM partition_archives").fetchall()
    assert sum(count for _, count, _ in archives) == 80_000
    for path, _, checksum in archives:
        assert checksum_of(tmp_path / path).text() == checksum
    assert files(tmp_path) == sorted(a[0] for a in archives)
    assert admin.execute(
        "SELECT count(*) FROM pg_class"
        " WHERE relnamespace = 'retired'::regnamespace AND relkind = 'r'"
    ).fetchone() == (0,)


@asynccontextmanager
async def killed_at_the_end(environment: dict[str, str]) -> AsyncIterator[None]:
    """A job, until the block ends and it is killed."""
    job = await asyncio.create_subprocess_exec(
        *JOB, "run", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            job.kill()
        await job.wait()


def run_job(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*JOB, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def sessions(admin: Admin) -> int:
    """Of the role atlas_maintenance: a killed job's may go on for a moment."""
    (count,) = fetch(
        admin,
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE usename = 'atlas_maintenance' AND datname = current_database()",
    )
    return int(count)


def job_environment(database: Database, directory: Path | None) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ATLAS_", "PG"))}
    job = {"ATLAS_MAINTENANCE__RETENTION__DSN": database.dsn("atlas_maintenance")}
    if directory is not None:
        job["ATLAS_MAINTENANCE__ARCHIVE_DIRECTORY"] = str(directory)
    return {**inherited, **job}


def test_the_job_tells_what_it_would_do(connect: Connect, fresh_database: Database) -> None:
    admin = connect("admin")
    name = make_day(admin, 40)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40), 5)
    keep(admin, "month", 30, "drop", 1, 2)
    environment = job_environment(fresh_database, None)

    planned = run_job(environment, "plan", "--json")
    assert planned.returncode == 1, planned.stderr
    (step,) = json.loads(planned.stdout)["steps"]
    assert (step["step"], step["partition_name"]) == ("retire", name)
    assert counts(admin) == {1: 5, 2: 5}
    assert run_job(environment, "run").returncode == 0
    after = run_job(environment, "plan")
    assert (after.returncode, after.stdout) == (0, "nothing is due\n")
    del environment["ATLAS_MAINTENANCE__RETENTION__DSN"]
    unset = run_job(environment, "plan")
    assert (unset.returncode, "RETENTION__DSN is not set" in unset.stderr) == (2, True)


def test_the_database_itself_refuses_what_is_not_due(connect: Connect) -> None:
    admin, job = connect("admin"), connect("atlas_maintenance")
    name = make_day(admin, 40)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40), 5)
    keep(admin, "month", 50, "drop", 1)
    for statement in (
        "SELECT retire_partition(%s)",
        "SELECT expire_rows(%s, 'month')",
        "SELECT expire_rows(%s, 'standard')",
        "SELECT drop_retired(%s)",
        "SELECT record_archive(%s, 'month', '{1}', 'x', 5, 1, 'x')",
    ):
        with pytest.raises(psycopg.Error) as refused:
            job.execute(statement, [name])
        assert refused.value.sqlstate == "AT004", statement
    for statement in (
        f"SELECT detach_partition('{name}')",
        "SELECT drop_retired_table('x')",
        "DELETE FROM entity_values_ts",
        "SET ROLE atlas_keeper",
        f"DROP TABLE {name}",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            job.execute(statement)
    assert counts(admin) == {1: 5, 2: 5}


@pytest.mark.parametrize("role", ["atlas_ingest", "atlas_query", "atlas_monitor"])
def test_only_maintenance_retires(connect: Connect, role: str) -> None:
    for statement in ("SELECT retire_partition('x')", "SELECT drop_retired('x')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connect(role).execute(statement)


def test_the_ledger_loses_its_old_days(connect: Connect) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    old = f"write_requests_{midnight(5):%Y%m%d}"
    bounds = [f"{midnight(5):%Y-%m-%d}", f"{midnight(4):%Y-%m-%d}"]
    admin.execute("SELECT make_partition('write_requests', %s, %s, %s)", [old, *bounds])
    assert fetch(ingest, "SELECT drop_expired_ledger()") == (old,)
    assert fetch(ingest, "SELECT drop_expired_ledger()") == (None,)


def test_every_query_prepares_as_maintenance(connect: Connect) -> None:
    job = connect("atlas_maintenance")
    queries = load_queries("atlas_ingest.maintenance")
    assert "retention_plan" in queries
    for query in queries.values():
        numbers: dict[str, int] = {}

        def number(match: re.Match[str]) -> str:
            return f"${numbers.setdefault(match[1], len(numbers) + 1)}"  # noqa: B023

        statement = re.sub(r"%\((\w+)\)s", number, query.decode())
        job.execute(f"PREPARE checked AS {statement}".encode())
        job.execute("DEALLOCATE checked")


def test_the_job_tells_which_archives_are_not_whole(
    connect: Connect, fresh_database: Database, tmp_path: Path
) -> None:
    admin = connect("admin")
    for days_ago in (40, 41, 42):
        make_day(admin, days_ago)
        for tenant in (1, 2):
            fill(admin, tenant, midnight(days_ago), 50)
    keep(admin, "month", 30, "archive", 1, 2)
    environment = job_environment(fresh_database, tmp_path)
    assert run_job(environment, "run").returncode == 0
    said = run_job(environment, "verify")
    assert (said.returncode, said.stdout.count(": whole")) == (0, 3), said.stdout + said.stderr
    gone, other, cut = (tmp_path / name for name in files(tmp_path))
    whole = other.read_bytes()
    other.write_bytes(gone.read_bytes())  # Another day's, which can be read.
    cut.write_bytes(whole[: len(whole) // 2])
    gone.unlink()
    said = run_job(environment, "verify")
    assert said.returncode == 1
    assert [line.split(": ")[1][:10] for line in sorted(said.stdout.splitlines())] == [
        f"is not in {gone.parent}"[:10],
        "has 100 ro",
        "cannot be ",
    ]
    assert run_job(job_environment(fresh_database, None), "verify").returncode == 2
