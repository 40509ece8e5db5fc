"""stage_flush moves a half once: ledger, rows, projection and position together."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import errors

from .conftest import Connect
from .lane_writer import LaneWriter, RawPoint

T0 = datetime(2026, 3, 1, tzinfo=UTC)
LATER, EARLIER = T0 + timedelta(seconds=1), T0 - timedelta(seconds=1)
PRESSURE, STATE, SERIAL = 1, 2, 3

pytestmark = pytest.mark.usefixtures("two_tenants")


def point(tenant_id: int, event_time: datetime, value: float, entity_id: int = 1) -> RawPoint:
    return RawPoint(tenant_id, entity_id, PRESSURE, event_time, value)


def projection(connect: Connect, tenant_id: int, entity_id: int = 1) -> tuple[Any, ...]:
    row = (
        connect("admin")
        .execute(
            "SELECT attrs, attr_times, version FROM entity_jsonb"
            " WHERE (tenant_id, entity_id) = (%s, %s)",
            [tenant_id, entity_id],
        )
        .fetchone()
    )
    assert row is not None
    return tuple(row)


def test_rows_projection_and_position_commit_together(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    text = RawPoint(1, 1, STATE, T0, "running", column="value_text")
    cold = RawPoint(1, 1, SERIAL, T0, "AB1", column="value_text")
    flushed = writer.write([point(1, T0, 1.5), text, cold, point(2, T0, 2.5)])
    assert (flushed.point_count, flushed.sequence) == (4, 1)
    assert projection(connect, 1)[0] == {"1": 1.5, "2": "running"}  # Cold ones are not projected.
    assert projection(connect, 2)[0] == {"1": 2.5}
    assert sorted(change[:2] for change in flushed.changed) == [(1, 1), (2, 1)]
    admin = connect("admin")
    assert admin.execute("SELECT count(*) FROM entity_values_ts").fetchone() == (4,)
    assert admin.execute("SELECT sequence FROM flush_positions").fetchone() == (1,)
    assert admin.execute("SELECT count(*) FROM staging.lane_0_a_points").fetchone() == (0,)


def test_a_late_point_never_overwrites_a_newer_one(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    writer.write([point(1, T0, 1.0), point(2, T0, 9.0)])
    version = projection(connect, 1)[2]
    assert writer.write([point(1, EARLIER, 2.0)]).changed == []
    assert projection(connect, 1)[0::2] == ({"1": 1.0}, version)
    (change,) = writer.write([point(1, LATER, 3.0)]).changed
    assert change == (1, 1, projection(connect, 1)[2])
    assert projection(connect, 1)[0] == {"1": 3.0}
    assert projection(connect, 1)[2] > version
    assert projection(connect, 2)[0] == {"1": 9.0}


def test_of_equal_event_times_the_last_to_arrive_wins(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    writer.write([point(1, T0, 1.0), point(1, T0, 2.0)])
    assert projection(connect, 1)[0] == {"1": 2.0}
    writer.write([point(1, T0, 3.0)])
    assert projection(connect, 1)[0] == {"1": 3.0}


def test_one_flush_decides_attribute_by_attribute(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    writer.write([point(1, T0, 1.0), RawPoint(1, 1, STATE, T0, "a", column="value_text")])
    writer.write([point(1, EARLIER, 2.0), RawPoint(1, 1, STATE, LATER, "b", column="value_text")])
    assert projection(connect, 1)[0] == {"1": 1.0, "2": "b"}


def test_values_json_cannot_hold_are_projected_by_name(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    writer.write([point(1, T0, float("nan")), point(2, T0, float("-inf"))])
    assert projection(connect, 1)[0] == {"1": "NaN"}
    assert projection(connect, 2)[0] == {"1": "-Infinity"}


def test_a_repeated_request_is_stored_once(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    writer.stage_request(1, "r1", answer=b"first")
    first = writer.write([point(1, T0, 1.0)])
    writer.stage_request(1, "r1", body_hash=b"other", answer=b"second")
    again = writer.write([point(1, T0, 5.0)])
    assert (first.point_count, again.point_count) == (1, 0)
    (duplicate,) = again.duplicates
    assert duplicate["sequence"] == first.sequence
    assert bytes.fromhex(duplicate["answer"]) == b"first"
    assert bytes.fromhex(duplicate["body_hash"]) == b"body"
    assert projection(connect, 1)[0] == {"1": 1.0}


def test_request_ids_are_each_tenants_own(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    writer.stage_request(1, "r1", batch_no=1)
    writer.stage_request(2, "r1", batch_no=2)
    writer.stage([point(1, T0, 1.0)])
    writer.stage([RawPoint(2, 1, PRESSURE, T0, 2.0, batch_no=2)])
    flushed = writer.flush()
    assert (flushed.point_count, flushed.duplicates) == (2, [])


def test_two_batches_of_one_request_in_one_flush_count_once(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    for batch_no in (1, 2):
        writer.stage_request(1, "r1", batch_no=batch_no)
        writer.stage([RawPoint(1, 1, PRESSURE, T0, float(batch_no), batch_no=batch_no)])
    flushed = writer.flush()
    assert flushed.point_count == 1
    assert [duplicate["batch_no"] for duplicate in flushed.duplicates] == [2]


def test_a_request_is_remembered_across_ledger_days(connect: Connect) -> None:
    admin = connect("admin")
    admin.execute("UPDATE flush_control SET ledger_bucket = ledger_bucket - 1")
    writer = LaneWriter(connect("atlas_ingest"))
    writer.stage_request(1, "r1")
    writer.write([point(1, T0, 1.0)])
    done = connect("atlas_ingest").execute("SELECT maintain_partitions()").fetchone()
    assert "ledger bucket is" in str(done)
    writer.stage_request(1, "r1")
    assert writer.write([point(1, T0, 1.0)]).point_count == 0


def test_an_owner_that_lost_the_lane_changes_nothing(connect: Connect) -> None:
    connection = connect("atlas_ingest")
    old = LaneWriter(connection)
    old.write([point(1, T0, 1.0)])
    connection.execute("SELECT pg_advisory_unlock(lane_lock_class(), 0)")
    new = LaneWriter(connect("atlas_ingest"))
    assert new.epoch > old.epoch
    assert new.sequence == 1
    old.stage([point(1, LATER, 2.0)])
    with pytest.raises(
        errors.lookup("AT003") if False else Exception, match="lane 0 is not at"
    ) as lost:
        old.flush()
    assert getattr(lost.value, "sqlstate", None) == "AT003"
    assert new.flush().point_count == 1  # What the old owner left behind is the new one's to flush.


def test_maintenance_may_run_any_number_of_times(connect: Connect) -> None:
    ingest = connect("atlas_ingest")
    ingest.execute("SELECT maintain_partitions(5)")
    assert ingest.execute("SELECT maintain_partitions(5)").fetchone() == ([],)
    with pytest.raises(errors.InvalidParameterValue, match="want 1 to 31"):
        ingest.execute("SELECT maintain_partitions(0)")


def test_rows_lie_in_the_partition_of_their_ingestion(connect: Connect) -> None:
    writer = LaneWriter(connect("atlas_ingest"))
    flushed = writer.write([point(1, T0, 1.0), point(2, T0, 1.0)])
    tables = connect("admin").execute(
        "SELECT DISTINCT tableoid::regclass::text FROM entity_values_ts"
    )
    assert tables.fetchall() == [(f"entity_values_ts_{flushed.flushed_at.astimezone(UTC):%Y%m%d}",)]
