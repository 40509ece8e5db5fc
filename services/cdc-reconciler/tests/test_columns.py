"""Binary fields into Arrow: the bytes are what a PostgreSQL 18 server sent."""

import math
from decimal import Decimal

import pyarrow as pa
import pytest

from atlas_cdc_reconciler.columns import FieldError, numeric, table_from, to_arrow
from atlas_cdc_reconciler.tables import ColumnType


def test_fixed_width_numbers_and_nulls() -> None:
    ints = to_arrow(ColumnType.INT8, [b"\xff" * 8, None, b"\x7f" + b"\xff" * 7])
    assert ints.to_pylist() == [-1, None, 2**63 - 1]
    assert to_arrow(ColumnType.INT2, [b"\x80\x00", b"\x00\x07"]).to_pylist() == [-(2**15), 7]
    assert to_arrow(ColumnType.BOOL, [b"\x01", None, b"\x00"]).to_pylist() == [True, None, False]
    assert to_arrow(ColumnType.INT4, []).to_pylist() == []


def test_doubles_keep_their_bits() -> None:
    bits = ["7ff8000000000001", "8000000000000000", "7ff0000000000000", "0000000000000001"]
    doubles = to_arrow(ColumnType.DOUBLE, [bytes.fromhex(text) for text in bits])
    assert doubles.null_count == 0
    nan, negative_zero, infinity, least = doubles.to_pylist()
    assert math.isnan(nan)
    assert math.copysign(1, negative_zero) == -1
    assert (infinity, least) == (math.inf, 5e-324)
    assert doubles.buffers()[1].to_pybytes()[:8] == bytes.fromhex(bits[0])[::-1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("0000000000000000", "0"),
        ("0002000000000002000c1388", "12.5"),
        ("00020000400000020001 1388", "-1.5"),
        ("00010001000000000001", "10000"),
        ("0001fffb0000001200 64", "0.000000000000000001"),
    ],
)
def test_decimals_are_exact(field: str, value: str) -> None:
    raw = bytes.fromhex(field)
    assert numeric(raw) == Decimal(value)
    (decimal,) = to_arrow(ColumnType.DECIMAL, [raw]).to_pylist()
    assert decimal == Decimal(value)


def test_a_numeric_as_text_is_postgres_own() -> None:
    # 1.50, -0.00012, 0.00, and 40 digits: more than Python's decimals keep unless told.
    fields = [
        "0002000000000002 0001 1388",
        "0002ffff40000005 0001 07d0",
        "0000000000000002",
        "000a000900000000" + "270f" * 10,
    ]
    texts = to_arrow(ColumnType.NUMERIC_TEXT, [bytes.fromhex(field) for field in fields])
    assert texts.to_pylist() == ["1.50", "-0.00012", "0.00", "9" * 40]


def test_decimals_with_nulls_between() -> None:
    one = bytes.fromhex("00010000000000000001")
    decimals = to_arrow(ColumnType.DECIMAL, [None, one, None, one])
    assert decimals.to_pylist() == [None, Decimal(1), None, Decimal(1)]
    assert decimals.type == pa.decimal128(38, 18)


def test_times_count_from_1970() -> None:
    times = to_arrow(ColumnType.TIME, [bytes(8), None, (-1).to_bytes(8, "big", signed=True)])
    assert times.cast(pa.int64()).to_pylist() == [946_684_800_000_000, None, 946_684_799_999_999]


def test_texts_json_and_arrays() -> None:
    assert to_arrow(ColumnType.TEXT, ["ü".encode(), b"", None]).to_pylist() == ["ü", "", None]
    assert to_arrow(ColumnType.JSON, [b'\x01{"a": 1}', None]).to_pylist() == ['{"a": 1}', None]
    array = bytes.fromhex("00000001000000000000001900000002000000010000000161000000026262")
    empty = bytes.fromhex("000000000000000000000019")
    assert to_arrow(ColumnType.TEXT_ARRAY, [array, empty]).to_pylist() == [["a", "bb"], []]


@pytest.mark.parametrize(
    ("column_type", "field"),
    [
        (ColumnType.INT8, b"\x00" * 4),
        (ColumnType.DECIMAL, bytes.fromhex("00000000c0000000")),  # NaN
        (ColumnType.DECIMAL, bytes.fromhex("00000000d0000000")),  # Infinity
        (ColumnType.DECIMAL, bytes.fromhex("0001000500000000270f")),  # 9999 * 10**20
        (ColumnType.DECIMAL, bytes.fromhex("0001fffa000000130001")),  # 10**-20
        (ColumnType.DECIMAL, b"\x00\x05"),
        (ColumnType.TEXT, b"\xff\xfe"),
        (ColumnType.JSON, b"\x02{}"),
        (ColumnType.JSON, b""),
        (ColumnType.TIME, b"\x7f" + b"\xff" * 7),  # infinity
        (ColumnType.TIME, b"\x80" + b"\x00" * 7),  # -infinity
    ],
)
def test_what_the_warehouse_cannot_hold_is_refused(column_type: ColumnType, field: bytes) -> None:
    with pytest.raises(FieldError, match=r"^x: no "):
        table_from({"x": (column_type, [field])})
