"""What a dead letter keeps is enough to read its change again."""

import pytest

from atlas_cdc_reconciler.changes import MessageError, Relation
from atlas_cdc_reconciler.source import copy
from atlas_cdc_reconciler.source.codecs import CODECS
from atlas_cdc_reconciler.tables import HEARTBEAT, TABLES

BEAT = b"\0\x03\0\0\0\x02\0\x01\0\0\0\x08" + bytes(7) + b"\x07\xff\xff\xff\xff"


@pytest.mark.parametrize("name", TABLES)
def test_columns_come_back_from_their_text(name: str) -> None:
    relation = copy.relation(TABLES[name])
    assert Relation.columns_from(relation.columns_text()) == relation.columns


def test_codecs_are_found_by_name() -> None:
    assert {name: codec.name for name, codec in CODECS.items()} == {
        "pgoutput": "pgoutput",
        "debezium": "debezium",
        "copy": "copy",
    }


def test_a_row_of_a_copy_is_read_again() -> None:
    relation = copy.relation(HEARTBEAT)
    assert copy.CODEC.insert(BEAT, relation) == [b"\0\x01", bytes(7) + b"\x07", None]
    columns = [(column, at) for at, column in enumerate(HEARTBEAT.columns)]
    rows = copy.CODEC.insert_table([BEAT, BEAT], relation, columns)
    assert rows.to_pylist() == [{"id": 1, "beat_id": 7, "beaten_at": None}] * 2


@pytest.mark.parametrize("raw", [BEAT + BEAT, b"", b"\0\x04" + BEAT[2:], b"\xff\xff"])
def test_what_is_no_row_of_the_copy_is_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        copy.CODEC.insert(raw, copy.relation(HEARTBEAT))


def test_a_copy_has_inserts_only() -> None:
    with pytest.raises(MessageError):
        copy.CODEC.update(BEAT, copy.relation(HEARTBEAT))
    with pytest.raises(MessageError):
        copy.CODEC.delete(BEAT, copy.relation(HEARTBEAT))
