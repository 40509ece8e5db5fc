"""The same points one by one and in columns are refused alike and stored alike, to the byte."""

from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_ingest import arrow
from atlas_ingest.columns import Checked, Columns
from atlas_ingest.rules import TIME_SECONDS_MAX, TIME_SECONDS_MIN

from .arrow_streams import NOW_US, RULES, WINDOW, as_points, good, read, rows, stream

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# One character of each kind: control characters, NUL, wide ones, what JSON and numbers are made of.
TEXTS = st.one_of(
    st.text(max_size=12),
    st.text('\x00\x1f\x7f\x9fü𝄞 a1.-eE+[]{}"\\,:', max_size=24),
    st.sampled_from(["x" * 65_536, "x" * 65_537, "ü" * 32_769, "running", "stopped", "AB1", "aaa"]),
)
DECIMALS = st.one_of(
    st.sampled_from(["1e20", "1e19", "-1e-18", "1e-19", "1e999999999", "NaN", "-inf", "+5", ".5"]),
    st.sampled_from(["5.", "-0", "12.50", "1_0", "٣", "-1.005", "-1.0049", "0.01", "0.0099"]),
    st.sampled_from(["10000", "99990000", "0.00010000", "1e4", "1" + "0" * 19, "0" * 64, "0" * 65]),
    st.just("9" * 20 + "." + "9" * 18),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.from_regex(r"-?[0-9]{0,22}(\.[0-9]{0,20})?", fullmatch=True),
    TEXTS,
)
JSON = st.one_of(
    st.sampled_from(
        ['{"a": 1}', "[1e400]", "[1e401]", '"\\u0000"', '"\\ud800"', "NaN", "nul", "null"]
    ),
    st.just("[" * 65 + "]" * 65),
    TEXTS,
)
TIMES = st.datetimes(timezones=st.just(UTC))
INTS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-1, 11))
DOUBLES = st.one_of(
    st.floats(), st.sampled_from([0.1, 0.09999999999999999, -0.0, 100.0, 100.00000000000001])
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool_value": st.booleans(),
    "int_value": INTS,
    "double_value": DOUBLES,
    "decimal_value": DECIMALS,
    "text_value": TEXTS,
    "time_value": TIMES,
    "json_value": JSON,
}
KEYS = st.one_of(
    st.sampled_from(["pump-1", "pump-2", "ü" * 128, "ü" * 129, "", "a\x85"]),
    st.none(),
    st.text(max_size=3),
)
ATTRIBUTES = st.one_of(
    st.sampled_from([*RULES, "new", "new 2", "", "a\nb", "x" * 129]), st.none(), st.text(max_size=2)
)
EVENT_TIMES = st.one_of(
    st.integers(-5_000_000, 500_000).map(lambda offset: NOW_US + offset),
    st.sampled_from([WINDOW.oldest_us, WINDOW.oldest_us - 1, WINDOW.newest_us + 1, -(2**63)]),
    st.none(),
)


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


def same(one: Columns, other: Columns, registers: bool) -> None:
    assert one.attribute_names() == other.attribute_names()
    brought = one.new_attributes(RULES)
    assert brought == other.new_attributes(RULES)
    rules = {**RULES, **brought} if registers else RULES
    of_one, of_other = one.check(rules, WINDOW), other.check(rules, WINDOW)
    assert of_one.rejections == of_other.rejections
    assert of_one.accepted_count == of_other.accepted_count
    assert of_one.entity_keys() == of_other.entity_keys()
    assert of_one.attribute_names() == of_other.attribute_names()
    for index in range(len(one)):
        assert of_one.names_of(index) == of_other.names_of(index)
    assert encoded(of_one) == encoded(of_other)


def encoded(checked: Checked) -> bytes:
    entity_ids = {key: number for number, key in enumerate(sorted(checked.entity_keys()), 1)}
    names = sorted(checked.attribute_names())
    return checked.rows(7, 3, entity_ids, {name: number for number, name in enumerate(names, 1)})


@settings(deadline=None, max_examples=300)
@given(tables(), st.booleans(), st.integers(1, 20), st.sampled_from([None, "lz4", "zstd"]))
def test_points_in_columns_are_refused_and_stored_like_points_one_by_one(
    table: Any, registers: bool, batch_rows: int, compression: str | None
) -> None:
    batches = pa.Table.from_batches(table.to_batches(max_chunksize=batch_rows))
    same(as_points(table), read(batches, compression=compression), registers)


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
