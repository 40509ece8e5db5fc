"""What a flush does with messages of topics: each is stored once, none is skipped, offsets tell."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from .conftest import Connect
from .lane_writer import Flushed, LaneWriter, RawPoint

TOPIC = "writes"
T0 = datetime(2026, 3, 1, tzinfo=UTC)


class Messages:
    """Stages messages of one topic into lanes; a message is one point whose value is its offset."""

    def __init__(self, connect: Connect) -> None:
        self.admin = connect("admin")
        self.lanes = [LaneWriter(connect("atlas_ingest"), lane) for lane in range(2)]
        self._number = 0

    def stage(
        self,
        offset: int,
        follows: int | None,
        *,
        tenant_id: int = 1,
        lane: int = 0,
        partition: int = 0,
        request_id: str | None = None,
        body: bytes = b"",
        dead: str | None = None,
    ) -> int:
        """Put a message into half a of a lane; its batch number."""
        self._number += 1
        self.lanes[lane].connection.execute(
            f"INSERT INTO staging.lane_{lane}_a_batches (batch_no, tenant_id, request_id,"
            " body_hash, answer, topic, partition, source_offset, source_follows, dead_source,"
            " dead_reason, dead_message, dead_raw) VALUES (%s, %s, %s, %s, '', %s, %s, %s, %s,"
            " 'kafka', %s, 'because', 'raw')",
            [
                self._number,
                tenant_id,
                request_id,
                body,
                TOPIC,
                partition,
                offset,
                follows,
                dead,
            ],
        )
        if dead is None:
            point = RawPoint(
                tenant_id,
                1,
                1,
                T0 + timedelta(seconds=offset),
                float(offset),
                batch_no=self._number,
            )
            self.lanes[lane].stage([point])
        return self._number

    def flush(self, lane: int = 0) -> Flushed:
        return self.lanes[lane].flush()

    def stored(self, tenant_id: int = 1) -> list[float]:
        rows = self.admin.execute(
            "SELECT value_double FROM entity_values_ts WHERE tenant_id = %s ORDER BY 1", [tenant_id]
        ).fetchall()
        return [row[0] for row in rows]

    def next_offset(self, partition: int = 0) -> int:
        row = self.admin.execute(
            "SELECT next_offset FROM source_offsets WHERE topic = %s AND partition = %s",
            [TOPIC, partition],
        ).fetchone()
        assert row is not None
        return int(row[0])

    def dead(self) -> list[tuple[Any, ...]]:
        return self.admin.execute(
            "SELECT tenant_id, partition, source_offset, request_id, reason, raw"
            " FROM ingest_dead_letters ORDER BY dead_letter_id"
        ).fetchall()


@pytest.fixture
def messages(connect: Connect, two_tenants: tuple[int, int]) -> Messages:
    return Messages(connect)


def reasons(flushed: Flushed) -> dict[int, str]:
    """Batch number -> why it was not stored."""
    return {found["batch_no"]: found["reason"] for found in flushed.duplicates}


def test_messages_move_the_offset_and_redelivered_ones_change_nothing(messages: Messages) -> None:
    for tenant_id in (1, 2):  # One partition holds the messages of many tenants.
        messages.stage(tenant_id, tenant_id - 1, tenant_id=tenant_id)
    assert reasons(messages.flush()) == {}
    assert messages.next_offset() == 3
    again = {messages.stage(tenant_id, tenant_id - 1, tenant_id=tenant_id) for tenant_id in (1, 2)}
    new = messages.stage(3, 3)
    flushed = messages.flush()
    assert reasons(flushed) == dict.fromkeys(again, "duplicate")
    assert new not in again
    assert (messages.stored(1), messages.stored(2)) == ([1.0, 3.0], [2.0])
    assert messages.next_offset() == 4


def test_gaps_of_the_topic_itself_are_none(messages: Messages) -> None:
    messages.stage(5, 0)  # The topic begins at 5, and has dropped 6 and 7.
    messages.stage(8, 6)
    assert reasons(messages.flush()) == {}
    assert messages.next_offset() == 9


def test_what_follows_a_lost_message_waits_for_it(messages: Messages) -> None:
    """Message 1 is lost between reader and flush: 2 and 3 must not go before it."""
    messages.stage(0, 0)
    assert reasons(messages.flush()) == {}
    lost = [messages.stage(2, 2), messages.stage(3, 3)]
    flushed = messages.flush()
    assert reasons(flushed) == dict.fromkeys(lost, "gap")
    assert {found["expected"] for found in flushed.duplicates} == {1}
    assert messages.stored() == [0.0]
    for offset in (1, 2, 3):
        messages.stage(offset, offset)
    assert reasons(messages.flush()) == {}
    assert messages.stored() == [0.0, 1.0, 2.0, 3.0]


def test_a_gap_within_a_flush_stops_only_what_is_behind_it(messages: Messages) -> None:
    messages.stage(0, 0)
    broken = [messages.stage(2, 2), messages.stage(3, 3)]
    elsewhere = messages.stage(0, 0, partition=1, tenant_id=2)
    assert reasons(messages.flush()) == dict.fromkeys(broken, "gap")
    assert elsewhere not in broken
    assert (messages.next_offset(0), messages.next_offset(1)) == (1, 1)
    assert (messages.stored(1), messages.stored(2)) == ([0.0], [0.0])


def test_a_message_twice_in_a_flush_is_stored_once(messages: Messages) -> None:
    messages.stage(0, 0)
    again = messages.stage(0, 0)
    late = messages.stage(2, 2)
    late_again = messages.stage(2, 2)  # Its first copy is not stored, so neither is known.
    assert reasons(messages.flush()) == {again: "duplicate", late: "gap", late_again: "gap"}
    assert messages.stored() == [0.0]


def test_a_zombie_beside_the_new_owner_stores_nothing_twice(messages: Messages) -> None:
    """Two lanes hold the same messages; the flushes come in either order."""
    for lane in (0, 1):
        for offset in range(3):
            messages.stage(offset, offset, lane=lane)
    messages.stage(3, 3, lane=1)
    assert reasons(messages.flush(0)) == {}
    assert set(reasons(messages.flush(1)).values()) == {"duplicate"}
    assert messages.stored() == [0.0, 1.0, 2.0, 3.0]


def test_a_dead_letter_is_kept_once_by_the_flush_that_moves_the_offset(messages: Messages) -> None:
    messages.stage(0, 0, tenant_id=0, dead="TENANT_UNKNOWN")
    messages.stage(1, 1)
    messages.flush()
    messages.stage(0, 0, tenant_id=0, dead="TENANT_UNKNOWN")
    messages.stage(5, 5, tenant_id=2, dead="INVALID_FIELD")  # Behind a gap: not yet.
    messages.flush()
    assert messages.dead() == [(0, 0, 0, None, "TENANT_UNKNOWN", b"raw")]
    assert (messages.stored(), messages.next_offset()) == ([1.0], 2)


def test_a_request_id_is_known_whichever_door_it_came_through(messages: Messages) -> None:
    messages.lanes[0].stage_request(1, "r1", batch_no=900, body_hash=b"body")
    messages.flush()
    known = messages.stage(0, 0, request_id="r1", body=b"body")
    messages.stage(0, 0, partition=1, tenant_id=2, request_id="r1", body=b"body")
    assert reasons(messages.flush()) == {known: "duplicate"}
    assert (messages.next_offset(0), messages.next_offset(1)) == (1, 1)
    assert (messages.stored(1), messages.stored(2)) == ([], [0.0])


def test_a_message_with_a_used_request_id_stops_its_partition_until_it_is_given_up(
    messages: Messages,
) -> None:
    messages.lanes[0].stage_request(1, "r1", batch_no=900, body_hash=b"body")
    messages.flush()
    reused = messages.stage(0, 0, request_id="r1", body=b"other")
    behind = messages.stage(1, 1)
    flushed = messages.flush()
    assert reasons(flushed) == {reused: "duplicate", behind: "gap"}
    told = next(found for found in flushed.duplicates if found["batch_no"] == reused)
    assert bytes.fromhex(told["body_hash"]) == b"body"
    assert (messages.stored(), messages.next_offset()) == ([], 0)
    messages.stage(0, 0, dead="REQUEST_ID_REUSED")
    messages.stage(1, 1)
    assert reasons(messages.flush()) == {}
    assert (messages.stored(), messages.next_offset()) == ([1.0], 2)


def test_two_bodies_of_one_request_id_in_one_flush_store_the_first(messages: Messages) -> None:
    messages.stage(0, 0, request_id="r1", body=b"one")
    other = messages.stage(1, 1, request_id="r1", body=b"other")
    behind = messages.stage(2, 2)
    assert reasons(messages.flush()) == {other: "gap", behind: "gap"}
    other = messages.stage(1, 1, request_id="r1", body=b"other")
    assert reasons(messages.flush()) == {other: "duplicate"}
    assert messages.stored() == [0.0]


def test_a_message_behind_a_gap_leaves_no_trace_in_the_ledger(messages: Messages) -> None:
    """Otherwise it would be taken for stored when it comes again."""
    messages.stage(3, 3, request_id="r1", body=b"body")
    messages.flush()
    messages.stage(3, 0, request_id="r1", body=b"body")
    assert reasons(messages.flush()) == {}
    assert messages.stored() == [3.0]


def test_a_request_id_stored_meanwhile_by_another_lane_makes_the_flush_begin_again(
    messages: Messages, connect: Connect
) -> None:
    """The other lane's row appears between the judgement of the offsets and the ledger."""
    admin = connect("admin")
    admin.execute(
        "CREATE FUNCTION atlas.meanwhile() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$"
        " BEGIN INSERT INTO atlas.write_requests SELECT 1, 'r1', c.ledger_bucket, 9, 9, 9, 9,"
        " 'other', '', now() FROM atlas.flush_control AS c; RETURN NULL; END $$;"
        "CREATE TRIGGER meanwhile AFTER UPDATE ON atlas.source_offsets"
        " FOR EACH STATEMENT EXECUTE FUNCTION atlas.meanwhile()"
    )
    messages.stage(0, 0, request_id="r1", body=b"body")
    with pytest.raises(psycopg.errors.SerializationFailure):
        messages.flush()
    assert admin.execute("SELECT count(*) FROM source_offsets").fetchone() == (0,)
