"""Arrow streams that are not what they should be are refused with a reason, whatever is in them."""

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_ingest import arrow
from atlas_ingest.arrow import ArrowInvalidError
from atlas_ingest.arrow.framing import DECODED_BYTES_MAX, FRAMES_MAX
from atlas_ingest.arrow.reading import TEXT_BYTES_MAX

from .arrow_streams import DEFAULTS, NOW_US, RULES, WINDOW, good, read, rows, stream

CATEGORY = pa.dictionary(pa.int8(), pa.string())


def refused(data: bytes) -> ArrowInvalidError:
    with pytest.raises(ArrowInvalidError) as caught:
        taken(data)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    return caught.value


def taken(data: bytes) -> arrow.ArrowColumns:
    arrow.measure(data)
    return arrow.read(data, DEFAULTS)


def with_column(name: str, values: Any) -> bytes:
    return stream(rows(good()).append_column(name, values))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (bytes(8), "is empty"),
        (b"\xff\xff\xff\xff", "no Arrow IPC stream"),
        (b"PAR1" * 100, "no Arrow IPC stream"),
        (stream(rows(good()))[:-100], "no Arrow IPC stream"),
        (stream(rows(good())) * 2, "behind the end"),
        (stream(rows(good())) + b"\0", "behind the end"),
        (stream(rows(good()).drop_columns("attribute")), "no column attribute"),
        (stream(rows(good()).drop_columns("double_value")), "no value column"),
        (with_column("valeu", [[1]]), "a column 'valeu': known are entity_key, attribute,"),
        (with_column("a\nb", [[1]]), r"a column 'a\nb': known are"),
        (with_column("x" * 1000, [[1]]), "a column 'xxx"),
        (with_column("double_value", [[1.0]]), "the column double_value twice"),
        (with_column("int_value", [pa.array([1], pa.uint64())]), "int_value as uint64: it has"),
        (with_column("int_value", [[1.0]]), "int_value as double"),
        (with_column("bool_value", [[1]]), "bool_value as int64: it has to be bool"),
        (with_column("text_value", [[b"x"]]), "text_value as binary: it has to be string"),
        (with_column("text_value", [pa.array(["x"], pa.string_view())]), "as string_view"),
        (with_column("text_value", [[["x"]]]), "text_value as list<"),
        (with_column("json_value", [[{"a": 1}]]), "json_value as struct<"),
        (with_column("json_value", [pa.array(["1"], pa.json_())]), "json_value as extension<"),
        (with_column("time_value", [pa.array([1], pa.date32())]), "time_value as date32"),
        (with_column("quality", [[1.0]]), "quality as double"),
        (with_column("decimal_value", [pa.array([1], pa.decimal256(50, 2))]), "as decimal256"),
        (with_column("decimal_value", [pa.array([1000], pa.decimal128(9, -2))]), "a scale of 0"),
        (
            with_column("text_value", [pa.array([1], pa.int32()).dictionary_encode()]),
            "text_value as dictionary<values=int32",
        ),
    ],
)
def test_what_is_wrong_with_the_form_is_said(data: bytes, text: str) -> None:
    error = refused(data)
    assert error.reason == "ARROW_INVALID"
    assert text in str(error)


def test_text_that_is_no_utf8_is_refused() -> None:
    for name in ("entity_key", "text_value"):
        data = stream(rows(good(**{name: "pump"})))
        assert "UTF8" in str(refused(data.replace(b"pump", b"pum\xff")))


def test_a_column_name_that_is_no_utf8_is_refused() -> None:
    data = stream(rows(good()))
    assert data.count(b"attribute") == 1
    refused(data.replace(b"attribute", b"attribut\xff"))


def test_indices_outside_their_dictionary_are_refused() -> None:
    table = rows(good(attribute="text", text_value="x"), types={"text_value": CATEGORY})
    wild = pa.DictionaryArray.from_arrays(pa.array([5], pa.int8()), ["x"], safe=False)
    data = stream(table.set_column(table.column_names.index("text_value"), "text_value", wild))
    assert "out of bounds" in str(refused(data))


def test_a_big_endian_stream_is_refused() -> None:
    """The schema's endianness is its first field: written here where it was left out."""
    reader = pa.ipc.MessageReader.open_stream(stream(rows(good())))
    metadata = bytes(reader.read_next_message().metadata)
    (table,) = struct.unpack_from("<i", metadata)
    fields = table - struct.unpack_from("<i", metadata, table)[0]
    header = table + struct.unpack_from("<H", metadata, fields + 4 + 2 * 2)[0]
    schema = header + struct.unpack_from("<I", metadata, header)[0]
    schema_fields = schema - struct.unpack_from("<i", metadata, schema)[0]
    assert struct.unpack_from("<H", metadata, schema_fields + 4)[0] == 0, "has the default"
    changed = bytearray(metadata)
    # Let the field refer to any 16 bits that are not 0: those of the offset that follow.
    struct.pack_into("<H", changed, schema_fields + 4, 4)
    data = stream(rows(good())).replace(metadata, bytes(changed))
    assert "big-endian" in str(refused(data))


def test_rows_are_bounded() -> None:
    most = rows(*[good()] * 1_000)
    data = stream(pa.concat_tables([most] * 100))
    assert arrow.measure(data).rows == 100_000
    error = refused(stream(pa.concat_tables([most] * 100 + [rows(good())])))
    assert error.reason == "BATCH_TOO_LARGE"
    assert "at most 100000 rows fit in one message" in str(error)


def test_batches_are_bounded() -> None:
    table = rows(good())
    many = pa.Table.from_batches(table.to_batches() * FRAMES_MAX)
    assert refused(stream(many)).reason == "BATCH_TOO_LARGE"
    assert len(read(pa.Table.from_batches(table.to_batches() * (FRAMES_MAX - 1)))) == 999


@contextmanager
def memory_bounded(size: int) -> Iterator[None]:
    """Neither Python nor Arrow takes more."""
    usual, own = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(own)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
        assert own.max_memory() < size
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_bomb_is_refused_before_it_goes_off(codec: str) -> None:
    """200 MB of zeros in a few kilobytes, as values and as a dictionary."""
    texts = pa.array(["\0" * 2_000_000] * 100)
    for column in (texts, pa.DictionaryArray.from_arrays(pa.array([0] * 100), texts)):
        table = rows(*[good(attribute="text")] * 100).append_column("text_value", column)
        data = stream(table, compression=codec)
        assert len(data) < 1_500_000
        with memory_bounded(4_000_000):
            error = refused(data)
        assert error.reason == "BATCH_TOO_LARGE"
        assert f"at most {DECODED_BYTES_MAX} bytes" in str(error)


@pytest.mark.parametrize("size", [2**40, 2**62, -2])
def test_a_buffer_that_states_a_wrong_size_is_refused(size: int) -> None:
    table = rows(*[good()] * 10_000)
    data = stream(table, compression="zstd")
    stated = struct.pack("<q", 10_000 * 8)
    assert stated in data
    with memory_bounded(4_000_000):
        refused(data.replace(stated, struct.pack("<q", size)))
        refused(data.replace(stated, struct.pack("<q", 10_000 * 8 - 1)))


def test_a_text_repeated_by_a_dictionary_is_bounded_by_what_it_stands_for() -> None:
    count = TEXT_BYTES_MAX // 65_536
    for extra, fits in ((0, True), (1, False)):
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * (count + extra)), ["x" * 65_536])
        points = rows(*[good(attribute="text", double_value=None)] * (count + extra))
        data = stream(points.append_column("text_value", texts))
        assert len(data) < 200_000
        if fits:
            assert arrow.read(data, DEFAULTS).text_bytes == TEXT_BYTES_MAX
        else:
            assert refused(data).reason == "BATCH_TOO_LARGE"


def test_a_dictionary_that_is_hardly_used_costs_only_what_is_used() -> None:
    unused = [f"key-{n}" for n in range(1_000)]
    keys = pa.DictionaryArray.from_arrays(pa.array([7, None, 7]), unused)
    table = rows(*[good()] * 3).set_column(0, "entity_key", keys)
    columns = read(table)
    assert columns.entity_keys.distinct == ["key-7", ""]
    assert [columns.entity_keys.of(row) for row in range(3)] == ["key-7", "", "key-7"]


def test_dictionaries_may_repeat_and_change() -> None:
    """What no writer of ours does and the format allows."""
    texts = pa.array(["a", "", "b", "a"])
    one = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, None]), texts)
    other = pa.DictionaryArray.from_arrays(pa.array([0, 0, 0, 0, 0]), pa.array(["c"]))
    plain = rows(*[good(attribute="text", text_value=None)] * 5)
    tables = [plain.set_column(3, "text_value", column) for column in (one, other)]
    batches = [batch for table in tables for batch in table.to_batches()]
    columns = read(pa.Table.from_batches(batches), unify_dictionaries=False)
    points = columns.points(np.arange(10))
    assert points.values == ["a", "", "b", "a", None, "c", "c", "c", "c", "c"]
    checked = columns.check(RULES, WINDOW)
    assert [(error.index, error.reason) for error in checked.rejections.errors] == [
        (4, "VALUE_MISSING")
    ]


def test_a_dictionary_that_holds_a_null_is_refused() -> None:
    for name in ("entity_key", "text_value"):
        column = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None]))
        table = rows(*[good(attribute="text", text_value="x")] * 2)
        data = stream(table.set_column(table.column_names.index(name), name, column))
        assert f"a null in the dictionary of {name}" in str(refused(data))


def test_what_only_rows_of_columns_can_have_wrong_is_refused_alone() -> None:
    columns = read(
        rows(
            good(),
            good(text_value="x", double_value=1.5),
            good(quality=-1),
            good(quality=256),
            good(event_time=2**63 - 1),
            good(attribute="text", text_value="x", double_value=2.0),
            good(attribute="nope", text_value="x", double_value=2.0),
            good(quality=255),
        )
    )
    checked = columns.check(RULES, WINDOW)
    assert [(e.index, e.reason, e.field) for e in checked.rejections.errors] == [
        (1, "INVALID_FIELD", "value"),
        (2, "INVALID_FIELD", "quality"),
        (3, "INVALID_FIELD", "quality"),
        (4, "EVENT_TIME_OUT_OF_WINDOW", "event_time_us"),
        (5, "INVALID_FIELD", "value"),
        (6, "INVALID_FIELD", "value"),
    ]
    assert checked.accepted_count == 2
    assert columns.new_attributes(RULES) == {}


def test_qualities_of_every_integer_type() -> None:
    for kind, most in ((pa.uint64(), 2**64 - 1), (pa.int8(), 127), (pa.int64(), -(2**63))):
        columns = read(rows(good(quality=most), good(quality=None), types={"quality": kind}))
        reasons = [error.reason for error in columns.check(RULES, WINDOW).rejections.errors]
        assert reasons == (["INVALID_FIELD"] if most != 127 else [])


def test_columns_of_nothing_but_null_are_not_there() -> None:
    table = rows(good(), good())
    for name in ("int_value", "quality", "text_value"):
        table = table.append_column(name, pa.nulls(2))
    table = table.set_column(table.column_names.index("event_time"), "event_time", pa.nulls(2))
    columns = read(table)
    assert columns.check(RULES, WINDOW).rejections.count == 0
    assert columns.event_times_us.tolist() == [NOW_US, NOW_US]


def test_narrow_numbers_are_widened() -> None:
    for kind, value in ((pa.float32(), 1.5), (pa.float16(), 1.5)):
        table = rows(good(double_value=np.float16(value)), types={"double_value": kind})
        assert read(table).points(np.array([0])).values == [1.5]
    for kind in (pa.int8(), pa.uint32()):
        table = rows(
            good(attribute="int", double_value=None, int_value=7), types={"int_value": kind}
        )
        assert read(table.drop_columns("double_value")).points(np.array([0])).values == [7]


def test_a_stream_without_rows_is_no_error() -> None:
    for table in (rows(good()).slice(0, 0), rows(good()).schema.empty_table()):
        columns = read(table)
        assert len(columns) == 0
        checked = columns.check(RULES, WINDOW)
        assert (checked.accepted_count, checked.entity_keys()) == (0, set())
        assert checked.rows(1, 1, {}, {}) == b""


SAMPLES = [
    stream(
        rows(
            *[
                good(attribute="text", text_value="abc"),
                good(attribute="decimal", decimal_value=Decimal("1.25")),
                good(attribute="json", json_value="[1]"),
                good(entity_key=None),
                good(quality=3),
            ]
            * 3,
            types={"decimal_value": pa.decimal128(30, 20), **types},
        ),
        compression=compression,
    )
    for compression in (None, "lz4", "zstd")
    for types in ({}, {"entity_key": CATEGORY, "attribute": CATEGORY, "text_value": CATEGORY})
]
HOSTILE = st.sampled_from([b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff\xff\xff\xff", bytes(4)])


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(SAMPLES), st.data())
def test_a_damaged_stream_is_read_or_refused_and_nothing_else(
    sample: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 4))
        damaged[at : at + 4] = data.draw(st.one_of(HOSTILE, st.binary(min_size=1, max_size=4)))
    try:
        columns = taken(bytes(damaged))
    except ArrowInvalidError:
        return
    checked = columns.check(RULES, WINDOW)
    entity_ids = dict.fromkeys(checked.entity_keys(), 1)
    checked.rows(1, 1, entity_ids, dict.fromkeys(checked.attribute_names(), 1))
