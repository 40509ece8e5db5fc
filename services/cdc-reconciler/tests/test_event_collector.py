"""Transactions out of a topic that has events twice, cut off, or not at all."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_cdc_reconciler.changes import Batch, ChangeKind, MessageError
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.source import SourceLostError
from atlas_cdc_reconciler.source.debezium import CODEC
from atlas_cdc_reconciler.source.event_collector import (
    EventCollector,
    SnapshotFinder,
    SnapshotRange,
)

# mypy cannot name what lies below a folder with a hyphen.
from .debezium_events import (  # type: ignore[import-not-found]
    HEARTBEAT,
    boundary,
    change,
    encoded,
)

START = LogPosition(100, Lsn(1_000))


def entity(tenant_id: int, entity_id: int) -> dict[str, Any]:
    return {"tenant_id": tenant_id, "entity_id": entity_id}


@dataclass(frozen=True)
class Committed:
    """A transaction of the database: two tenants' inserts, numbered by all that came before."""

    number: int
    first: int
    count: int

    @property
    def end(self) -> int:
        return 1_000 + 100 * self.number

    def events(self, previous_commit: int | None) -> list[bytes]:
        """From its beginning to its end."""
        changes = [
            encoded(
                change(
                    "entities" if each % 3 else "attributes",
                    "c",
                    after=entity(1 + each % 2, self.first + each),
                    lsn=self.end - 50 + each // 2,
                    previous_commit=previous_commit,
                    transaction=str(800 + self.number),
                    order=each + 1,
                )
            )
            for each in range(self.count)
        ]
        name = str(800 + self.number)
        return [
            boundary("BEGIN", name, self.end - 60),
            *changes,
            boundary("END", name, self.end, self.count),
        ]


def committed(counts: list[int]) -> list[Committed]:
    transactions, first = [], 0
    for number, count in enumerate(counts, 1):
        transactions.append(Committed(number, first, count))
        first += count
    return transactions


def topic_of(transactions: list[Committed]) -> list[bytes]:
    """What a Debezium writes that never dies."""
    ends: list[int | None] = [None, *(each.end for each in transactions)]
    return [
        event
        for transaction, previous in zip(transactions, ends, strict=False)
        for event in transaction.events(previous)
    ]


def ids(batches: list[Batch]) -> list[int]:
    """Which changes, in their order: each has a number of its own."""
    return [
        CODEC.insert(raw, run.relation)[1]  # type: ignore[misc]
        for batch in batches
        for run in batch.runs
        for raw in run.raws
    ]


@st.composite
def topics(draw: st.DrawFn) -> tuple[list[bytes | None], int]:
    """A topic that a mortal Debezium writes, and how many changes were committed."""
    transactions = committed(draw(st.lists(st.integers(0, 6), min_size=1, max_size=8)))
    whole = topic_of(transactions)
    topic: list[bytes | None] = []
    at = 0
    for _ in range(draw(st.integers(0, 5))):  # Deaths: it goes on at or before where it was.
        dies = draw(st.integers(at, len(whole)))
        topic += whole[at:dies]
        at = draw(st.integers(0, dies))
    topic += whole[at:]
    for _ in range(draw(st.integers(0, 5))):
        topic.insert(draw(st.integers(0, len(topic))), draw(st.sampled_from([HEARTBEAT, None])))
    return topic, sum(each.count for each in transactions)


@given(topic=topics(), data=st.data())
def test_every_change_is_taken_once_whatever_debezium_repeats(
    topic: tuple[list[bytes | None], int], data: st.DataObject
) -> None:
    messages, count = topic
    position, collector = START, EventCollector(START)
    batches: list[Batch] = []
    at = 0
    while at < len(messages):
        collector.feed(START.offset + at, messages[at])
        at += 1
        if not collector.in_transaction and data.draw(st.booleans()):
            batch = collector.take()
            assert batch.start == position
            assert batch.position >= position
            if data.draw(st.booleans()):
                batches.append(batch)
                position = batch.position
                continue
            # It was not applied: the stream is opened anew where the sink stands.
            collector = EventCollector(position)
            at = position.offset - START.offset
    batches.append(collector.take())
    assert ids(batches) == list(range(count))
    lsns = [run.commit.lsn for batch in batches for run in batch.runs]
    assert lsns == sorted(lsns)
    read = sum(batch.change_count + batch.skipped.total() for batch in batches)
    assert read >= count


@given(topic=topics())
def test_a_topic_that_comes_again_from_its_first_offset_changes_nothing(
    topic: tuple[list[bytes | None], int],
) -> None:
    messages, _ = topic
    collector = EventCollector(START)
    for offset, message in enumerate(messages, START.offset):
        collector.feed(offset, message)
    done = collector.take().position
    # From the topic's start, as a consumer may that forgot where it was ...
    again = EventCollector(done)
    for offset, message in enumerate(messages, START.offset):
        again.feed(offset, message)
    assert not again.has_news
    # ... and written behind the end, as a Debezium does whose offsets are old.
    for offset, message in enumerate(messages, done.offset):
        again.feed(offset, message)
    batch = again.take()
    assert batch.change_count == 0
    assert batch.position.lsn == done.lsn


@given(counts=st.lists(st.integers(1, 5), min_size=2, max_size=6), data=st.data())
def test_what_is_missing_is_found(counts: list[int], data: st.DataObject) -> None:
    transactions = committed(counts)
    whole = topic_of(transactions)
    first = data.draw(st.integers(0, len(whole) - 2))
    stop = data.draw(st.integers(first + 1, len(whole) - 1))
    lost = whole[first:stop]
    left = [*whole[:first], *whole[stop:]]
    if all(b"BEGIN" in message for message in lost):  # The changes are all there.
        assert ids([gathered(left)]) == list(range(sum(counts)))
        return
    with pytest.raises(SourceLostError):
        gathered(left)


def gathered(messages: list[bytes]) -> Batch:
    """All that a topic has."""
    collector = EventCollector(START)
    for offset, message in enumerate(messages, START.offset):
        collector.feed(offset, message)
    return collector.take()


def test_positions_and_commits() -> None:
    first, second = committed([2, 1])
    collector = EventCollector(START)
    for offset, message in enumerate(topic_of([first, second])[:-1], 100):
        collector.feed(offset, message)
    assert collector.in_transaction
    assert (collector.change_count, collector.has_news) == (3, True)
    with pytest.raises(RuntimeError, match="whole"):
        collector.take()
    collector.feed(106, boundary("END", "802", second.end, 1))
    batch = collector.take()
    assert batch.position == LogPosition(107, Lsn(second.end))
    assert batch.position.lsn == Lsn(second.end)
    assert [(run.kind, run.commit.lsn.value) for run in batch.runs] == [
        (ChangeKind.INSERT, first.end),
        (ChangeKind.INSERT, first.end),
        (ChangeKind.INSERT, second.end),
    ]
    assert str(batch.position) == "107 (0/4B0)"


def test_logical_messages_are_numbered_and_are_no_changes() -> None:
    collector = EventCollector(START)
    message = {**change("", "m", lsn=1_040, transaction="801"), "message": {"prefix": "x"}}
    collector.feed(100, encoded(message))
    collector.feed(101, boundary("END", "801", 1_100, 1))
    assert collector.take().change_count == 0


def test_events_without_their_numbers_are_refused() -> None:
    raw = encoded(change("entities", "c", after=entity(1, 1), order=None))
    with pytest.raises(MessageError, match="set provide"):
        EventCollector(START).feed(100, raw)


def row(place: str, lsn: int = 1_000, number: int = 1, table: str = "entities") -> bytes:
    payload = change(table, "r", after=entity(2, number), order=None, snapshot=place, lsn=lsn)
    return bytes(encoded(payload))


def test_a_new_snapshot_in_the_stream_is_a_loss_an_old_one_is_not() -> None:
    collector = EventCollector(START)
    for offset, message in enumerate([row("first"), row("last"), row("incremental", 2_000)], 100):
        collector.feed(offset, message)
    assert collector.take().skipped == {"entities": 3}
    with pytest.raises(SourceLostError, match="began anew"):
        collector.feed(103, row("first", 1_001))


def found_in(*messages: bytes | None, start: int = 0) -> SnapshotFinder:
    finder = SnapshotFinder()
    for offset, message in enumerate(messages, start):
        finder.feed(offset, message)
    return finder


def test_the_newest_whole_snapshot_is_found() -> None:
    cut = [row("first"), row("true")]
    whole = [row("first", 5), HEARTBEAT, row("true", 5), None, row("last", 5)]
    assert found_in(*cut).found is None
    assert found_in(*cut, *whole).found == SnapshotRange(2, 7, Lsn(5))
    assert found_in(*whole, *cut, *committed([2])[0].events(None)).found == SnapshotRange(
        0, 5, Lsn(5)
    )
    assert found_in(*whole, *whole).found == SnapshotRange(5, 10, Lsn(5))
    assert found_in(row("last")).found == SnapshotRange(0, 1, Lsn(1_000))


def only(table: str, lsn: int = 1_000) -> bytes:
    """The only row of a table that is not the last to have one."""
    return row("last_in_data_collection", lsn, table=table)


def test_a_snapshot_whose_first_table_is_empty_is_found() -> None:
    """Debezium marks a first row in its first table or not at all."""
    whole = [only("lane_epochs"), HEARTBEAT, row("last", table="replication_heartbeat")]
    assert found_in(*whole).found == SnapshotRange(0, 3, Lsn(1_000))
    assert found_in(*whole, *whole).found == SnapshotRange(3, 6, Lsn(1_000))
    assert found_in(*whole, start=7).found is None, "what lay before is gone"
    changes = committed([1])[0].events(None)
    begins = 7 + len(changes)
    assert found_in(*changes, *whole, start=7).found == SnapshotRange(
        begins, begins + 3, Lsn(1_000)
    )
    assert found_in(row("incremental"), *whole, start=7).found is None


@pytest.mark.parametrize(
    "cut",
    [
        [only("lane_epochs")],
        [only("lane_epochs"), row("first_in_data_collection")],
        [only("lane_epochs"), row("first_in_data_collection"), row("true", number=2)],
        [row("first_in_data_collection", 900, table="tenants"), row("true", 900, table="tenants")],
    ],
)
def test_what_is_left_of_a_snapshot_that_was_cut_is_no_part_of_the_next(cut: list[bytes]) -> None:
    whole = [
        only("lane_epochs"),
        row("first_in_data_collection"),
        row("last_in_data_collection", number=2),
        row("last", table="replication_heartbeat"),
    ]
    assert found_in(*cut).found is None
    assert found_in(*cut, *whole).found == SnapshotRange(len(cut), len(cut) + 4, Lsn(1_000))


def test_a_snapshot_whose_beginning_is_gone_is_not_taken_for_whole() -> None:
    finder = found_in(row("true"), row("last"), *committed([1])[0].events(None), start=7)
    assert (finder.found, finder.has_changes) == (None, True)
    assert found_in(row("last"), start=7).found is None
