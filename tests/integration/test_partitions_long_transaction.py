"""A transaction that stays open for long stops neither writers nor, in the end, maintenance."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from atlas_common.config import DatabaseConfig
from atlas_devstack.database import Database
from atlas_ingest.config import MaintenanceConfig
from atlas_ingest.maintenance.retention import Result, Retention

from .conftest import Connect
from .partition_rig import Admin, counts, fetch, fill, keep, make_day, midnight, partitions, writing
from .waiting import eventually

pytestmark = pytest.mark.usefixtures("two_tenants")

# What the functions' own lock_timeouts allow, and a busy machine on top.
GIVES_UP_SECONDS = 10.0
WRITERS_WAIT_SECONDS = 3.0


@contextmanager
def open_transaction(connect: Connect) -> Iterator[Admin]:
    """One that has read all of the table and then forgot to end, as a person's psql does."""
    reader = connect("admin")
    with reader.transaction():
        reader.execute("SELECT count(*) FROM entity_values_ts")
        yield reader


async def during(stored: list[float], call: Callable[[], object]) -> float:
    """Make the call with writers under way; the longest flush while it ran."""
    await eventually(lambda: len(stored) > 3)
    first = len(stored)
    started = time.monotonic()
    call()
    assert time.monotonic() - started < GIVES_UP_SECONDS
    await eventually(lambda: len(stored) > first + 1)
    return max(stored[first:])


async def test_partitions_are_made_later_and_writers_do_not_notice(
    connect: Connect, fresh_database: Database
) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    before = partitions(admin)
    with writing(fresh_database) as stored:
        with open_transaction(connect):
            done: list[list[str]] = []
            longest = await during(
                stored, lambda: done.append(fetch(ingest, "SELECT maintain_partitions(6)")[0])
            )
            # The reader holds the default partition, which nobody who writes today needs.
            assert longest < WRITERS_WAIT_SECONDS
            assert any(word.startswith("postponed") for word in done[0])
            assert partitions(admin) == before
        ingest.execute("SELECT maintain_partitions(6)")
    assert len(partitions(admin)) == len(before) + 3
    assert counts(admin) == {1: len(stored), 2: len(stored)}


async def test_rows_without_a_partition_are_moved_later(
    connect: Connect, fresh_database: Database
) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    for tenant in (1, 2):
        fill(admin, tenant, midnight(9), 10)
    with writing(fresh_database) as stored:
        with open_transaction(connect):
            outcomes: list[tuple[object, ...]] = []
            query = "SELECT moved, outcome FROM move_default_rows()"
            longest = await during(stored, lambda: outcomes.append(fetch(ingest, query)))
            assert longest < WRITERS_WAIT_SECONDS
            assert outcomes[0][0] == 0
            assert "postponed" in str(outcomes[0][1])
        assert fetch(ingest, query)[0] == 20
    assert counts(admin) == {1: len(stored) + 10, 2: len(stored) + 10}


async def test_retention_waits_its_turn_without_a_queue_behind_it(
    connect: Connect, fresh_database: Database
) -> None:
    admin = connect("admin")
    name = make_day(admin, 40)
    for tenant in (1, 2):
        fill(admin, tenant, midnight(40), 10)
    keep(admin, "month", 30, "drop", 1, 2)
    dsn = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_maintenance")))
    job = Retention(dsn, MaintenanceConfig(archive_directory=Path("unused")))
    maintenance = connect("atlas_maintenance")
    retiring = "SELECT retire_partition(%s)"
    with writing(fresh_database) as stored:
        with open_transaction(connect) as reader:
            # Young yet: it may end any moment, so the lock is asked for, briefly.
            retire: list[tuple[object, ...]] = []
            longest = await during(
                stored,
                lambda: retire.append(fetch(maintenance, "SELECT retire_partition(%s)", name)),
            )
            assert longest < WRITERS_WAIT_SECONDS
            assert "locked" in str(retire[0][0]) or "holds it" in str(retire[0][0])

            # Old: it is named, and no lock is asked for.
            await eventually(
                lambda: (
                    f"process {reader.info.backend_pid} ("
                    in str(fetch(maintenance, retiring, name)[0])
                )
            )
            outcomes = await job.walk()
            assert outcomes is not None
            assert [outcome.result for outcome in outcomes] == [Result.POSTPONED]
            assert job.unfinished["postponed"] == 1
            assert name in partitions(admin)
        assert {o.result for o in await job.walk() or ()} == {Result.DONE}
    assert name not in partitions(admin)
    assert counts(admin) == {1: len(stored), 2: len(stored)}


@pytest.mark.parametrize("concurrently", ["", " CONCURRENTLY"])
def test_why_partitions_are_not_detached_concurrently(connect: Connect, concurrently: str) -> None:
    admin = connect("admin")
    name = make_day(admin, 40)
    statement = f"ALTER TABLE entity_values_ts DETACH PARTITION {name}{concurrently}"
    if not concurrently:
        admin.execute(statement)
        return
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="default partition"):
        admin.execute(statement)
