"""What a batch comes to for Redshift: folded by table, and what is at fault found beforehand."""

import json
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from atlas_cdc_reconciler.changes import (
    UNCHANGED,
    Batch,
    ChangeKind,
    Relation,
    Run,
    SourceColumn,
    Unchanged,
)
from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.sink.redshift.plan import Faults, Staged, TablePlan, plan_batch
from atlas_cdc_reconciler.source import debezium, pgoutput
from atlas_cdc_reconciler.tables import HISTORY, TABLES, Column, ColumnType, Table

TENANTS, ENTITIES = TABLES["tenants"], TABLES["entities"]
INT2 = ColumnType.INT2
Field = bytes | None | Unchanged
Change = tuple[Table, ChangeKind, bytes]
I, U, D = ChangeKind.INSERT, ChangeKind.UPDATE, ChangeKind.DELETE  # noqa: E741


def relation(table: Table) -> Relation:
    columns = tuple(SourceColumn(c.name, c.type.oid, c.name in table.key) for c in table.columns)
    return Relation(1, "atlas", table.name, columns, pgoutput.CODEC)


def fields(row: Sequence[Field]) -> bytes:
    """A tuple as pgoutput writes it."""
    parts = [struct.pack(">H", len(row))]
    for field in row:
        if field is None:
            parts.append(b"n")
        elif isinstance(field, Unchanged):
            parts.append(b"u")
        else:
            parts.append(b"b" + struct.pack(">i", len(field)) + field)
    return b"".join(parts)


def inserted(table: Table, row: Sequence[Field]) -> Change:
    return table, I, b"I" + struct.pack(">i", 1) + b"N" + fields(row)


def updated(table: Table, row: Sequence[Field], old: Sequence[Field] | None = None) -> Change:
    before = b"" if old is None else (b"K" if table.key else b"O") + fields(old)
    return table, U, b"U" + struct.pack(">i", 1) + before + b"N" + fields(row)


def deleted(table: Table, row: Sequence[Field]) -> Change:
    mark = b"K" if table.key else b"O"
    return table, D, b"D" + struct.pack(">i", 1) + mark + fields(row)


def batch(*changes: Change) -> Batch:
    at = LogPosition.at(Lsn(1))
    runs = [Run(relation(table), kind, at, [raw]) for table, kind, raw in changes]
    return Batch(tuple(runs), at, LogPosition.at(Lsn(2)), Counter())


def entity(tenant: int, number: int, key: str = "pump") -> list[Field]:
    return [struct.pack(">i", tenant), struct.pack(">q", number), key.encode(), bytes(8)]


def tenant(number: int, name: Field, status: str = "active") -> list[Field]:
    return [struct.pack(">i", number), b"acme", name, status.encode(), b"reject", bytes(8)]


def point(tenant: int, value: int, text: str | None = None) -> list[Field]:
    by_name: dict[str, Field] = {
        "tenant_id": struct.pack(">i", tenant),
        "attribute_id": struct.pack(">i", 7),
        "entity_id": struct.pack(">q", 8),
        "event_time": bytes(8),
        "ingested_at": bytes(8),
        "quality": bytes(2),
        "value_int": None if text is not None else struct.pack(">q", value),
        "value_text": None if text is None else text.encode(),
    }
    return [by_name.get(column.name) for column in HISTORY.columns]


def plan(*changes: Change, faults: Faults | None = None) -> TablePlan:
    (made,) = plan_batch(batch(*changes), {} if faults is None else faults)
    return made


def values(staged: Staged | None, *names: str) -> list[tuple[object, ...]]:
    """The rows, each with its change's number."""
    if staged is None:
        return []
    columns = [staged.rows[name].to_pylist() for name in names]
    return list(zip(staged.numbers, *columns, strict=True))


# The history --------------------------------------------------------------------------------------


def test_inserts_are_taken_by_columns() -> None:
    made = plan(*(inserted(HISTORY, point(1 + n % 2, n)) for n in range(5)))
    assert values(made.inserted, "tenant_id", "value_int") == [(n, 1 + n % 2, n) for n in range(5)]
    assert made.gone is None


def test_a_row_that_the_batch_added_is_taken_from_the_batch() -> None:
    made = plan(
        inserted(HISTORY, point(1, 5)),
        inserted(HISTORY, point(1, 5)),
        inserted(HISTORY, point(2, 5)),
        deleted(HISTORY, point(1, 5)),
    )
    assert values(made.inserted, "tenant_id") == [(0, 1), (2, 2)]
    assert made.gone is None


def test_a_deletion_before_the_insert_takes_from_the_warehouse() -> None:
    made = plan(deleted(HISTORY, point(1, 5)), inserted(HISTORY, point(1, 5)))
    assert values(made.inserted, "value_int") == [(1, 5)]
    assert made.gone is not None
    assert made.gone.takers == [[0]]


def test_equal_deletions_are_one_row_and_many_takers() -> None:
    made = plan(
        deleted(HISTORY, point(1, 5)),
        deleted(HISTORY, point(2, 5)),
        deleted(HISTORY, point(1, 5)),
    )
    assert made.gone is not None
    assert values(made.gone.staged, "tenant_id") == [(0, 1), (1, 2)]
    assert made.gone.takers == [[0, 2], [1]]


def test_updates_of_updates_leave_the_last_row() -> None:
    made = plan(
        updated(HISTORY, point(1, 6), old=point(1, 5)),
        updated(HISTORY, point(1, 7), old=point(1, 6)),
    )
    assert values(made.inserted, "value_int") == [(1, 7)]
    assert made.gone is not None
    assert values(made.gone.staged, "value_int") == [(0, 5)]


def test_zeros_of_both_signs_are_two_rows_whatever_the_source_writes() -> None:
    def event(kind: ChangeKind, value: float) -> Run:
        row = dict.fromkeys(HISTORY.column_names) | {
            "tenant_id": 1,
            "attribute_id": 1,
            "entity_id": 1,
            "event_time": "2026-01-01T00:00:00Z",
            "ingested_at": "2026-01-01T00:00:00Z",
            "quality": 0,
            "value_double": value,
        }
        raw = json.dumps({"after" if kind is I else "before": row}).encode()
        described = replace(relation(HISTORY), codec=debezium.CODEC)
        return Run(described, kind, LogPosition.at(Lsn(1)), [raw])

    runs = (event(I, 0.0), event(I, -0.0), event(D, 0.0))
    at = LogPosition.at(Lsn(1))
    (made,) = plan_batch(Batch(runs, at, LogPosition.at(Lsn(2)), Counter()), {})
    assert made.gone is None
    ((number, left),) = values(made.inserted, "value_double")
    assert (number, repr(left)) == (1, "-0.0")


def test_a_fault_among_many_is_found_and_the_rest_is_planned() -> None:
    changes = [inserted(HISTORY, point(1 + n % 2, n)) for n in range(100)]
    broken = point(2, 0)
    broken[0] = b"short"
    changes[17] = inserted(HISTORY, broken)
    changes[60] = inserted(HISTORY, point(1, 0, "x" * 70_000))
    changes[99] = (HISTORY, I, b"I\0\0\0\1N")
    faults: dict[int, Fault] = {}
    made = plan(*changes, faults=faults)
    assert set(faults) == {17, 60, 99}
    assert faults[60].letter_class is LetterClass.VALUE
    assert "70000 bytes" in faults[60].reason
    assert made.inserted is not None
    assert made.inserted.numbers == [n for n in range(100) if n not in faults]


def test_what_hangs_on_a_fault_is_planned_without_it() -> None:
    faults: dict[int, Fault] = {}
    made = plan(
        inserted(HISTORY, point(1, 5)),
        updated(HISTORY, point(1, 0, "x" * 70_000), old=point(1, 5)),
        inserted(HISTORY, point(2, 6)),
        faults=faults,
    )
    assert set(faults) == {1}
    assert values(made.inserted, "tenant_id") == [(0, 1), (2, 2)]  # Not updated, and still there.


def test_changes_known_to_be_at_fault_are_left_out() -> None:
    faults = {0: Fault(LetterClass.MISSING_ROW, "not here")}
    made = plan(deleted(HISTORY, point(1, 5)), inserted(HISTORY, point(2, 6)), faults=faults)
    assert made.gone is None
    assert values(made.inserted, "tenant_id") == [(1, 2)]
    assert len(faults) == 1


# Tables with a key --------------------------------------------------------------------------------


def test_the_last_state_of_each_key_is_stored() -> None:
    made = plan(
        inserted(ENTITIES, entity(1, 5, "a")),
        updated(ENTITIES, entity(1, 5, "b")),
        inserted(ENTITIES, entity(2, 5, "c")),
        inserted(ENTITIES, entity(1, 6, "gone")),
        deleted(ENTITIES, [*entity(1, 6)[:2], None, None]),
        deleted(ENTITIES, [*entity(1, 7)[:2], None, None]),
        inserted(ENTITIES, entity(1, 7, "again")),
    )
    assert values(made.merged, "tenant_id", "entity_id", "key") == [
        (1, 1, 5, "b"),
        (2, 2, 5, "c"),
        (6, 1, 7, "again"),
    ]
    assert values(made.deleted, "tenant_id", "entity_id") == [(4, 1, 6)]


def test_a_changed_key_deletes_the_old_one() -> None:
    made = plan(updated(ENTITIES, entity(1, 6), old=[*entity(1, 5)[:2], None, None]))
    assert values(made.merged, "entity_id") == [(0, 6)]
    assert values(made.deleted, "entity_id") == [(0, 5)]


def test_a_value_that_was_not_sent_comes_from_the_batch_if_it_can() -> None:
    made = plan(
        updated(TENANTS, tenant(1, b"large")),
        updated(TENANTS, tenant(1, UNCHANGED, "suspended")),
    )
    assert values(made.merged, "display_name", "status") == [(1, "large", "suspended")]
    assert not made.updated


def test_rows_without_large_values_are_updates_of_their_own() -> None:
    made = plan(
        updated(TENANTS, tenant(1, UNCHANGED, "suspended")),
        updated(TENANTS, tenant(2, b"Globex")),
    )
    assert values(made.merged, "tenant_id") == [(1, 2)]
    (partial,) = made.updated
    assert values(partial, "tenant_id", "status") == [(0, 1, "suspended")]
    assert "display_name" not in partial.rows.column_names


def test_a_key_at_fault_keeps_its_state_of_before() -> None:
    faults: dict[int, Fault] = {}
    made = plan(
        inserted(ENTITIES, entity(1, 5, "a")),
        updated(ENTITIES, entity(1, 5, "x" * 70_000)),
        inserted(ENTITIES, entity(2, 5, "b")),
        faults=faults,
    )
    assert set(faults) == {1}
    assert values(made.merged, "tenant_id", "key") == [(0, 1, "a"), (2, 2, "b")]


def test_a_row_without_its_key_is_at_fault() -> None:
    faults: dict[int, Fault] = {}
    made = plan(deleted(ENTITIES, [None] * 4), inserted(ENTITIES, entity(1, 5)), faults=faults)
    assert {number: fault.letter_class for number, fault in faults.items()} == {
        0: LetterClass.DECODE
    }
    assert values(made.merged, "entity_id") == [(1, 5)]


def test_each_table_has_a_plan() -> None:
    made = plan_batch(batch(inserted(ENTITIES, entity(1, 5)), inserted(HISTORY, point(2, 5))), {})
    assert [table_plan.table.name for table_plan in made] == ["entities", "entity_values_ts"]


def test_a_table_that_is_not_known_becomes_letters() -> None:
    strange = Table("strange", ENTITIES.columns, ENTITIES.key, by_tenant=True)
    faults: dict[int, Fault] = {}
    made = plan(inserted(strange, entity(1, 5)), inserted(ENTITIES, entity(2, 5)), faults=faults)
    assert faults == {0: Fault(LetterClass.SCHEMA, "the warehouse has no table strange")}
    assert values(made.merged, "tenant_id") == [(1, 2)]


@pytest.mark.parametrize("table", [ENTITIES, HISTORY], ids=lambda table: table.name)
def test_a_table_that_fits_no_more_becomes_letters_from_there_on(table: Table) -> None:
    row = entity if table is ENTITIES else point
    odd = replace(table, columns=(*table.columns[:-1], replace(table.columns[-1], type=INT2)))
    faults: dict[int, Fault] = {}
    made = plan(
        inserted(table, row(1, 5)),
        inserted(odd, row(2, 6)),
        inserted(table, row(1, 7)),
        faults=faults,
    )
    assert {number: fault.letter_class for number, fault in faults.items()} == {
        1: LetterClass.SCHEMA,
        2: LetterClass.SCHEMA,
    }
    assert f"{table.columns[-1].name} has another type at the source" in faults[1].reason
    assert values(made.merged or made.inserted, "tenant_id") == [(0, 1)]


def test_columns_that_are_new_at_the_source_are_left_out() -> None:
    wide = replace(ENTITIES, columns=(Column("colour", ColumnType.TEXT), *ENTITIES.columns))
    made = plan(inserted(wide, [b"red", *entity(1, 5)]))
    assert values(made.merged, "tenant_id", "entity_id") == [(0, 1, 5)]
