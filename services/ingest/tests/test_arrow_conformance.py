"""The same points one by one and in columns are refused alike and stored alike, to the byte."""

from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_common.values import DataType
from atlas_ingest import arrow
from atlas_ingest.arrow.values import Decimals
from atlas_ingest.rules import TIME_SECONDS_MAX, TIME_SECONDS_MIN

from .arrow_streams import NOW_US, RULES, WINDOW, as_points, good, read, rows, stream
from .conformance import (
    ATTRIBUTES,
    EVENT_TIMES,
    KEYS,
    PLAIN_DECIMALS,
    UNPLAIN_DECIMALS,
    VALUES,
    same,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@st.composite
def point_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row that is bad in few ways, if any: else nothing but the first is ever looked at."""
    attribute = draw(st.sampled_from(list(RULES)))
    row = good(attribute=attribute)
    del row["double_value"]
    name = f"{RULES[attribute].data_type}_value"
    row[name] = draw(VALUES[name])
    for field, strategy in (
        ("entity_key", KEYS),
        ("attribute", ATTRIBUTES),
        ("event_time", EVENT_TIMES),
        ("quality", st.sampled_from([None, 0, 255, 256, 2**32 - 1])),
    ):
        if draw(st.integers(0, 5)) == 0:
            row[field] = draw(strategy)
    if draw(st.integers(0, 9)) == 0:
        del row[name]
        if draw(st.booleans()):
            name = draw(st.sampled_from(list(VALUES)))
            row[name] = draw(VALUES[name])
    return row


def text_types(draw: st.DrawFn) -> dict[str, Any]:
    kinds = [pa.string(), pa.large_string()]
    kinds += [pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string())]
    names = ("entity_key", "attribute", "decimal_value", "text_value", "json_value")
    return {name: draw(st.sampled_from(kinds)) for name in names}


@st.composite
def tables(draw: st.DrawFn) -> Any:
    points = draw(st.lists(point_rows(), min_size=1, max_size=20))
    if not any(name in row for row in points for name in VALUES):
        points.append(good())
    return rows(*points, types=text_types(draw))


@settings(deadline=None, max_examples=300)
@given(tables(), st.booleans(), st.integers(1, 20), st.sampled_from([None, "lz4", "zstd"]))
def test_points_in_columns_are_refused_and_stored_like_points_one_by_one(
    table: Any, registers: bool, batch_rows: int, compression: str | None
) -> None:
    batches = pa.Table.from_batches(table.to_batches(max_chunksize=batch_rows))
    same(as_points(table), read(batches, compression=compression), registers)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(PLAIN_DECIMALS, min_size=1) | st.lists(UNPLAIN_DECIMALS, min_size=1),
    st.sampled_from(["decimal", "price"]),
)
def test_decimals_that_are_parsed_as_a_column_are_what_they_say(
    texts: list[str], attribute: str
) -> None:
    table = rows(*(good(attribute=attribute, decimal_value=text) for text in texts))
    same(as_points(table), read(table), registers=False)


@pytest.mark.parametrize("text", ["6873071448200020414089", "99e30", "-6873071448200020414089.5"])
def test_digits_that_pyarrow_would_lose_are_refused(text: str) -> None:
    texts = (text, "0.000000000000000001")  # To have the first at this scale, it would overflow.
    table = rows(*(good(attribute="decimal", decimal_value=each) for each in texts))
    errors = read(table).check(RULES, WINDOW).rejections.errors
    assert [(error.index, error.reason) for error in errors] == [(0, "DECIMAL_INVALID")]


def test_most_decimals_are_parsed_as_a_column() -> None:
    long = ["9" * 20 + "." + "9" * 18, "1"]
    for texts in (["1.50", "-20", "0.000001", ".5", "5."], ["1." + "5" * 18], long):
        table = rows(*(good(attribute="decimal", decimal_value=text) for text in texts))
        assert isinstance(read(table).values[DataType.DECIMAL], Decimals)


def test_many_rows_are_stored_like_few() -> None:
    values: list[tuple[str, dict[str, Any]]] = []
    for number in range(1_200):
        values += [
            ("text", {"text_value": f"{number % 700}" * (number % 5)}),
            ("serial", {"text_value": f"AB{number}"}),
            ("json", {"json_value": f"[{number}]" if number % 9 else "["}),
            ("decimal", {"decimal_value": f"{number}.{number % 70}"}),
        ]
    table = rows(*(good(attribute=attribute, **value) for attribute, value in values))
    same(as_points(table), read(table), registers=False)


@settings(deadline=None, max_examples=200)
@given(st.data(), st.integers(0, 38), st.integers(1, 38))
def test_a_decimal128_is_what_its_text_is(data: st.DataObject, scale: int, precision: int) -> None:
    precision = max(precision, scale)
    most = 10**precision - 1
    numbers = data.draw(
        st.lists(
            st.one_of(
                st.integers(-most, most),
                st.integers(0, precision - 1).map(lambda power: 10**power),
                st.integers(0, precision - 1).map(lambda power: -(10**power) + (power > 0)),
                st.none(),
            ),
            min_size=1,
            max_size=30,
        )
    )
    context = Context(prec=100)
    points = [
        good(
            attribute=data.draw(st.sampled_from(["decimal", "price", "debt"])),
            decimal_value=None if n is None else Decimal(n).scaleb(-scale, context),
        )
        for n in numbers
    ]
    table = rows(*points, types={"decimal_value": pa.decimal128(precision, scale)})
    same(as_points(table), read(table), registers=False)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.sampled_from(["s", "ms", "ns"]))
def test_a_time_in_another_unit_is_the_same_time(numbers: list[int], unit: str) -> None:
    per_second = {"s": 1, "ms": 1_000, "ns": 1_000_000_000}[unit]
    table = rows(
        *(good(attribute="time", time_value=number) for number in numbers),
        types={"time_value": pa.timestamp(unit)},
    )
    points = as_points(rows(*(good(attribute="time", double_value=None) for _ in numbers)))
    for index, number in enumerate(numbers):
        seconds, parts = divmod(number, per_second)
        points.values[index] = seconds, parts * (1_000_000_000 // per_second)
        points.types[index] = RULES["time"].data_type
    same(points, read(table), registers=False)


def test_event_times_come_in_every_unit() -> None:
    moment = EPOCH + timedelta(microseconds=NOW_US)
    for unit in ("s", "ms", "us", "ns"):
        table = rows(good(event_time=moment), types={"event_time": pa.timestamp(unit, "UTC")})
        assert read(table).event_times_us.tolist() == [NOW_US]


def test_times_end_with_the_years_that_can_be_named() -> None:
    first, end = TIME_SECONDS_MIN * 1_000_000, (TIME_SECONDS_MAX + 1) * 1_000_000
    table = rows(
        *(good(attribute="time", time_value=each) for each in (first - 1, first, end - 1, end)),
        types={"time_value": pa.int64()},
    )
    errors = read(table).check(RULES, WINDOW).rejections.errors
    assert [(error.index, error.reason) for error in errors] == [
        (0, "VALUE_OUT_OF_RANGE"),
        (3, "VALUE_OUT_OF_RANGE"),
    ]


def test_a_key_that_is_null_or_empty_is_the_default_one() -> None:
    keys = pa.dictionary(pa.int8(), pa.string())
    for types in ({}, {"entity_key": keys}):
        table = rows(*(good(entity_key=key) for key in ("a", "", None, "b", "pump-0")), types=types)
        columns = arrow.read(stream(table), arrow.Defaults("pump-0", NOW_US))
        found = [columns.entity_keys.of(row) for row in range(5)]
        assert found == ["a", "pump-0", "pump-0", "b", "pump-0"]
        assert columns.check(RULES, WINDOW).entity_keys() == {"a", "b", "pump-0"}
