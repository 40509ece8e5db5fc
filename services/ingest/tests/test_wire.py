"""Messages read field by field: what is found in them, and what they are left to others for."""

import contextlib

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_common.values import DataType
from atlas_ingest import wire
from atlas_ingest.arrow import ArrowColumns, Defaults
from atlas_ingest.arrow.columns import MISSING, TYPES
from atlas_ingest.wire import fields, varints
from atlas_ingest.wire.splitting import split

DEFAULTS = Defaults("default", 77)
KEY, NAME = b"\x0a\x01e", b"\x12\x01a"
GOOD = KEY + NAME + b"\x58\x01"


def message(*points: bytes) -> bytes:
    """A WriteRequest of these bytes."""
    return b"".join(b"\x12" + varint(len(point)) + point for point in points)


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    groups = []
    while True:
        number, group = number >> 7, number & 0x7F
        groups.append(group | 0x80 if number else group)
        if not number:
            return bytes(groups)


def read(*points: value_pb2.Point) -> ArrowColumns:
    columns = wire.read(pb.WriteRequest(points=points).SerializeToString(), DEFAULTS)
    assert columns is not None
    return columns


def test_every_field_is_found() -> None:
    texts = {"decimal_value": "1.50", "text_value": "ü" * 100, "json_value": "{}"}
    points = [
        value_pb2.Point(
            entity_key="e1", attribute="a", event_time_us=5, quality=7, bool_value=True
        ),
        value_pb2.Point(entity_key="e" * 300, attribute="b" * 128, int_value=-1),
        value_pb2.Point(attribute="a", event_time_us=-(2**63), quality=2**32 - 1, double_value=0.5),
        *(value_pb2.Point(attribute=name, **{name: text}) for name, text in texts.items()),  # type: ignore[arg-type]
        value_pb2.Point(attribute="a", time_value=Timestamp(seconds=-(2**63), nanos=-(2**31))),
        value_pb2.Point(event_time_us=2**63 - 1),
    ]
    columns = read(*points)
    points_again = columns.points(np.arange(len(points)))
    assert points_again.entity_keys == ["e1", "e" * 300, *["default"] * 6]
    assert points_again.attributes == ["a", "b" * 128, "a", *texts, "a", ""]
    assert points_again.event_times_us == [5, 77, -(2**63), 77, 77, 77, 77, 2**63 - 1]
    assert points_again.qualities == [7, 0, 2**32 - 1, 0, 0, 0, 0, 0]
    assert points_again.values == [True, -1, 0.5, *texts.values(), (-(2**63), -(2**31)), None]
    assert points_again.types == [
        DataType.BOOL,
        DataType.INT,
        DataType.DOUBLE,
        *(DataType.DECIMAL, DataType.TEXT, DataType.JSON, DataType.TIME),
        None,
    ]
    assert columns.values[DataType.TEXT].text_bytes == 200  # type: ignore[attr-defined]


def test_what_is_given_is_told_from_what_is_not() -> None:
    columns = read(
        value_pb2.Point(entity_key="e", attribute="a", event_time_us=0, int_value=0),
        value_pb2.Point(entity_key="e", attribute="a", double_value=0.0),
        value_pb2.Point(entity_key="e", attribute="a", bool_value=False),
        value_pb2.Point(entity_key="e", attribute="a", text_value=""),
        value_pb2.Point(entity_key="e", attribute="a", time_value=Timestamp()),
        value_pb2.Point(entity_key="e", attribute="a"),
    )
    assert columns.event_times_us.tolist() == [0, 77, 77, 77, 77, 77]
    given = (DataType.INT, DataType.DOUBLE, DataType.BOOL, DataType.TEXT, DataType.TIME)
    assert columns.types.tolist() == [*map(TYPES.index, given), MISSING]
    values = columns.points(np.arange(6)).values
    assert values == [0, 0.0, False, "", (0, 0), None]


@pytest.mark.parametrize("data_type", DataType)
def test_points_of_one_type_alone_are_read(data_type: DataType) -> None:
    values = {"bool": True, "int": 300, "double": 1.5, "time": Timestamp(seconds=9, nanos=8)}
    value = values.get(data_type, "1")
    point = value_pb2.Point(entity_key="e", attribute="a", **{f"{data_type}_value": value})  # type: ignore[arg-type]
    columns = read(*[point] * 3)
    assert list(columns.values) == [data_type]
    assert columns.points(np.arange(3)).values == [(9, 8) if data_type == "time" else value] * 3


def test_a_point_without_a_value_before_another_is_read() -> None:
    without = value_pb2.Point(entity_key="e", attribute="a")
    columns = read(without, value_pb2.Point(attribute="a", bool_value=True), without)
    assert columns.types.tolist() == [MISSING, TYPES.index(DataType.BOOL), MISSING]


@pytest.mark.parametrize(
    "point",
    [
        GOOD + b"\x28\x01",  # Field 5, behind all others.
        b"\x28\x01" + GOOD,
        KEY + NAME + b"\x28\x01\x58\x01",
        KEY + NAME + b"\x82\x02\x01x",  # Field 32: its tag begins like that of json_value.
        KEY + NAME + b"\x8a\x01\x01x",  # Field 17.
        NAME + KEY + b"\x58\x01",
        KEY + KEY + NAME + b"\x58\x01",
        KEY + NAME + b"\x18\x01\x18\x01\x58\x01",
        GOOD + b"\x58\x02",
        GOOD + b"\x50\x01",
        KEY + NAME + b"\x5a\x01\x01",  # int_value as bytes.
        KEY + b"\x10\x01",  # attribute as a varint.
        KEY + NAME + b"\x5b\x5c",  # A group.
        KEY + NAME + b"\x7a\x02\x18\x01",  # A Timestamp with a field 3.
        KEY + NAME + b"\x7a\x04\x10\x01\x08\x01",  # Nanoseconds before seconds.
        KEY + NAME + b"\x58" + b"\x80" * 9 + b"\x02",  # 65 bits.
        KEY + NAME + b"\x58" + b"\x80" * 10 + b"\x01",
        KEY + NAME + b"\x58",  # From here on nothing that a parser would let pass.
        KEY + NAME + b"\x58\x80",
        KEY + NAME + b"\x61" + bytes(7),
        KEY + NAME + b"\x72\x05x",
        KEY + NAME + b"\x7a\x02\x08",
        b"\x0a" + b"\xff" * 9 + b"\x01",
        b"\x0a" + varint(2**63 - 5),
        b"\x0a" + varint(2**40),
        # A length below zero, that leads back to what reads like a text up to the end.
        b"\x0a\x02\x72\x0b\x12" + varint(2**64 - 13),
        b"\x0a",
        b"\0",
        GOOD + b"\0",
    ],
)
def test_what_our_own_serializer_does_not_write_is_left_to_others(point: bytes) -> None:
    document = KEY + NAME + b"\x82\x01\x01x"
    for points in ([point], [GOOD, point], [point, GOOD], [document, point, document]):
        assert wire.read(message(*points), DEFAULTS) is None


def test_a_point_that_ends_where_the_next_one_goes_on_is_not_taken_for_one() -> None:
    assert wire.read(message(KEY + NAME, b"\x58\x01"), DEFAULTS) is None
    assert wire.read(message(KEY, NAME + b"\x58\x01"), DEFAULTS) is None
    assert wire.read(message(b"", GOOD), DEFAULTS) is None


def test_other_fields_of_the_message_do_not_matter() -> None:
    request = pb.WriteRequest(request_id="x" * 200, default_entity_key="y", partial_success=True)
    assert wire.read(request.SerializeToString(), DEFAULTS) is None
    columns = wire.read(request.SerializeToString() + message(GOOD) + b"\xfa\x01\x01x", DEFAULTS)
    assert columns is not None
    assert len(columns) == 1


def test_all_fields_of_a_point_are_known() -> None:
    names = {field.name for field in value_pb2.Point.DESCRIPTOR.fields}
    assert names == {
        *("entity_key", "attribute", "event_time_us", "quality"),
        *(f"{data_type}_value" for data_type in DataType),
    }


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), min_size=1), st.booleans())
def test_varints_are_what_they_say(numbers: list[int], padded: bool) -> None:
    encoded = [varint(number) for number in numbers]
    if padded:  # With zeros that need not be there.
        encoded = [
            bytes([*(byte | 0x80 for byte in each), 0]) if len(each) < 10 else each
            for each in encoded
        ]
    starts = np.cumsum([0, *map(len, encoded)])
    data = np.frombuffer(b"".join(encoded) + bytes(varints.MARGIN_BYTES), dtype=np.uint8)
    found, ends = varints.decode(data, varints.words_of(data), starts[:-1])
    assert found.view(np.uint64).tolist() == numbers
    assert ends.tolist() == starts[1:].tolist()


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_reading_ends_whatever_the_bytes_are(points: list[bytes]) -> None:
    with contextlib.suppress(varints.NotCanonicalError):
        fields.read(split(message(*points)))


def test_points_are_split_where_they_begin() -> None:
    pieces = split(message(b"abc", b"", b"x" * 200))
    assert pieces.count == 3
    assert pieces.bounds.tolist() == [0, 3, 3, 203]
    data = bytes(pieces.data)
    assert data == b"abc" + b"x" * 200 + bytes(varints.MARGIN_BYTES)


def test_texts_are_where_they_are_said_to_be() -> None:
    pieces = split(message(KEY + NAME + b"\x72\x02hi", KEY + NAME + b"\x58\x01"))
    found = fields.read(pieces)
    at = slice(int(found.texts.starts[0]), int(found.texts.ends[0]))
    assert bytes(pieces.data)[at] == b"hi"
    assert {name: rows.tolist() for name, rows in found.rows.items()} == {
        DataType.INT: [1],
        DataType.TEXT: [0],
    }
