"""Rows in the binary form of COPY. That Postgres reads them so is an integration test."""

import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.numeric import NumericBinaryLoader

from atlas_common.values import DataType
from atlas_ingest import encode
from atlas_ingest.points import DeadLetter, ProducerSequence, SourceOffset

_VALUES: dict[DataType, Any] = {
    DataType.BOOL: True,
    DataType.INT: -5,
    DataType.DOUBLE: 1.5,
    DataType.DECIMAL: Decimal("12.5"),
    DataType.TEXT: "grün",
    DataType.TIME: 946_684_800_000_001,
    DataType.JSON: '{"a": 1}',
}


def fields_of(rows: bytes) -> list[list[bytes | None]]:
    """Take rows apart by the format's own rules."""
    result = []
    at = 0
    while at < len(rows):
        (count,) = struct.unpack_from(">h", rows, at)
        at += 2
        row: list[bytes | None] = []
        for _ in range(count):
            (size,) = struct.unpack_from(">i", rows, at)
            at += 4
            row.append(None if size < 0 else rows[at : at + size])
            at += max(0, size)
        result.append(row)
    return result


@settings(derandomize=True)
@given(
    st.integers(-(10**38) + 1, 10**38 - 1),
    st.integers(-18, 0),
    st.integers(0, 10),
)
def test_numeric_is_read_back_by_psycopg(digits: int, exponent: int, shift: int) -> None:
    value = Decimal(digits).scaleb(exponent + shift).normalize()
    loaded = NumericBinaryLoader(1700).load(encode.numeric(value))
    assert loaded == value


@pytest.mark.parametrize("text", ["0", "-0", "1E+19", "1e-18", "-99999999999999999999.5"])
def test_numeric_at_the_edges(text: str) -> None:
    assert NumericBinaryLoader(1700).load(encode.numeric(Decimal(text))) == Decimal(text)


@pytest.mark.parametrize("data_type", list(DataType))
def test_a_row_has_its_keys_and_one_value(data_type: DataType) -> None:
    pack = encode.row_packer(data_type, 11, 2)
    value = _VALUES[data_type]
    first, second = fields_of(pack(7, 3, 0, 0, value) + pack(8, 4, 1, 255, value))
    assert first[:6] == [
        struct.pack(">i", 11),
        struct.pack(">i", 2),
        struct.pack(">q", 7),
        struct.pack(">i", 3),
        struct.pack(">q", -946_684_800_000_000),
        struct.pack(">h", 0),
    ]
    assert second[2:6] == [
        struct.pack(">q", 8),
        struct.pack(">i", 4),
        struct.pack(">q", -946_684_800_000_000 + 1),
        struct.pack(">h", 255),
    ]
    filled = [
        column
        for column, field in zip(encode.POINT_COLUMNS[6:], first[6:], strict=True)
        if field is not None
    ]
    assert filled == [f"value_{data_type}"]


def test_values_in_their_binary_forms() -> None:
    expected = {
        DataType.BOOL: b"\x01",
        DataType.INT: struct.pack(">q", -5),
        DataType.DOUBLE: struct.pack(">d", 1.5),
        DataType.TEXT: "grün".encode(),
        DataType.TIME: struct.pack(">q", 1),
        DataType.JSON: b'\x01{"a": 1}',
    }
    for data_type, binary in expected.items():
        (row,) = fields_of(encode.row_packer(data_type, 1, 1)(1, 1, 0, 0, _VALUES[data_type]))
        assert [field for field in row[6:] if field is not None] == [binary]


def test_doubles_keep_every_bit() -> None:
    values = [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308]
    pack = encode.row_packer(DataType.DOUBLE, 1, 1)
    rows = b"".join(pack(1, 1, 0, 0, value) for value in values)
    stored = [next(f for f in row[6:] if f is not None) for row in fields_of(rows)]
    assert stored == [struct.pack(">d", value) for value in values]


def test_a_ledger_row() -> None:
    known_by = encode.BatchIdentity("r-ü", b"hash", b"")
    (row,) = fields_of(encode.batch_row(5, 2, known_by, 9, None))
    keys = [struct.pack(">i", 5), struct.pack(">i", 2), "r-ü".encode(), b"hash", b""]
    assert row == [*keys, struct.pack(">q", 9), *[None] * 10]


def test_a_ledger_row_of_a_producer() -> None:
    known_by = encode.BatchIdentity(producer=ProducerSequence("line-7", 3))
    (row,) = fields_of(encode.batch_row(5, 2, known_by, 9, None))
    assert row[2] is None
    assert row[6:] == [b"line-7", struct.pack(">q", 3), *[None] * 8]


def test_a_ledger_row_of_a_message_with_its_dead_letter() -> None:
    known_by = encode.BatchIdentity(source=SourceOffset("points", 4, 2**40, 2**40 - 3))
    dead = DeadLetter("kafka", b"\x00\xff", "INVALID_FIELD", "no")
    (row,) = fields_of(encode.batch_row(5, 2, known_by, 9, dead))
    assert row[8:11] == [b"points", struct.pack(">i", 4), struct.pack(">q", 2**40)]
    assert row[11] == struct.pack(">q", 2**40 - 3)
    assert row[12:] == [b"kafka", b"INVALID_FIELD", b"no", b"\x00\xff"]
