"""Rows without a partition are stored, seen, and moved to where they belong."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from atlas_common.background import Supervisor
from atlas_common.config import DatabaseConfig
from atlas_common.db import Database as Pool
from atlas_devstack.database import Database
from atlas_ingest.config import MaintenanceConfig
from atlas_ingest.maintenance import Partitions

from .conftest import Connect
from .lane_writer import LaneWriter, RawPoint
from .partition_rig import Admin, counts, fetch, fill, make_span, midnight, partitions, writing
from .waiting import eventually

T0 = datetime(2026, 3, 1, tzinfo=UTC)
PRESSURE = 1

pytestmark = pytest.mark.usefixtures("two_tenants")


def points(count: int = 1) -> list[RawPoint]:
    return [RawPoint(t, 1, PRESSURE, T0, float(n)) for n in range(count) for t in (1, 2)]


def drop_partitions(admin: Admin) -> None:
    """As if they had never been made."""
    for name in partitions(admin):
        admin.execute(f"DROP TABLE {name}")


def in_default(connection: Admin) -> int:
    return int(fetch(connection, "SELECT row_count FROM default_rows()")[0])


async def move_all(connection: Admin, rows_max: int = 200_000) -> int:
    """Move until nothing is left; how many were moved."""
    moved = 0

    def step() -> bool:
        nonlocal moved
        moved += fetch(connection, "SELECT moved FROM move_default_rows(%s)", rows_max)[0]
        return in_default(connection) == 0

    await eventually(step)
    return moved


async def test_rows_without_a_partition_are_stored_and_then_moved(connect: Connect) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    drop_partitions(admin)
    writer = LaneWriter(ingest)
    first = writer.write(points(3))
    assert first.point_count == 6
    assert in_default(ingest) == 6
    (done,) = fetch(ingest, "SELECT maintain_partitions()")
    assert any("its rows are in the default partition" in word for word in done)
    assert any(word.startswith("made entity_values_ts_") for word in done), "the rest of the day"
    assert await move_all(ingest) == 6
    writer.write(points())
    assert in_default(ingest) == 0, "what is written now has a partition"
    assert counts(admin) == {1: 4, 2: 4}
    uncovered = admin.execute(
        "SELECT * FROM uncovered_spans(%s, %s)", [midnight(), midnight(-1)]
    ).fetchall()
    assert [span for span in uncovered if span[1] > datetime.now(UTC)] == []


async def test_writers_go_on_while_rows_are_moved(
    connect: Connect, fresh_database: Database
) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    drop_partitions(admin)
    with writing(fresh_database) as stored:
        await eventually(lambda: in_default(ingest) > 20)
        ingest.execute("SELECT maintain_partitions()")
        await eventually(lambda: fetch(ingest, "SELECT moved FROM move_default_rows()")[0] > 0)
        moved_at = len(stored)
        await eventually(lambda: len(stored) > moved_at + 20)
    assert counts(admin) == {1: len(stored), 2: len(stored)}
    assert in_default(ingest) == 0


async def test_ingest_sees_them_tells_and_moves_them_by_itself(
    connect: Connect, fresh_database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = connect("admin")
    drop_partitions(admin)
    dsn = DatabaseConfig(dsn=SecretStr(fresh_database.dsn("atlas_ingest")))
    config = MaintenanceConfig(default_rows_interval_seconds=0.05)
    LaneWriter(connect("atlas_ingest")).write(points(3))
    async with Pool.open(dsn, name="test") as primary, Supervisor() as tasks:
        job = Partitions(primary, config)
        await job.look()
        assert job.health.default_rows == 6
        assert job.health.default_age_seconds > 0
        tasks.start("partitions", job.run)
        await eventually(lambda: job.health.default_rows == 0)
        await job.check()
    told = capsys.readouterr().out
    assert "rows have no partition" in told
    assert "the default partition is empty again" in told
    assert in_default(admin) == 0
    assert counts(admin) == {1: 3, 2: 3}


async def test_many_rows_move_in_bounded_steps_and_keep_their_order(connect: Connect) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    drop_partitions(admin)
    yesterday = midnight(1)
    for hour in range(4):
        for tenant in (1, 2):
            fill(admin, tenant, yesterday + timedelta(hours=hour), 100)
    # Two of one event time: the one that came later must stay behind the other.
    twice = "INSERT INTO entity_values_ts VALUES (2, 9, 9, %s, %s, %s)"
    for value in (7, 3):
        admin.execute(twice, [T0, yesterday + timedelta(hours=5), value])
    (before,) = fetch(admin, "SELECT sum(hashtextextended(v::text, 0)) FROM entity_values_ts AS v")
    steps = []
    while moved := fetch(ingest, "SELECT moved FROM move_default_rows(150)")[0]:
        steps.append(moved)
    assert sum(steps) == 802
    assert max(steps) <= 150
    after = fetch(admin, "SELECT sum(hashtextextended(v::text, 0)) FROM entity_values_ts AS v")
    assert after == (before,)
    order = admin.execute(
        "SELECT value_int FROM entity_values_ts WHERE attribute_id = 9 ORDER BY ctid"
    )
    assert order.fetchall() == [(7,), (3,)]
    assert in_default(ingest) == 0


async def test_rows_between_existing_partitions_find_their_gap(connect: Connect) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    noon = midnight(9) + timedelta(hours=12)
    make_span(admin, noon, noon + timedelta(hours=1))
    for tenant in (1, 2):
        fill(admin, tenant, noon - timedelta(hours=1), 5)
        fill(admin, tenant, noon + timedelta(hours=2), 5)
    assert await move_all(ingest) == 20
    assert [name for name in partitions(admin) if f"{noon:%Y%m%d}" in name] == [
        f"entity_values_ts_{noon:%Y%m%d}_{suffix}" for suffix in ("00", "12", "13")
    ]


async def test_the_change_stream_tells_a_move_as_rows_that_went_and_came(connect: Connect) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    for tenant in (1, 2):
        fill(admin, tenant, midnight(9), 5)
    slot = f"move_{fetch(admin, 'SELECT current_database()')[0]}"
    admin.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    try:
        assert await move_all(ingest) == 10
        changes = admin.execute(
            "SELECT chr(get_byte(data, 0)) FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'atlas_warehouse')",
            [slot],
        ).fetchall()
    finally:
        admin.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    kinds = [kind for (kind,) in changes if kind in "BIDC"]
    assert kinds == ["B", *"D" * 10, *"I" * 10, "C"], "one transaction, nothing lost in between"


def test_the_span_of_partitions_can_be_hours(connect: Connect) -> None:
    admin, ingest = connect("admin"), connect("atlas_ingest")
    admin.execute("UPDATE partition_policy SET span = '1 hour'")
    ingest.execute("SELECT maintain_partitions(5)")
    made = partitions(admin)
    # Days that had a partition keep it; the two days that are new are cut into hours.
    assert [name for name in made if name[-9:-8] != "_"] != []
    hours = [name for name in made if len(name) == len("entity_values_ts_20260301_00")]
    assert len(hours) == 48
    assert fetch(ingest, "SELECT maintain_partitions(5)") == ([],)
    flushed = LaneWriter(ingest).write(points())
    assert flushed.point_count == 2


def test_a_move_is_bounded(connect: Connect) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="want 1 to 5000000"):
        connect("atlas_ingest").execute("SELECT move_default_rows(0)")


def test_services_cannot_read_what_waits_there(connect: Connect) -> None:
    admin = connect("admin")
    fill(admin, 1, midnight(9), 1)
    fill(admin, 2, midnight(9), 1)
    seen: list[Any] = []
    for role in ("atlas_query", "atlas_ingest", "atlas_maintenance", "atlas_monitor"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            seen += connect(role).execute("SELECT * FROM entity_values_ts_default").fetchall()
    assert seen == []
