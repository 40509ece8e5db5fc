"""The change stream's messages: recorded from a PostgreSQL 18 server, or made wrong by hand."""

import struct

import pytest

from atlas_cdc_reconciler.changes import UNCHANGED, ChangeKind, MessageError
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.source import pgoutput
from atlas_cdc_reconciler.source.collector import Collector

# One heartbeat: its relation is described, its row updated.
BEGIN = b"B\x00\x00\x00\x00\x02\x95\x1e\xb0\x00\x03\x03\xdf\xf4\xbfT\x00\x00\x00\x03P"
RELATION = (
    b"R\x00\x00Cdatlas\x00replication_heartbeat\x00d\x00\x03\x01id\x00\x00\x00\x00\x15"
    b"\xff\xff\xff\xff\x00beat_id\x00\x00\x00\x00\x14\xff\xff\xff\xff"
    b"\x00beaten_at\x00\x00\x00\x04\xa0\xff\xff\xff\xff"
)
UPDATE = (
    b"U\x00\x00CdN\x00\x03b\x00\x00\x00\x02\x00\x01b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x02"
    b"b\x00\x00\x00\x08\x00\x03\x03\xdf\xf4\xbfS\xd3"
)
COMMIT = (
    b"C\x00\x00\x00\x00\x00\x02\x95\x1e\xb0\x00\x00\x00\x00\x02\x95\x1e\xe0\x00\x03\x03\xdf"
    b"\xf4\xbfT\x00"
)
COMMIT_LSN, END = Lsn.parse("0/2951EB0"), Lsn.parse("0/2951EE0")


def fields(*values: object) -> bytes:
    """A row as the server sends it."""
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            assert isinstance(value, bytes)
            parts.append(b"b" + struct.pack(">I", len(value)) + value)
    return b"".join(parts)


def change(kind: bytes, body: bytes) -> bytes:
    return kind + RELATION[1:5] + body


def test_lsn_is_read_and_written_as_postgres_does() -> None:
    assert str(Lsn.parse("16/B374D848")) == "16/B374D848"
    assert str(Lsn.parse("0/0")) == "0/0"
    assert Lsn.parse("1/0") > Lsn.parse("0/FFFFFFFF")
    with pytest.raises(ValueError, match="no log position"):
        Lsn.parse("12")
    with pytest.raises(ValueError, match="no log position"):
        Lsn(2**64)


def test_a_recorded_transaction() -> None:
    assert pgoutput.begin_lsn(BEGIN) == COMMIT_LSN
    assert pgoutput.commit_end(COMMIT) == END
    relation = pgoutput.parse_relation(RELATION)
    assert (relation.schema, relation.name) == ("atlas", "replication_heartbeat")
    assert [(c.name, c.type_oid, c.is_key) for c in relation.columns] == [
        ("id", 21, True),
        ("beat_id", 20, False),
        ("beaten_at", 1184, False),
    ]
    old, new = pgoutput.parse_update(UPDATE)
    assert old is None
    assert new[:2] == [b"\x00\x01", b"\x00" * 7 + b"\x02"]


def test_inserts_are_taken_apart_by_columns() -> None:
    raws = [change(b"I", b"N" + fields(b"a", None)), change(b"I", b"N" + fields(None, b"bc"))]
    assert pgoutput.insert_columns(raws, 2) == [[b"a", None], [None, b"bc"]]
    assert pgoutput.parse_insert(raws[0]) == [b"a", None]


def test_updates_and_deletes_bring_old_rows() -> None:
    raw = change(b"U", b"O" + fields(b"1", b"old") + b"N" + fields(b"1", UNCHANGED))
    assert pgoutput.parse_update(raw) == ([b"1", b"old"], [b"1", UNCHANGED])
    assert pgoutput.parse_delete(change(b"D", b"K" + fields(b"1", None))) == [b"1", None]


@pytest.mark.parametrize(
    "raw",
    [
        change(b"I", b"N" + fields(b"a")),
        change(b"I", b"N" + struct.pack(">H", 2) + b"t\x00\x00\x00\x011n"),
        change(b"I", b"N" + fields(b"a", b"b") + b"n"),
        change(b"I", b"O" + fields(b"a", b"b")),
    ],
)
def test_odd_inserts_are_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        pgoutput.insert_columns([raw], 2)


@pytest.mark.parametrize("cut_at", range(6, len(UPDATE)))
def test_an_update_that_ends_too_soon_is_refused(cut_at: int) -> None:
    with pytest.raises(MessageError):
        pgoutput.parse_update(UPDATE[:cut_at])


def test_the_collector_gathers_whole_transactions() -> None:
    collector = Collector(applied=Lsn(0))
    for message in (BEGIN, RELATION, UPDATE, UPDATE):
        collector.feed(message)
    assert (collector.in_transaction, collector.has_news) == (True, False)
    with pytest.raises(RuntimeError, match="whole"):
        collector.take()
    collector.feed(COMMIT)
    assert (collector.has_news, collector.change_count) == (True, 2)
    batch = collector.take()
    assert batch.position == LogPosition.at(END)
    assert batch.counts() == {"replication_heartbeat": 2}
    (run,) = batch.runs
    assert (run.kind, run.commit.lsn, run.raws) == (ChangeKind.UPDATE, COMMIT_LSN, [UPDATE] * 2)
    assert (collector.has_news, collector.take().change_count) == (False, 0)


def test_the_collector_drops_and_counts_what_the_sink_has() -> None:
    collector = Collector(applied=END)
    for message in (BEGIN, RELATION, UPDATE, COMMIT):
        collector.feed(message)
    assert not collector.has_news
    batch = collector.take()
    assert (batch.change_count, batch.skipped) == (0, {"replication_heartbeat": 1})
    assert batch.position == LogPosition.at(END)


def test_a_change_of_an_unknown_relation_or_kind_is_refused() -> None:
    collector = Collector(applied=Lsn(0))
    collector.feed(BEGIN)
    with pytest.raises(MessageError, match="not described"):
        collector.feed(UPDATE)
    with pytest.raises(MessageError, match="'T'"):
        collector.feed(b"T\x00\x00\x00\x01")


def test_a_batch_is_cut_and_thinned_by_the_numbers_of_its_changes() -> None:
    collector = Collector(applied=Lsn(0))
    insert = change(b"I", b"N" + fields(b"a", b"b", b"c"))
    for message in (BEGIN, RELATION, UPDATE, UPDATE, insert, insert, UPDATE, COMMIT):
        collector.feed(message)
    batch = collector.take()
    assert batch.change(3)[1] is insert
    assert [run.raws for run in batch.part(3, ())] == [[UPDATE, UPDATE], [insert]]
    assert [run.raws for run in batch.part(5, {1, 2, 3})] == [[UPDATE], [UPDATE]]
    with pytest.raises(IndexError):
        batch.change(5)
