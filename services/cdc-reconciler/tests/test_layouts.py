"""Rows decoded by layout are the rows decoded field by field."""

import struct
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cdc_reconciler.changes import MessageError
from atlas_cdc_reconciler.columns import FieldError, table_from
from atlas_cdc_reconciler.source import layouts, pgoutput
from atlas_cdc_reconciler.tables import HISTORY, Column, ColumnType

COLUMNS: list[tuple[Column, int]] = [(column, at) for at, column in enumerate(HISTORY.columns)]
COUNT = len(COLUMNS)
_NUMERICS = (
    bytes.fromhex("0000000000000000"),
    bytes.fromhex("0002000000000002000c1388"),
    bytes.fromhex("0002000040000002000c1388"),
)
_FIELDS = {
    ColumnType.BOOL: st.sampled_from([b"\0", b"\1"]),
    ColumnType.INT2: st.binary(min_size=2, max_size=2),
    ColumnType.INT4: st.binary(min_size=4, max_size=4),
    ColumnType.INT8: st.binary(min_size=8, max_size=8),
    ColumnType.DOUBLE: st.binary(min_size=8, max_size=8),
    ColumnType.TIME: st.integers(-(10**16), 10**17).map(lambda us: struct.pack(">q", us)),
    ColumnType.DECIMAL: st.sampled_from(_NUMERICS),
    ColumnType.TEXT: st.text(max_size=3).map(str.encode),
    ColumnType.JSON: st.text(max_size=2).map(lambda text: b"\1" + text.encode()),
}
ROWS = st.lists(
    st.tuples(
        *(
            _FIELDS[column.type] if column.not_null else st.none() | _FIELDS[column.type]
            for column, _ in COLUMNS
        )
    ),
    min_size=1,
    max_size=4,
)


def insert(fields: Sequence[bytes | None]) -> bytes:
    body = b"".join(
        b"n" if field is None else b"b" + struct.pack(">I", len(field)) + field for field in fields
    )
    return b"I\0\0\0\7N" + struct.pack(">H", len(fields)) + body


def one_by_one(raws: Sequence[bytes]) -> pa.Table:
    fields = pgoutput.insert_columns(raws, COUNT)
    return table_from({column.name: (column.type, fields[at]) for column, at in COLUMNS})


def sorted_bits(rows: pa.Table) -> list[str]:
    """Doubles by their bits, so that a NaN equals itself and zeros differ."""
    at = rows.column_names.index("value_double")
    bits = [chunk.view(pa.int64()) for chunk in rows["value_double"].chunks]
    return sorted(map(str, rows.set_column(at, "value_double", bits).to_pylist()))


@settings(deadline=None, max_examples=100)
@given(ROWS, st.integers(1, 60), st.permutations(range(COUNT)))
def test_the_same_rows_as_field_by_field(
    rows: list[tuple[bytes | None, ...]], times: int, order: list[int]
) -> None:
    raws = [insert(row) for _ in range(times) for row in rows]
    expected = one_by_one(raws)
    found = pgoutput.insert_table(raws, COUNT, COLUMNS)
    assert found.schema == expected.schema
    assert sorted_bits(found) == sorted_bits(expected)
    # Columns lie wherever the source has them.
    moved = [insert([row[at] for at in order]) for _ in range(times) for row in rows]
    places = [(column, order.index(at)) for column, at in COLUMNS]
    assert sorted_bits(pgoutput.insert_table(moved, COUNT, places)) == sorted_bits(expected)


ROW: list[bytes | None] = [
    b"\0\0\0\1", b"\0\0\0\2", b"\0" * 8, b"\0" * 8, b"\0" * 8, None, b"?\xf0" + b"\0" * 6,
    None, b"\0\0", None, None, None, None,
]  # fmt: skip
TEXT = [*ROW[:6], None, *ROW[7:11], b"on", None]
JSON = [*ROW[:6], None, *ROW[7:12], b"\1{}"]


def test_most_rows_of_a_batch_are_decoded_together() -> None:
    together, rest = layouts.split([insert(ROW), insert(TEXT), insert(JSON)] * 100, COUNT)
    assert [len(rows) for _, rows in together] == [100, 100, 100]
    assert rest == []


def test_texts_of_many_lengths_are_all_there() -> None:
    raws = [insert([*TEXT[:11], b"x" * (number % 900), None]) for number in range(30_000)]
    lengths = pgoutput.insert_table(raws, COUNT, COLUMNS)["value_text"].to_pylist()
    assert sorted(map(len, lengths)) == sorted(number % 900 for number in range(30_000))


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ([*TEXT[:11], b"\xc3\x28", None], "value_text: no TEXT"),
        ([*JSON[:12], b"\2{}"], "value_json: .* jsonb"),
        ([*ROW[:3], b"\x7f" + b"\xff" * 7, *ROW[4:]], "event_time: .* a time beyond"),
        ([*ROW[:8], b"\0\0\0", *ROW[9:]], "quality: .* fields are not 2 bytes wide"),
    ],
)
def test_a_bad_value_is_named(bad: list[bytes | None], problem: str) -> None:
    with pytest.raises(FieldError, match=problem):
        pgoutput.insert_table([insert(bad)] * 50, COUNT, COLUMNS)
    with pytest.raises(FieldError):
        pgoutput.insert_table([insert(bad)] + [insert(ROW)] * 50, COUNT, COLUMNS)


@pytest.mark.parametrize(
    "raw",
    [
        insert(ROW)[:-1],
        insert(ROW) + b"n",
        insert(ROW[:-1]),
        insert(ROW).replace(b"n", b"t", 1),
        insert(ROW)[:9],
    ],
)
def test_a_bad_message_is_refused(raw: bytes) -> None:
    for raws in ([raw] * 50, [insert(ROW)] * 50 + [raw]):
        with pytest.raises(MessageError):
            pgoutput.insert_table(raws, COUNT, COLUMNS)


def test_no_rows() -> None:
    assert pgoutput.insert_table([], COUNT, COLUMNS).num_rows == 0
