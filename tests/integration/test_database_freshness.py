"""Positions, heartbeats and seals tell the truth."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from .conftest import Connect
from .lane_writer import LaneWriter, RawPoint

T0 = datetime(2026, 3, 1, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("two_tenants")


def state(connect: Connect, epoch: int, sequence: int, lane: int = 0) -> str:
    row = (
        connect("atlas_query")
        .execute("SELECT position_state(%s::smallint, %s, %s)", [lane, epoch, sequence])
        .fetchone()
    )
    assert row is not None
    return str(row[0])


def points() -> list[RawPoint]:
    return [RawPoint(tenant_id, 1, 1, T0, 1.0) for tenant_id in (1, 2)]


def test_a_position_is_pending_until_its_flush_commits(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    assert state(connect, writer.epoch, 1) == "pending"
    writer.write(points())
    assert state(connect, writer.epoch, 1) == "reached"
    assert state(connect, writer.epoch, 2) == "pending"
    assert state(connect, 0, 0, lane=7) == "pending"  # A lane this server has never heard of.


def test_a_new_claim_tells_reached_positions_from_lost_ones(connect: Connect) -> None:
    connection = connect("atlas_ingest")
    old = LaneWriter(connection)
    old.write(points())
    connection.execute("SELECT pg_advisory_unlock_all()")
    new = LaneWriter(connect("atlas_ingest"))
    assert state(connect, old.epoch, 1) == "reached"
    # As after a failover that lost the tail: the old owner had acknowledged sequence 2.
    assert state(connect, old.epoch, 2) == "lost"
    new.write(points())
    # Sequence 2 exists now, but it is not the one the old owner spoke of.
    assert state(connect, old.epoch, 2) == "lost"
    assert state(connect, new.epoch, 2) == "reached"


def guard(connection: psycopg.Connection[Any], *arguments: object) -> tuple[Any, ...]:
    row = connection.execute(
        "SELECT * FROM require_fresh(%s, %s::smallint[], %s::bigint[], %s::bigint[])", arguments
    ).fetchone()
    assert row is not None
    return tuple(row)


def test_the_guard_raises_and_never_filters(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    writer.write(points())
    query = connect("atlas_query")
    beat_id, beaten_at = guard(query, None, [0], [writer.epoch], [1])
    with pytest.raises(psycopg.Error, match="is not here yet") as behind:
        guard(query, None, [0], [writer.epoch], [2])
    with pytest.raises(psycopg.Error, match="is lost") as lost:
        guard(query, None, [0], [writer.epoch - 1], [1])
    with pytest.raises(psycopg.Error, match="newest heartbeat") as stale:
        guard(query, beaten_at + timedelta(microseconds=1), [], [], [])
    assert [raised.value.sqlstate for raised in (behind, lost, stale)] == [
        "AT001",
        "AT002",
        "AT001",
    ]
    assert guard(query, beaten_at, [], [], [])[0] == beat_id


def test_the_heart_beats_forward_only(connect: Connect) -> None:
    ingest, reconciler = connect("atlas_ingest"), connect("atlas_reconciler")
    before = guard(ingest, None, [], [], [])
    assert reconciler.execute("SELECT beat_heart('0s')").fetchone() == (True,)
    assert ingest.execute("SELECT beat_heart('1h')").fetchone() == (False,)
    after = guard(ingest, None, [], [], [])
    assert after[0] == (1 << 32) > before[0]  # The first beat of the first timeline.
    assert ingest.execute("SELECT beat_heart('0s')").fetchone() == (True,)
    assert guard(ingest, None, [], [], [])[0] == after[0] + 1
    assert after[1] > before[1]
    future = after[1] + timedelta(days=1)
    connect("admin").execute("UPDATE replication_heartbeat SET beaten_at = %s", [future])
    # The clock has stepped back below the last beat: no beat is better than one that lies.
    assert ingest.execute("SELECT beat_heart('0s')").fetchone() == (False,)


def test_a_seal_waits_for_the_flushes_before_it(connect: Connect) -> None:
    connection = connect("atlas_ingest")
    writer = LaneWriter(connection)
    writer.stage(points())
    reconciler = connect("atlas_reconciler")
    with connection.transaction():
        flushed = writer.flush()
        seal = reconciler.execute("SELECT announce_seal(clock_timestamp())").fetchone()
        in_flight = reconciler.execute("SELECT flushes_in_flight()").fetchone()
        assert seal is not None
        assert in_flight is not None
        assert flushed.flushed_at < seal[0]
        assert len(in_flight[0]) == 1, "the flush under way holds the seal up"
    assert reconciler.execute("SELECT flushes_in_flight()").fetchone() == ([],)
    assert writer.write(points()).flushed_at >= seal[0]


def test_no_flush_stores_before_the_seal_even_if_the_clock_steps_back(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    ahead = datetime.now(UTC) + timedelta(hours=1)
    connect("admin").execute("UPDATE flush_control SET sealed_before = %s", [ahead])
    assert writer.write(points()).flushed_at == ahead


def test_the_future_cannot_be_sealed(connect: Connect) -> None:
    row = connect("atlas_reconciler").execute("SELECT announce_seal('infinity'), clock_timestamp()")
    sealed = row.fetchone()
    assert sealed is not None
    assert sealed[0] <= sealed[1]
