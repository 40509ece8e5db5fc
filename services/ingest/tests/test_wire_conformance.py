"""Points of a message read one by one and by columns are refused and stored alike, to the byte."""

from typing import Any
from unittest.mock import patch

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_ingest import convert, wire
from atlas_ingest.arrow import ArrowColumns, Defaults
from atlas_ingest.columns import Columns
from atlas_ingest.row_points import RowPoints
from atlas_ingest.rules import TIME_SECONDS_MAX, TIME_SECONDS_MIN

from .arrow_streams import NOW_US, RULES
from .conformance import ATTRIBUTES, EVENT_TIMES, KEYS, PLAIN_DECIMALS, VALUES, same

SECONDS = st.one_of(
    st.integers(-10, 2_000_000_000),
    st.sampled_from([TIME_SECONDS_MIN, TIME_SECONDS_MAX, -(2**63), 2**63 - 1]),
    st.sampled_from([TIME_SECONDS_MIN - 1, TIME_SECONDS_MAX + 1, 0]),
)
NANOS = st.one_of(
    st.integers(0, 999_999_999), st.sampled_from([0, -1, 1_000_000_000, -(2**31), 2**31 - 1])
)
MESSAGE_VALUES: dict[str, st.SearchStrategy[Any]] = {
    **VALUES,
    "time_value": st.builds(Timestamp, seconds=SECONDS, nanos=NANOS),
}
TAME = {**MESSAGE_VALUES, "decimal_value": PLAIN_DECIMALS}


@st.composite
def messages(draw: st.DrawFn, values: dict[str, st.SearchStrategy[Any]]) -> value_pb2.Point:
    """A point that is bad in few ways, if any: else nothing but the first is ever looked at."""
    attribute = draw(st.sampled_from(list(RULES)))
    name = f"{RULES[attribute].data_type}_value"
    fields: dict[str, Any] = {
        "entity_key": "pump-1",
        "attribute": attribute,
        "event_time_us": NOW_US,
        name: draw(values[name]),
    }
    for field, strategy in (
        ("entity_key", KEYS),
        ("attribute", ATTRIBUTES),
        ("event_time_us", EVENT_TIMES),
        ("quality", st.sampled_from([None, 0, 255, 256, 2**32 - 1])),
    ):
        if draw(st.integers(0, 5)) == 0:
            fields[field] = draw(strategy)
    if draw(st.integers(0, 9)) == 0:
        del fields[name]
        if draw(st.booleans()):
            name = draw(st.sampled_from(list(values)))
            fields[name] = draw(values[name])
    return value_pb2.Point(**fields)


@st.composite
def requests(draw: st.DrawFn) -> pb.WriteRequest | pb.WriteStreamBatch:
    values = draw(st.sampled_from([MESSAGE_VALUES, TAME]))
    points = draw(st.lists(messages(values), min_size=1, max_size=20))
    fields: dict[str, Any] = {
        "points": points * draw(st.sampled_from([1, 1, 1, 1, 60])),
        "default_entity_key": draw(st.sampled_from(["", "pump-1", "pump-9"])),
        "default_event_time_us": draw(st.sampled_from([None, 0, NOW_US - 1])),
    }
    if draw(st.booleans()):
        return pb.WriteRequest(**fields)
    return pb.WriteStreamBatch(**fields)


def by_columns(request: Any, default_key: str = "") -> Columns:
    """What a large request is read into."""
    with patch.object(wire, "POINTS_MIN", 1):
        return convert.columns_of(request, NOW_US, default_key)


@settings(deadline=None, max_examples=400)
@given(requests(), st.sampled_from(["", "pump-2"]), st.booleans())
def test_points_read_by_columns_are_refused_and_stored_like_points_one_by_one(
    request: Any, default_key: str, registers: bool
) -> None:
    one_by_one = convert.row_points(request, NOW_US, default_key)
    read = by_columns(request, default_key)
    # Only where a point has ended and the next begins with a value may one look like the other.
    keyless = any(not point.entity_key and not point.attribute for point in request.points)
    assert isinstance(read, ArrowColumns) or keyless
    same(one_by_one, read, registers)


@settings(deadline=None, max_examples=400)
@given(requests(), st.data())
def test_bytes_that_are_read_by_columns_say_what_the_parser_says(
    request: Any, data: st.DataObject
) -> None:
    written = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(written) - 1))
        written[at] = data.draw(
            st.one_of(st.integers(0, 255), st.sampled_from([0x0A, 0x12, 0x18, 0x50, 0x7A, 0x82]))
        )
    try:
        parsed = pb.WriteRequest.FromString(bytes(written))
    except DecodeError:
        return
    one_by_one = convert.row_points(parsed, NOW_US)
    defaults = Defaults(
        parsed.default_entity_key,
        parsed.default_event_time_us if parsed.HasField("default_event_time_us") else NOW_US,
    )
    read = wire.read(bytes(written), defaults)
    if read is not None:
        same(one_by_one, read, registers=False)


def test_the_first_hundred_errors_are_told() -> None:
    points = [
        value_pb2.Point(entity_key="e", attribute="int", int_value=1, quality=index % 2 * 256)
        for index in range(400)
    ]
    request = pb.WriteRequest(points=points)
    same(convert.row_points(request, NOW_US), by_columns(request), registers=False)


def test_every_bit_of_a_double_is_kept() -> None:
    patterns = (0x7FF0_0000_0000_0001, 0xFFF8_0000_DEAD_BEEF, 1 << 63, 1, 2**64 - 1)
    points = [b"\x12\x06double\x61" + bits.to_bytes(8, "little") for bits in patterns]
    request = pb.WriteRequest.FromString(
        b"\x1a\x01e" + b"".join(b"\x12" + bytes([len(point)]) + point for point in points)
    )
    read = by_columns(request)
    assert isinstance(read, ArrowColumns)
    same(convert.row_points(request, NOW_US), read, registers=False)


def test_a_value_may_be_a_name_that_stands_before_it() -> None:
    request = pb.WriteRequest(
        points=[
            value_pb2.Point(entity_key="text", attribute="text", text_value="text"),
            value_pb2.Point(entity_key="json", attribute="json", json_value='"json"'),
            value_pb2.Point(entity_key='"json"', attribute="json", json_value='"json"'),
            value_pb2.Point(entity_key="state", attribute="state", text_value="running"),
        ]
    )
    read = by_columns(request)
    assert isinstance(read, ArrowColumns)
    same(convert.row_points(request, NOW_US), read, registers=False)


def test_large_requests_are_read_by_columns_and_small_ones_are_not() -> None:
    point = value_pb2.Point(entity_key="e", attribute="int", int_value=1)
    large = pb.WriteStreamBatch(points=[point] * wire.POINTS_MIN)
    assert isinstance(convert.columns_of(large, NOW_US), ArrowColumns)
    del large.points[0]
    assert isinstance(convert.columns_of(large, NOW_US), RowPoints)
