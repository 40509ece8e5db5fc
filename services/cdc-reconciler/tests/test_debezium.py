"""Debezium's events: what it writes comes back as the value that Postgres has."""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_cdc_reconciler.changes import UNCHANGED, ChangeKind, MessageError, Relation
from atlas_cdc_reconciler.columns import FieldError, table_from
from atlas_cdc_reconciler.lsn import Lsn
from atlas_cdc_reconciler.source.debezium import (
    CODEC,
    UNAVAILABLE,
    Boundary,
    Event,
    EventReader,
)
from atlas_cdc_reconciler.source.json_fields import microseconds, to_arrow
from atlas_cdc_reconciler.tables import HISTORY, TABLES, Column, ColumnType, Table

# mypy cannot name what lies below a folder with a hyphen.
from .debezium_events import (  # type: ignore[import-not-found]
    HEARTBEAT,
    boundary,
    change,
    encoded,
    with_schema,
)

ENTITIES = TABLES["entities"]
ENTITY = {"tenant_id": 2, "entity_id": 77, "key": "pump-1", "created_at": "2026-11-27T06:21:53Z"}
# As JSON.parse would have it: a value of a row -> what Debezium writes for it.
Writer = Callable[[Any], Any]


def java_double(value: float) -> Any:
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def zoned(value: datetime) -> str:
    return value.strftime("%04Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def same(_: Any) -> Any:
    return _


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
VALUES: dict[ColumnType, tuple[st.SearchStrategy[Any], Writer]] = {
    ColumnType.BOOL: (st.booleans(), same),
    ColumnType.INT2: (st.integers(-(2**15), 2**15 - 1), same),
    ColumnType.INT4: (st.integers(-(2**31), 2**31 - 1), same),
    ColumnType.INT8: (st.integers(-(2**63), 2**63 - 1), same),
    ColumnType.DOUBLE: (st.floats(), java_double),
    ColumnType.DECIMAL: (
        st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal((n < 0, digits(n), -18))),
        lambda value: format(value, "f"),
    ),
    ColumnType.NUMERIC_TEXT: (
        st.tuples(st.integers(-(10**60), 10**60), st.integers(0, 40)).map(
            lambda pair: format(Decimal((pair[0] < 0, digits(pair[0]), -pair[1])), "f")
        ),
        lambda text: str(Decimal(text)),  # Java too writes small ones with an exponent.
    ),
    ColumnType.TEXT: (TEXTS, same),
    ColumnType.TEXT_ARRAY: (st.lists(st.none() | TEXTS, max_size=4), same),
    ColumnType.TIME: (
        st.datetimes(timezones=st.just(UTC)),
        zoned,
    ),
    ColumnType.JSON: (
        st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=3).map(json.dumps),
        same,
    ),
}


def digits(number: int) -> tuple[int, ...]:
    return tuple(map(int, str(abs(number))))


@st.composite
def rows(draw: st.DrawFn, table: Table) -> list[dict[str, Any]]:
    """Rows of a table, as the warehouse has them."""
    row = {
        column.name: VALUES[column.type][0]
        if column.not_null
        else st.none() | VALUES[column.type][0]
        for column in table.columns
    }
    return draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=5))


def written(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """The same row as Debezium has it, and a column that the warehouse does not know."""
    fields = {
        column.name: None if row[column.name] is None else VALUES[column.type][1](row[column.name])
        for column in table.columns
    }
    return {"colour": "red", **fields}


def relation_of(raw: bytes) -> Relation:
    event = EventReader().read(raw)
    assert isinstance(event, Event)
    assert event.relation is not None
    return event.relation


def columns_in(table: Table, relation: Relation) -> list[tuple[Column, int]]:
    at = {column.name: index for index, column in enumerate(relation.columns)}
    return [(column, at[column.name]) for column in table.columns]


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, float):
        return isinstance(other, float) and (
            (math.isnan(one) and math.isnan(other))
            or (one == other and math.copysign(1, one) == math.copysign(1, other))
        )
    return bool(one == other)


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data())
def test_rows_come_back_whole(name: str, data: st.DataObject) -> None:
    table = TABLES[name]
    drawn = data.draw(rows(table))
    payloads = [change(name, "c", after=written(table, row)) for row in drawn]
    has_schema = data.draw(st.booleans())
    raws = [with_schema(each, table) if has_schema else encoded(each) for each in payloads]
    relation = relation_of(raws[0])
    columns = columns_in(table, relation)
    came = CODEC.insert_table(raws, relation, columns)
    for row, back in zip(drawn, came.to_pylist(), strict=True):
        assert all(alike(row[key], back[key]) for key in row), (row, back)
    # The way of single rows leads to the same.
    singles = [CODEC.insert(raw, relation) for raw in raws]
    assert came.equals(
        table_from(
            {
                column.name: (column.type, [single[at] for single in singles])
                for column, at in columns
            },
            CODEC.to_arrow,
        )
    ) or any(isinstance(value, float) for row in drawn for value in row.values())
    for single in singles:
        hash(tuple(single))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PATHS = [
    (),
    ("op",),
    ("source",),
    ("source", "lsn"),
    ("source", "sequence"),
    ("source", "table"),
    ("source", "txId"),
    ("source", "snapshot"),
    ("transaction",),
    ("transaction", "total_order"),
    ("before",),
    ("after",),
    ("after", "key"),
]


@given(path=st.sampled_from(PATHS), value=JSON_VALUES, schema=st.none() | JSON_VALUES)
def test_an_event_that_is_damaged_is_read_or_refused(
    path: Sequence[str], value: Any, schema: Any
) -> None:
    payload: Any = change("entities", "u", before=ENTITY, after=dict(ENTITY))
    if path:
        *way, last = path
        inner = payload
        for step in way:
            inner = inner[step]
        inner[last] = value
    else:
        payload = value
    raw = json.dumps(payload if schema is None else {"schema": schema, "payload": payload}).encode()
    reader, relation = EventReader(), relation_of(encoded(change("entities", "c", after=ENTITY)))
    for read in (
        lambda: reader.read(raw),
        lambda: CODEC.update(raw, relation),
        lambda: CODEC.insert(raw, relation),
        lambda: CODEC.delete(raw, relation),
        lambda: CODEC.insert_table([raw], relation, columns_in(ENTITIES, relation)),
    ):
        with suppress(MessageError, FieldError):
            read()


@given(st.binary(max_size=30))
def test_bytes_that_are_no_event_are_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        EventReader().read(raw)


@given(column_type=st.sampled_from(ColumnType), value=JSON_VALUES)
def test_any_json_value_becomes_a_column_or_is_refused(column_type: ColumnType, value: Any) -> None:
    try:
        column = to_arrow(column_type, [value, None])
    except FieldError:
        return
    assert len(column) == 2
    assert column.null_count == 2 - (value is not None)


def test_an_event_says_where_it_stands() -> None:
    reader = EventReader()
    raw = encoded(change("entities", "d", before=ENTITY, previous_commit=28_740_784, order=6))
    event = reader.read(raw)
    assert isinstance(event, Event)
    assert (event.kind, event.snapshot, event.order) == (ChangeKind.DELETE, None, 6)
    assert (event.lsn, event.previous_commit) == (Lsn(28_736_432), Lsn(28_740_784))
    assert event.relation is not None
    assert [column.name for column in event.relation.columns] == list(ENTITY)
    again = reader.read(raw)
    assert isinstance(again, Event)
    assert again.relation is event.relation
    row = reader.read(encoded(change("entities", "r", after=ENTITY, order=None, snapshot="first")))
    assert isinstance(row, Event)
    assert (row.kind, row.snapshot, row.order) == (ChangeKind.INSERT, "first", None)
    message = reader.read(encoded({**change("", "m"), "message": {"prefix": "x"}}))
    assert isinstance(message, Event)
    assert (message.kind, message.relation, message.order) == (None, None, 1)
    assert reader.read(HEARTBEAT) is None
    assert reader.read(boundary("BEGIN", "870", 5)) == Boundary("870", Lsn(5), None)
    assert reader.read(boundary("END", "870", 9, 2)) == Boundary("870", Lsn(9), 2)


@pytest.mark.parametrize(
    "payload",
    [
        {"op": "t", **{k: v for k, v in change("entities", "t").items() if k != "op"}},
        {"status": "HALF", "id": "1:2", "event_count": 1},
        {"before": None},
        {},
    ],
)
def test_what_was_not_asked_for_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        EventReader().read(encoded(payload))


def test_a_schema_tells_the_types_that_it_can_tell() -> None:
    payload = change("entity_values_ts", "c", after={c.name: None for c in HISTORY.columns})
    oids = {c.name: c.type_oid for c in relation_of(with_schema(payload, HISTORY)).columns}
    of = {column.name: column.type.oid for column in HISTORY.columns}
    assert {name for name, oid in oids.items() if oid is None} == {"value_decimal", "value_text"}
    assert all(oid in (None, of[name]) for name, oid in oids.items())
    plain = relation_of(encoded(payload))
    assert {column.type_oid for column in plain.columns} == {None}


def test_an_update_leaves_out_what_it_did_not_touch() -> None:
    before = {**ENTITY, "key": UNAVAILABLE}
    after = {**ENTITY, "key": UNAVAILABLE, "tags": [UNAVAILABLE], "note": None}
    raw = encoded(change("entities", "u", before=before, after=after))
    relation = relation_of(raw)
    with pytest.raises(MessageError, match="without its column 'tags'"):
        CODEC.update(raw, relation)
    raw = encoded(change("entities", "u", after=after))
    old, new = CODEC.update(raw, relation)
    assert old is None
    assert new == [2, 77, UNCHANGED, ENTITY["created_at"], UNCHANGED, None]
    # In rows that are new or gone nothing is left out: there it is a text like any other.
    raw = encoded(change("entities", "c", after=after))
    assert CODEC.insert(raw, relation)[2] == UNAVAILABLE
    raw = encoded(change("entities", "d", before=after))
    assert CODEC.delete(raw, relation)[2] == UNAVAILABLE


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.datetimes(), st.integers(-18 * 60, 18 * 60))
def test_times_are_read_in_any_zone(moment: datetime, offset: int) -> None:
    sign, (hours, minutes) = "-" if offset < 0 else "+", divmod(abs(offset), 60)
    text = f"{zoned(moment)[:-1]}{sign}{hours:02}:{minutes:02}"
    expected = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    assert microseconds(text) == expected - offset * 60_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-4712-01-01T00:00:00.000000Z", -210_863_520_000_000_000),  # 4713 BC, Postgres' first.
        ("0000-02-29T00:00:00Z", -62_162_121_600_000_000),
        ("+294246-12-31T23:59:59.999999Z", 9_223_371_244_799_999_999),
        ("2026-01-01T00:00:00.1Z", 1_767_225_600_100_000),
    ],
)
def test_times_of_any_year(text: str, expected: int) -> None:
    assert microseconds(text) == expected
    assert to_arrow(ColumnType.TIME, [text, None]).cast(pa.int64()).to_pylist() == [expected, None]


def test_times_without_a_zone_are_microseconds() -> None:
    assert to_arrow(ColumnType.TIME, [1_000_001]).cast(pa.int64()).to_pylist() == [1_000_001]


@pytest.mark.parametrize(
    ("column_type", "value"),
    [
        (ColumnType.BOOL, 1),
        (ColumnType.INT2, 2**15),
        (ColumnType.INT4, True),
        (ColumnType.INT8, 2**63),
        (ColumnType.INT8, 1.0),
        (ColumnType.DOUBLE, "nan"),
        (ColumnType.DOUBLE, False),
        (ColumnType.DECIMAL, 1),
        (ColumnType.DECIMAL, "NAN"),
        (ColumnType.DECIMAL, "Infinity"),
        (ColumnType.DECIMAL, "AeJA"),
        (ColumnType.DECIMAL, "0.0000000000000000001"),
        (ColumnType.DECIMAL, "100000000000000000000"),
        (ColumnType.NUMERIC_TEXT, "NAN"),
        (ColumnType.TEXT, 5),
        (ColumnType.TEXT_ARRAY, "a"),
        (ColumnType.TEXT_ARRAY, [["a"]]),
        (ColumnType.TIME, "infinity"),
        (ColumnType.TIME, "2026-02-30T00:00:00Z"),
        (ColumnType.TIME, "2026-02-03"),
        (ColumnType.TIME, "2026-02-03T04:05:06.1234567Z"),
        (ColumnType.TIME, "+294276-12-31T00:00:00Z"),
        (ColumnType.TIME, 2**63),
        (ColumnType.JSON, {"a": 1}),
    ],
)
def test_what_the_warehouse_cannot_hold_is_refused(column_type: ColumnType, value: Any) -> None:
    with pytest.raises(FieldError, match=r"^x: no "):
        table_from({"x": (column_type, [value])}, to_arrow)
