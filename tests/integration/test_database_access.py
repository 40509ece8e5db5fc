"""Reads and points are counted per attribute, for all tenants at once, by one who sees no value."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import errors
from pydantic import SecretStr

from atlas_common.config import DatabaseConfig
from atlas_common.db import Database as Pool
from atlas_devstack.database import Database, another
from atlas_query.access.flusher import AccessFlusher
from atlas_query.access.sampler import AccessSampler

from .conftest import Connect, connector, make_two_tenants
from .lane_writer import LaneWriter, RawPoint

NOW = datetime.now(UTC)
PRESSURE, STATE, SERIAL = 1, 2, 3
Counts = dict[tuple[int, int], tuple[int, ...]]


@pytest.fixture(scope="module")
def own(database: Database) -> Iterator[Database]:
    """A database of this module, with two tenants."""
    with another(database) as own, ExitStack() as cleanup:
        make_two_tenants(connector(own, cleanup)("admin"))
        yield own


@pytest.fixture
def connect(own: Database) -> Iterator[Connect]:
    with ExitStack() as cleanup:
        yield connector(own, cleanup)


@pytest.fixture
def admin(connect: Connect) -> "psycopg.Connection[Any]":
    """All rights, over counts that nobody has made yet."""
    admin = connect("admin")
    admin.execute("TRUNCATE attribute_access, access_hours, attribute_promotion")
    admin.execute("UPDATE promotion_runner SET leased_until = '-infinity', measured_at='-infinity'")
    return admin


def record(
    query: "psycopg.Connection[Any]", *counts: tuple[int, str, int, int], times: int = 1
) -> None:
    """(tenant, name, reads, filters), as query tells it."""
    columns = [list(column) for column in zip(*counts, strict=True)] or [[], [], [], []]
    for _ in range(times):
        query.execute(
            "SELECT record_attribute_access(%s::int[], %s::text[], %s::bigint[], %s::bigint[])",
            columns,
        )


def counted(admin: "psycopg.Connection[Any]") -> Counts:
    """(tenant, attribute) -> reads, of them while hot, filters, of them refused."""
    found = admin.execute(
        "SELECT tenant_id, attribute_id, read_count, hot_count, filter_count, refused_count"
        " FROM attribute_access"
    ).fetchall()
    return {(row[0], row[1]): row[2:] for row in found}


def test_names_become_attributes_of_their_tenants_and_processes_add_up(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    first, second = connect("atlas_query"), connect("atlas_query")
    told = ((1, "pressure", 8, 0), (1, "serial", 16, 0), (1, "", 40, 0), (2, "pressure", 24, 0))
    record(first, *told, (1, "pressure", 8, 0), (1, "no such", 8, 0))
    record(second, *told, (1, "serial", 0, 8), (1, "state", 0, 8))
    assert counted(admin) == {
        (1, PRESSURE): (24, 24, 0, 0),
        (1, SERIAL): (32, 0, 8, 8),
        (1, STATE): (0, 0, 8, 0),
        (1, 0): (80, 80, 0, 0),
        (2, PRESSURE): (48, 48, 0, 0),
    }


def test_a_filter_over_what_is_indexed_is_not_refused(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    with admin.transaction(force_rollback=True):
        admin.execute(
            "INSERT INTO attribute_indexes (tenant_id, attribute_id, data_type, state, created_at,"
            " updated_at) VALUES (1, 3, 'text', 'ready', now(), now()),"
            " (2, 3, 'text', 'building', now(), now())"
        )
        admin.execute("SET LOCAL ROLE atlas_query")
        record(admin, (1, "serial", 0, 8), (2, "serial", 0, 8))
        admin.execute("RESET ROLE")
        assert counted(admin) == {(1, SERIAL): (0, 0, 8, 0), (2, SERIAL): (0, 0, 8, 8)}


def test_an_empty_flush_says_that_reads_were_counted(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    record(connect("atlas_query"), times=2)
    hours = admin.execute("SELECT hour, flush_count FROM access_hours").fetchall()
    assert [flushes for _, flushes in hours] == [2]
    assert datetime.now(UTC) - hours[0][0] < timedelta(hours=2)
    assert counted(admin) == {}


def test_old_counts_are_taken_away_by_those_that_come(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    for days in (10, 17, 30):
        old = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=days)
        admin.execute("INSERT INTO attribute_access VALUES (1, 1, %s, 5, 0)", [old])
        admin.execute("INSERT INTO access_hours VALUES (%s, 1)", [old])
    record(connect("atlas_query"), (2, "state", 1, 0))
    left = admin.execute("SELECT read_count FROM attribute_access ORDER BY hour").fetchall()
    assert left == [(5,), (1,)]
    assert admin.execute("SELECT count(*) FROM access_hours").fetchone() == (2,)


def test_processes_take_turns_and_who_waits_for_long_gives_up(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    """So two that add the same in another order never wait in a circle."""
    first, second = connect("atlas_query"), connect("atlas_query")
    record(first)  # The hour has begun.
    first.execute("BEGIN")
    record(first, (1, "pressure", 1, 0))
    with pytest.raises(errors.LockNotAvailable):
        record(second, (2, "serial", 1, 0))
    first.execute("COMMIT")
    record(second, (2, "serial", 1, 0))
    assert set(counted(admin)) == {(1, PRESSURE), (2, SERIAL)}


def test_nothing_is_lost_where_many_add_at_once(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    told = [(tenant, name, 1, 0) for tenant in (1, 2) for name in ("pressure", "state", "serial")]
    orders = [told, told[::-1], told[3:] + told[:3]]
    connections = [connect("atlas_query") for _ in orders]
    with ThreadPoolExecutor(len(orders)) as threads:
        work = [
            threads.submit(record, connection, *order, times=30)
            for connection, order in zip(connections, orders, strict=True)
        ]
        for one in work:
            one.result(30)
    assert {numbers[0] for numbers in counted(admin).values()} == {90}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO attribute_access (tenant_id, attribute_id, hour) VALUES (1, 1, now())",
        "UPDATE attribute_access SET read_count = 0",
        "INSERT INTO access_hours VALUES (now(), 1)",
        "SELECT * FROM promotion_decisions",
        "INSERT INTO attribute_promotion (tenant_id, attribute_id, pin) VALUES (1, 1, 'hot')",
        "SELECT measure_attribute_writes(1, 1, 0)",
        "SELECT begin_promotion_evaluation('mine', 60, 0)",
        "SET ROLE atlas_meter",
    ],
)
def test_query_may_add_counts_and_nothing_else(connect: Connect, statement: str) -> None:
    query = connect("atlas_query")
    query.execute("BEGIN; SET LOCAL atlas.tenant_id = 1")
    with pytest.raises(errors.InsufficientPrivilege):
        query.execute(statement)
    query.execute("ROLLBACK")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE promotion_decisions SET why = 'another'",
        "DELETE FROM promotion_decisions",
        "UPDATE attribute_access SET read_count = 0",
        "UPDATE promotion_runner SET owner = 'mine'",
        "SELECT record_attribute_access('{1}', '{pressure}', '{1}', '{0}')",
    ],
)
def test_the_audit_log_can_only_be_added_to(connect: Connect, statement: str) -> None:
    hotcache = connect("atlas_hotcache")
    hotcache.execute("BEGIN; SET LOCAL atlas.tenant_id = 1")
    with pytest.raises(errors.InsufficientPrivilege):
        hotcache.execute(statement)
    hotcache.execute("ROLLBACK")


def test_hotcache_sees_and_pins_its_transactions_tenant_only(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    record(connect("atlas_query"), (1, "pressure", 1, 0), (2, "pressure", 2, 0))
    hotcache = connect("atlas_hotcache")
    insert = "INSERT INTO attribute_promotion (tenant_id, attribute_id, pin) VALUES (%s, 1, 'hot')"
    with hotcache.transaction():
        hotcache.execute("SET LOCAL atlas.tenant_id = 2")
        hotcache.execute(insert, [2])
        assert hotcache.execute("SELECT read_count FROM attribute_access").fetchall() == [(2,)]
    with hotcache.transaction():
        hotcache.execute("SET LOCAL atlas.tenant_id = 1")
        assert hotcache.execute("SELECT read_count FROM attribute_access").fetchall() == [(1,)]
        assert hotcache.execute("SELECT * FROM attribute_promotion").fetchall() == []
        with pytest.raises(errors.InsufficientPrivilege), hotcache.transaction():
            hotcache.execute(insert, [2])
    assert hotcache.execute("SELECT * FROM attribute_access").fetchall() == []


async def test_what_was_counted_last_is_told_at_the_end_however_many_names_it_has(
    own: Database, admin: "psycopg.Connection[Any]"
) -> None:
    admin.execute(
        "INSERT INTO attributes (tenant_id, attribute_id, name, data_type)"
        " SELECT 2, 1000 + n, 'a' || n, 'double' FROM generate_series(1, 4500) AS n"
    )
    sampler = AccessSampler(1, 10_000, Random(1).random)
    sampler.read(2, tuple(f"a{n}" for n in range(1, 4501)), 3)
    config = DatabaseConfig(dsn=SecretStr(own.dsn("atlas_query")))
    async with Pool.open(config, name="primary") as primary:
        flushing = asyncio.create_task(AccessFlusher(sampler, lambda: primary, 3600.0).run())
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.wait([flushing])
    found = counted(admin)
    admin.execute("DELETE FROM attributes WHERE attribute_id > 1000")
    assert found == {(2, 1000 + n): (3, 0, 0, 0) for n in range(1, 4501)}


def points_per_hour(admin: "psycopg.Connection[Any]") -> dict[tuple[int, int], float]:
    found = admin.execute(
        "SELECT tenant_id, attribute_id, points_per_hour FROM attribute_promotion"
    ).fetchall()
    return {(row[0], row[1]): row[2] for row in found}


def measure(connect: Connect, *, hours: int = 4, pages: int = 10_000, older: float = 0.0) -> bool:
    row = (
        connect("atlas_hotcache")
        .execute("SELECT measure_attribute_writes(%s, %s, %s)", [hours, pages, older])
        .fetchone()
    )
    assert row is not None
    return bool(row[0])


def test_points_are_estimated_from_a_bounded_part_of_what_is_stored(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    lane = LaneWriter(connect("atlas_ingest"))
    lane.write([RawPoint(1, 1, PRESSURE, NOW, 1.0), RawPoint(2, 1, SERIAL, NOW, "x", "value_text")])
    admin.execute(  # A day's worth of another attribute, so that there is much to choose from.
        "INSERT INTO entity_values_ts (tenant_id, entity_id, attribute_id, event_time, ingested_at,"
        " value_double) SELECT 1, n % 3 + 1, 1, now(), clock_timestamp() - interval '1 minute' * (n"
        " % 120), n FROM generate_series(1, 40000) AS n"
    )
    assert measure(connect)
    found = points_per_hour(admin)
    # Within four hours: 40,001 points since two hours ago.
    assert found[1, PRESSURE] == pytest.approx(20_000, rel=0.05)
    assert found[2, PRESSURE] == found[1, STATE] == 0
    assert (2, SERIAL) not in found, "cold, and nobody reads it"

    record(connect("atlas_query"), (2, "serial", 1, 0))
    assert not measure(connect, older=60.0), "measured a moment ago"
    assert measure(connect)
    assert points_per_hour(admin)[2, SERIAL] == pytest.approx(0.5, rel=0.1)

    admin.execute("VACUUM entity_values_ts")
    assert measure(connect, pages=60)  # Of about 400.
    assert points_per_hour(admin)[1, PRESSURE] == pytest.approx(20_000, rel=0.6)


def test_one_process_evaluates_at_a_time_and_not_too_often(
    connect: Connect, admin: "psycopg.Connection[Any]"
) -> None:
    hotcache = connect("atlas_hotcache")

    def begin(owner: str, interval: float) -> bool:
        row = hotcache.execute(
            "SELECT begin_promotion_evaluation(%s, 60, %s)", [owner, interval]
        ).fetchone()
        assert row is not None
        return bool(row[0])

    old = (
        "INSERT INTO promotion_decisions (tenant_id, decided_at, actor, action, attribute_id,"
        " dry_run, outcome, why) SELECT 2, now() - make_interval(days => n), 'policy', 'promote',"
        " 1, true, 'would', n::text FROM unnest('{89, 91}'::int[]) AS n"
    )
    admin.execute(old)
    assert begin("first", 0)
    assert admin.execute("SELECT why FROM promotion_decisions").fetchall() == [("89",)]
    assert not begin("second", 0), "the first is at it"
    with pytest.raises(psycopg.Error) as refused:
        hotcache.execute("SELECT keep_promotion_lease('second', 60)")
    assert refused.value.sqlstate == "AT003"
    hotcache.execute("SELECT keep_promotion_lease('first', 0)")
    assert not begin("second", 3600), "there was one within the hour"
    assert begin("second", 0)
