"""Partitions of days long past, with rows of two tenants in them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from atlas_devstack.database import Database

from .lane_writer import LaneWriter, RawPoint

Admin = psycopg.Connection[Any]
DAY = timedelta(days=1)
T0 = datetime(2026, 3, 1, tzinfo=UTC)


def midnight(days_ago: int = 0) -> datetime:
    """The begin of a day, in UTC."""
    now = datetime.now(UTC)
    return now.replace(hour=0, minute=0, second=0, microsecond=0) - days_ago * DAY


def make_span(admin: Admin, lower: datetime, upper: datetime) -> str:
    """A partition of entity_values_ts; its name."""
    (name,) = fetch(admin, "SELECT partition_name(%s, %s)", lower, upper)
    fetch(
        admin,
        "SELECT make_partition('entity_values_ts', %s, %s, %s)",
        name,
        lower.isoformat(),
        upper.isoformat(),
    )
    return str(name)


def make_day(admin: Admin, days_ago: int) -> str:
    """The partition of a day; its name."""
    return make_span(admin, midnight(days_ago), midnight(days_ago - 1))


def fill(admin: Admin, tenant_id: int, at: datetime, count: int) -> None:
    """Store points as flushes of that moment would have; every type of value occurs."""
    admin.execute(
        "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time, ingested_at,"
        " quality, value_bool, value_int, value_double, value_decimal, value_text, value_time,"
        " value_json)"
        " SELECT %(tenant)s, n %% 7 + 1, n %% 3 + 1, %(at)s - n * interval '1 second',"
        " %(at)s + n * interval '1 microsecond', n %% 4,"
        " CASE n %% 7 WHEN 0 THEN n %% 2 = 0 END,"
        " CASE n %% 7 WHEN 1 THEN 9223372036854775807 - n END,"
        " CASE n %% 7 WHEN 2 THEN CASE WHEN n = 2 THEN 'NaN' WHEN n = 9 THEN '-Infinity'"
        "   ELSE sqrt(n::double precision) END END,"
        " CASE n %% 7 WHEN 3 THEN (n || '.000000000000000001')::numeric END,"
        " CASE n %% 7 WHEN 4 THEN CASE WHEN n = 4 THEN '' ELSE"
        "   E'a \"quoted\", line\\nof tenant ' || %(tenant)s || ' \\\\N NULL ü' END END,"
        " CASE n %% 7 WHEN 5 THEN '0044-03-15 BC'::timestamptz + n * interval '1 microsecond' END,"
        " CASE n %% 7 WHEN 6 THEN jsonb_build_object('n', n, 's', E'x\\ny') END"
        " FROM generate_series(1, %(count)s) AS n",
        {"tenant": tenant_id, "at": at, "count": count},
    )


def keep(
    admin: Admin, retention_class: str, days: float | None, action: str, *tenant_ids: int
) -> None:
    """Make a retention class, and put tenants into it."""
    admin.execute(
        "INSERT INTO retention_classes (retention_class, keep, action)"
        " VALUES (%s, %s * interval '1 day', %s)",
        [retention_class, days, action],
    )
    admin.execute(
        "UPDATE tenants SET retention_class = %s WHERE tenant_id = ANY (%s)",
        [retention_class, list(tenant_ids)],
    )


def partitions(admin: Admin) -> list[str]:
    """Names of the partitions of entity_values_ts, in order, without the default one."""
    return [
        name
        for (name,) in admin.execute(
            "SELECT name FROM partitions_of('entity_values_ts') WHERE NOT is_default"
            " ORDER BY lower_bound"
        )
    ]


def counts(admin: Admin) -> dict[int, int]:
    """Rows by tenant, wherever they lie."""
    rows = admin.execute(
        "SELECT tenant_id, count(*) FROM entity_values_ts GROUP BY tenant_id"
    ).fetchall()
    return dict(rows)


def fetch(connection: Admin, query: str, *values: Any) -> tuple[Any, ...]:
    """The first row."""
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return tuple(row)


@contextmanager
def writing(database: Database, lane: int = 1) -> Iterator[list[float]]:
    """A writer beside the test, on and on; grows by the seconds each flush took."""
    seconds: list[float] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with psycopg.connect(database.dsn("atlas_ingest"), autocommit=True) as connection:
                writer = LaneWriter(connection, lane)
                while not stop.is_set():
                    started = datetime.now(UTC)
                    writer.write([RawPoint(t, 1, 1, T0, 1.0) for t in (1, 2)])
                    seconds.append((datetime.now(UTC) - started).total_seconds())
        except BaseException as failure:  # noqa: BLE001 - told to the test below.
            failures.append(failure)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield seconds
    finally:
        stop.set()
        thread.join()
    assert failures == []
