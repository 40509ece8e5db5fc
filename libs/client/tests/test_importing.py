from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.type.v1 import value_pb2
from atlas_client.importing import (
    MappingError,
    Progress,
    TimeUnit,
    UnreadableFileError,
    find_shape,
    open_table,
    parse_map,
)
from atlas_client.importing.cells import cell_type, joined, parse_time, parser
from atlas_client.importing.errors import CellError
from atlas_client.importing.points import Batch, BatchCutter, TypeSurvey, cells_of
from atlas_client.values import DataType, Json, from_proto, from_us
from atlas_client.values import Value as PythonValue

LONG = ["entity", "attribute", "time", "value"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def batches(path: Path, types: dict[str, DataType], **mapping: Any) -> list[Batch]:
    table = open_table(path)
    shape = find_shape(table.column_names, mapping.pop("mapped", {}), **mapping)
    cutter = BatchCutter(types, TimeUnit.SECONDS)
    return list(cutter.cut(table.read(shape.columns, Progress()), shape))


def only(found: list[Batch]) -> Batch:
    (batch,) = found
    return batch


# Shapes --------------------------------------------------------------------------------------


def test_a_long_table_needs_no_mapping() -> None:
    shape = find_shape(LONG, {})
    assert not shape.is_wide
    assert (shape.entity, shape.attribute, shape.time, shape.values) == (*LONG[:3], ("value",))


def test_columns_can_be_named() -> None:
    mapped = parse_map("entity=host,attribute=metric,time=ts,value=v")
    shape = find_shape(["ts", "host", "metric", "v", "extra"], mapped)
    assert shape.columns == ["ts", "host", "metric", "v"]


def test_constants_take_the_place_of_columns() -> None:
    shape = find_shape(["timestamp", "value"], {}, entity_key="nyc", attribute_name="rides")
    assert (shape.time, shape.entity, shape.values) == ("timestamp", None, ("value",))
    assert not shape.is_wide


def test_without_an_attribute_every_other_column_is_one() -> None:
    shape = find_shape(["host", "ts", "cpu", "mem"], {"entity": "host", "time": "ts"})
    assert shape.is_wide
    assert shape.values == ("cpu", "mem")


@pytest.mark.parametrize(
    ("columns", "mapped", "message"),
    [
        (["a", "b"], {}, "no column of times"),
        (["time", "b"], {}, "no column of entities"),
        (["time", "entity", "attribute"], {}, "no column of values"),
        (["time", "entity"], {}, "no column is left"),
        (["time", "entity", "v"], {"value": "v"}, "--map attribute"),
        (["time", "entity", "v"], {"time": "when"}, "no such column"),
    ],
)
def test_unclear_columns_are_told_with_the_way_out(
    columns: list[str], mapped: dict[str, str], message: str
) -> None:
    with pytest.raises(MappingError, match=message):
        find_shape(columns, mapped)


@pytest.mark.parametrize("text", ["entity", "thing=a", "time="])
def test_a_mapping_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(MappingError):
        parse_map(text)


# Cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data_type", "cell", "value"),
    [
        (DataType.BOOL, "TRUE", True),
        (DataType.BOOL, "0", False),
        (DataType.INT, " -12 ", -12),
        (DataType.INT, 3.0, 3),
        (DataType.DOUBLE, "1e3", 1000.0),
        (DataType.DOUBLE, 2, 2.0),
        (DataType.DOUBLE, "-Infinity", float("-inf")),
        (DataType.DECIMAL, "12.50", Decimal("12.50")),
        (DataType.DECIMAL, 0.1, Decimal("0.1")),
        (DataType.TEXT, " as is ", " as is "),
        (DataType.TIME, "2024-01-01 12:00", datetime(2024, 1, 1, 12, tzinfo=UTC)),
        (DataType.TIME, "2024-01-01T12:00+02:00", datetime(2024, 1, 1, 10, tzinfo=UTC)),
        (DataType.TIME, "1704067200", datetime(2024, 1, 1, tzinfo=UTC)),
        (DataType.JSON, '{"a": [1]}', Json({"a": [1]})),
        (DataType.JSON, [1, 2], Json([1, 2])),
    ],
)
def test_cells_are_read_by_type(data_type: DataType, cell: Any, value: PythonValue) -> None:
    assert parser(data_type, TimeUnit.SECONDS)(cell) == value


@pytest.mark.parametrize(
    ("data_type", "cell", "reason"),
    [
        (DataType.BOOL, "maybe", "TYPE_MISMATCH"),
        (DataType.INT, "1.5", "TYPE_MISMATCH"),
        (DataType.INT, "1_000", "TYPE_MISMATCH"),
        (DataType.INT, True, "TYPE_MISMATCH"),
        (DataType.INT, str(2**63), "VALUE_OUT_OF_RANGE"),
        (DataType.INT, "9" * 5000, "VALUE_OUT_OF_RANGE"),
        (DataType.DOUBLE, "12,5", "TYPE_MISMATCH"),
        (DataType.DECIMAL, "12,5", "DECIMAL_INVALID"),
        (DataType.DECIMAL, "NaN", "VALUE_NOT_FINITE"),
        (DataType.TEXT, 12, "TYPE_MISMATCH"),
        (DataType.TIME, "yesterday", "TYPE_MISMATCH"),
        (DataType.JSON, "{", "JSON_INVALID"),
        (DataType.JSON, "[NaN]", "JSON_INVALID"),
    ],
)
def test_what_is_not_of_the_type_has_a_reason(data_type: DataType, cell: Any, reason: str) -> None:
    with pytest.raises(CellError) as caught:
        parser(data_type, TimeUnit.SECONDS)(cell)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "unit"), [("1704067200", "s"), ("1704067200000", "ms"), ("1704067200000000", "us")]
)
def test_bare_numbers_count_the_unit(text: str, unit: str) -> None:
    assert parse_time(text, TimeUnit(unit)) == 1_704_067_200_000_000


@pytest.mark.parametrize(
    "text", ["", "soon", "9" * 40, "1e400", "1e999999999", "0001-01-01T00:00:00+99:00"]
)
def test_a_bad_time_is_a_cell_error(text: str) -> None:
    with pytest.raises(CellError):
        parser(DataType.TIME, TimeUnit.SECONDS)(text)


CELLS: dict[DataType, list[Any]] = {
    DataType.BOOL: ["true", "False", True],
    DataType.INT: ["0", "-7", 12],
    DataType.DOUBLE: ["1.5", "1e9", "nan", 2.5],
    DataType.DECIMAL: [Decimal("1.5")],
    DataType.TEXT: ["", "abc", "12 mm", "1" * 30, "{", "2024-13-01"],
    DataType.TIME: ["2024-01-01", "2024-01-01T00:00:00Z", datetime(2024, 1, 1, tzinfo=UTC)],
    DataType.JSON: ['{"a": 1}', "[]", {"a": 1}, [1]],
}


@pytest.mark.parametrize(
    ("data_type", "cell"), [(kind, cell) for kind, cells in CELLS.items() for cell in cells]
)
def test_the_type_of_a_cell_is_recognized(data_type: DataType, cell: Any) -> None:
    assert cell_type(cell) is data_type


texts = st.one_of(
    st.integers().map(str), st.floats().map(str), st.booleans().map(str), st.text(max_size=20)
)


@given(st.lists(texts, min_size=1))
def test_the_joined_type_of_texts_reads_all_of_them(cells: list[str]) -> None:
    data_type = None
    for cell in cells:
        data_type = joined(data_type, cell_type(cell))
    assert data_type is not None
    parse = parser(data_type, TimeUnit.SECONDS)
    for cell in cells:
        parse(cell)


# Files ---------------------------------------------------------------------------------------


def test_a_long_csv_becomes_points(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "entity,attribute,time,value\n"
        "pump-1,rpm,2024-01-01T00:00:00Z,1480\n"
        'pump-1,note,2024-01-01 00:00:01,"two\nlines"\n'
        "pump-2,rpm,2024-01-01T00:00:00Z,fast\n"
        "pump-2,rpm,,1\n"
        ",rpm,2024-01-01T00:00:00Z,1\n"
        "pump-2,rpm,2024-01-01T00:00:00Z,\n"
        "pump-2,unheard,2024-01-01T00:00:00Z,1\n",
    )
    batch = only(batches(path, {"rpm": DataType.INT, "note": DataType.TEXT}))
    first, second = batch.points
    assert (first.entity_key, first.attribute, first.int_value) == ("pump-1", "rpm", 1480)
    assert from_us(first.event_time_us) == datetime(2024, 1, 1, tzinfo=UTC)
    assert second.text_value == "two\nlines"
    assert [(one.row, one.reason) for one in batch.rejected] == [
        (3, "TYPE_MISMATCH"),
        (4, "INVALID_FIELD"),
        (5, "ENTITY_KEY_INVALID"),
        (6, "VALUE_MISSING"),
        (7, "ATTRIBUTE_UNKNOWN"),
    ]


def test_broken_lines_are_rejected_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", "time,value\n2024-01-01,1\n2024-01-02,2,3\n2024-01-03,x\nalone\n"
    )
    found = batches(path, {"v": DataType.INT}, entity_key="e", attribute_name="v")
    assert {one.row: one.reason for batch in found for one in batch.rejected} == {
        2: "INVALID_FIELD",
        3: "TYPE_MISMATCH",
        4: "INVALID_FIELD",
    }
    assert [cell.row for batch in found for cell in batch.cells] == [1]


def test_row_numbers_hold_over_many_blocks(tmp_path: Path) -> None:
    lines = ["time,value"]
    lines += [f"2024-01-01,{n}" if n % 1000 else "broken" for n in range(1, 100_001)]
    path = write(tmp_path / "a.csv", "\n".join(lines) + "\n")
    good: set[int] = set()
    broken: set[int] = set()
    for batch in batches(path, {"v": DataType.INT}, entity_key="e", attribute_name="v"):
        assert all(
            cell.row == point.int_value
            for cell, point in zip(batch.cells, batch.points, strict=True)
        )
        good |= {cell.row for cell in batch.cells}
        broken |= {one.row for one in batch.rejected}
    assert broken == set(range(1000, 100_001, 1000))
    assert len(good) == 99_900


def test_a_wide_csv_gives_a_point_per_filled_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'ts,host,cpu,note\n0,a,1.5,\n1,b,,""\n')
    batch = only(
        batches(
            path,
            {"cpu": DataType.DOUBLE, "note": DataType.TEXT},
            mapped={"time": "ts", "entity": "host"},
        )
    )
    assert [(cell.entity, cell.attribute, cell.value) for cell in batch.cells] == [
        ("a", "cpu", "1.5"),
        ("b", "note", ""),
    ]


def test_a_wide_parquet_keeps_its_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    values: dict[str, tuple[Any, DataType]] = {
        "up": (True, DataType.BOOL),
        "count": (7, DataType.INT),
        "load": (0.5, DataType.DOUBLE),
        "price": (Decimal("1.25"), DataType.DECIMAL),
        "serial": ("0012", DataType.TEXT),
        "seen": (datetime(2024, 1, 1, tzinfo=UTC), DataType.TIME),
        "day": (date(2024, 1, 2), DataType.TIME),
        "tags": (["a", "b"], DataType.JSON),
    }
    columns = {name: [value, None] for name, (value, _) in values.items()}
    moments = pa.array([1_704_067_200_000_000_123] * 2, pa.timestamp("ns"))
    table = pa.table({"time": moments, "entity": ["e", "e"], **columns})
    pyarrow.parquet.write_table(table, path)

    opened = open_table(path)
    shape = find_shape(opened.column_names, {})
    survey = TypeSurvey([], texts_are_text=opened.is_typed and shape.is_wide)
    for rows in opened.read(shape.columns, Progress()):
        survey.look(cells_of(rows, shape))
    assert survey.types == {name: data_type for name, (_, data_type) in values.items()}
    batch = only(batches(path, survey.types))
    assert not batch.rejected
    assert {point.event_time_us for point in batch.points} == {1_704_067_200_000_000}
    read = {point.attribute: _value(point) for point in batch.points}
    expected = {name: value for name, (value, _) in values.items()}
    assert read == expected | {"day": datetime(2024, 1, 2, tzinfo=UTC)}


def _value(point: Any) -> Any:
    field = point.WhichOneof("value")
    message = value_pb2.Value()
    if field == "time_value":
        message.time_value.CopyFrom(point.time_value)
    else:
        setattr(message, field, getattr(point, field))
    return from_proto(message)


def test_the_same_file_is_cut_into_the_same_batches_whatever_the_catalog(tmp_path: Path) -> None:
    lines = [f"e,{'known' if n % 3 else 'unknown'},{n},{n}" for n in range(12_000)]
    path = write(tmp_path / "a.csv", ",".join(LONG) + "\n" + "\n".join(lines) + "\n")

    def rows(found: list[Batch]) -> Iterator[tuple[int, set[int]]]:
        for batch in found:
            inside = {cell.row for cell in batch.cells} | {one.row for one in batch.rejected}
            yield batch.number, inside

    little = batches(path, {"known": DataType.INT})
    everything = batches(path, {"known": DataType.INT, "unknown": DataType.INT})
    assert list(rows(little)) == list(rows(everything))
    assert [len(batch.cells) for batch in everything] == [5000, 5000, 2000]
    ids = {batch.request_id(b"file") for batch in everything}
    assert len(ids) == 3
    assert max(map(len, ids)) <= 64
    assert ids == {batch.request_id(b"file") for batch in little}
    assert ids.isdisjoint(batch.request_id(b"another") for batch in little)


def test_a_batch_of_long_texts_ends_before_a_message_does(tmp_path: Path) -> None:
    text = "x" * 60_000
    lines = [f"e,note,{n},{text}" for n in range(200)]
    path = write(tmp_path / "a.csv", ",".join(LONG) + "\n" + "\n".join(lines) + "\n")
    found = batches(path, {"note": DataType.TEXT})
    assert sum(len(batch.points) for batch in found) == 200
    assert max(sum(p.ByteSize() for p in batch.points) for batch in found) < 8 * 1024 * 1024


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"a,b\0c\n", "neither CSV nor Parquet"),
        (b"PAR1 and then nothing of the kind", "a.csv"),
        (b"a,a\n1,2\n", "named twice"),
        (b"time,value\n2024-01-01,\xff\xfe\n", "UTF8"),
    ],
    ids=str,
)
def test_an_unreadable_file_says_why(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=message):
        for _ in open_table(path).read(["time", "value"], Progress()):
            pass


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="directory"):
        open_table(tmp_path)


def test_progress_ends_at_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "time,value\n" + "2024-01-01,1\n" * 150_000)
    progress = Progress()
    shares = []
    for _ in open_table(path).read(["time", "value"], progress):
        assert progress.total is not None
        shares.append(progress.done / progress.total)
    assert shares == sorted(shares)
    assert progress.done == progress.total
