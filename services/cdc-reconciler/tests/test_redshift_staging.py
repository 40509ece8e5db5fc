"""Rows as they are staged for Redshift, and what it cannot hold."""

import base64
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.sink.redshift import letters
from atlas_cdc_reconciler.sink.redshift.dialect import TEXT_OCTETS_MAX
from atlas_cdc_reconciler.sink.redshift.letters import Buried
from atlas_cdc_reconciler.sink.redshift.staging import staged_table, unfit
from atlas_cdc_reconciler.tables import Column, ColumnType

TEXT = Column("x", ColumnType.TEXT)


def staged(column_type: ColumnType, arrow_type: pa.DataType, values: list[Any]) -> dict[str, Any]:
    rows = pa.table({"x": pa.array(values, arrow_type)})
    columns = [Column("x", column_type, not_null=False)]
    made: dict[str, Any] = staged_table(columns, rows, range(len(values))).to_pydict()
    assert made.pop("change_no") == list(range(len(values)))
    return made


def test_times_become_microseconds() -> None:
    moments = [datetime(1, 1, 1, tzinfo=UTC), None, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)]
    assert staged(ColumnType.TIME, pa.timestamp("us", "UTC"), moments) == {
        "x": [-62_135_596_800_000_000, None, 1_767_323_045_000_006]
    }


def test_the_bits_of_a_double_go_along() -> None:
    odd_nan = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_BEEF))[0]
    made = staged(ColumnType.DOUBLE, pa.float64(), [0.0, -0.0, None, 5e-324, odd_nan])
    assert made["x_bits"] == [0, -(2**63), None, 1, 0x7FF8_0000_0000_0000]
    assert made["x"][:4] == [0.0, -0.0, None, 5e-324]


def test_arrays_become_json() -> None:
    values = [["a", 'b"c'], [], None, ["ü", None]]
    assert staged(ColumnType.TEXT_ARRAY, pa.list_(pa.string()), values) == {
        "x": ['["a","b\\"c"]', "[]", None, '["ü",null]']
    }


def test_other_values_stay_as_they_are() -> None:
    decimals = [Decimal("99999999999999999999.999999999999999999"), None]
    assert staged(ColumnType.DECIMAL, pa.decimal128(38, 18), decimals) == {"x": decimals}


def test_chunks_are_joined() -> None:
    piece = pa.table({"x": ["a"]})
    made = staged_table([TEXT], pa.concat_tables([piece, piece]), [3, 4])
    assert made.to_pydict() == {"change_no": [3, 4], "x": ["a", "a"]}


@pytest.mark.parametrize("column_type", [ColumnType.TEXT, ColumnType.JSON, ColumnType.NUMERIC_TEXT])
def test_texts_are_measured_in_bytes(column_type: ColumnType) -> None:
    fits, over = "ü" * 32_767 + "x", "ü" * 32_768
    assert len(fits.encode()) == TEXT_OCTETS_MAX
    found = unfit([Column("x", column_type)], pa.table({"x": [fits, over, ""]}))
    assert found == {1: "x: 65536 bytes of text, and Redshift holds 65535"}


def test_an_array_is_measured_as_its_json() -> None:
    rows = pa.table({"x": [["y" * 65_532], ["y" * 65_531]]})
    assert list(unfit([Column("x", ColumnType.TEXT_ARRAY)], rows)) == [0]


@pytest.mark.parametrize("code_point", ["\ufdd0", "\ufdef", "\ufffe", "\uffff"])
def test_code_points_that_copy_refuses_are_found_before(code_point: str) -> None:
    rows = pa.table({"x": ["fine \ufffd", f"a{code_point}b", "🛰"]})
    assert unfit([TEXT], rows) == {
        1: "x: a code point that is no character, which Redshift refuses"
    }


def test_a_missing_value_is_found_where_there_has_to_be_one() -> None:
    rows = pa.table({"x": ["a", None], "y": pa.array([None, 1], pa.int64())})
    columns = [TEXT, Column("y", ColumnType.INT8, not_null=False)]
    assert unfit(columns, rows) == {1: "x: NULL, and there has to be a value"}


def letter(number: int, raw: bytes, reason: str = "why") -> Buried:
    fault = Fault(LetterClass.VALUE, reason)
    return Buried(number, 5, 6, "tenants", "INSERT", "pgoutput", "[]", fault, raw)


def test_a_letter_of_any_size_is_kept_in_parts() -> None:
    large = bytes(range(256)) * 40_000  # 10 MB.
    made = letters.parts_table([letter(0, b"small"), letter(1, large)]).to_pylist()
    assert max(len(part["raw_base64"]) for part in made) <= TEXT_OCTETS_MAX
    for number, raw in ((0, b"small"), (1, large)):
        parts = [part for part in made if part["change_no"] == number]
        assert [part["part"] for part in parts] == list(range(len(parts)))
        assert b"".join(base64.b64decode(part["raw_base64"]) for part in parts) == raw


def test_a_letter_says_what_is_needed_to_replay_it() -> None:
    (row,) = letters.letters_table([letter(3, b"raw", "ü" * 5_000)], 77).to_pylist()
    assert len(row["reason"].encode()) == 4_096
    assert (row["change_no"], row["log_offset"], row["commit_lsn"]) == (3, 5, 6)
    assert (row["letter_class"], row["codec"], row["raw_bytes"]) == ("VALUE", "pgoutput", 3)
    assert row["buried_us"] == 77
