"""An Arrow IPC stream as columns of points, or what is wrong with its form.

Nothing in the stream is believed: its extent is measured first (framing), its columns must be the
known ones, and pyarrow validates every offset, index and text of what it decoded before anything
else looks at it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from atlas_common.values import DataType
from atlas_ingest.arrow import numerics, texts
from atlas_ingest.arrow.columns import MISSING, SEVERAL, TYPES, ArrowColumns
from atlas_ingest.arrow.framing import NOT_ARROW, ROWS_MAX, ArrowInvalidError, not_arrow
from atlas_ingest.arrow.values import (
    Bools,
    Decimals,
    Doubles,
    Integers,
    Times,
    TypedRows,
    texts_of,
    to_us,
)

Ints: TypeAlias = npt.NDArray[np.int64]

TEXT_BYTES_MAX = 32 * 2**20
"""Of all texts of one column, written out: a dictionary can repeat a large one at no cost."""

_SCALE_MAX = numerics.PRECISION_MAX
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_OPTIONS = pa.ipc.IpcReadOptions(
    use_threads=False, ensure_alignment=pa.ipc.Alignment.DataTypeSpecific
)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What stands in for an entity key or event time that a row does not have."""

    entity_key: str
    event_time_us: int


def read(ipc_stream: bytes, defaults: Defaults) -> ArrowColumns:
    """The points of a stream that measure() has let pass. Raises ArrowInvalidError."""
    try:
        table = _table(ipc_stream)
        arrays = {
            name: column.chunk(0)
            for name, column in zip(table.column_names, table.columns, strict=True)
            if column.num_chunks and not pa.types.is_null(column.type)
        }
        return _columns(table.num_rows, arrays, defaults)
    except NOT_ARROW as error:
        raise not_arrow(error) from None


def _table(ipc_stream: bytes) -> Any:
    """All batches of the stream, validated, as a table of one chunk."""
    reader = pa.ipc.open_stream(pa.py_buffer(ipc_stream), options=_OPTIONS)
    _check_columns(reader.schema)
    batches = []
    rows = 0
    for batch in reader:
        batch.validate(full=True)
        _check_dictionaries(batch)
        batches.append(batch)
        rows += len(batch)
        if rows > ROWS_MAX:  # measure() has found less: the frames contradict each other.
            raise ArrowInvalidError(
                f"has more than {ROWS_MAX} rows: split it", reason="BATCH_TOO_LARGE"
            )
    table = pa.Table.from_batches(batches, reader.schema)
    return table.unify_dictionaries().combine_chunks() if len(batches) > 1 else table


def _check_dictionaries(batch: Any) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(column.type) and column.dictionary.null_count:
            raise ArrowInvalidError(
                f"has a null in the dictionary of {name}: let the index be null instead"
            )


def _columns(count: int, arrays: Mapping[str, Any], defaults: Defaults) -> ArrowColumns:
    types, values = _values(count, arrays)
    return ArrowColumns(
        entity_keys=texts.names(count, arrays.get("entity_key"), defaults.entity_key),
        attributes=texts.names(count, arrays.get("attribute"), ""),
        event_times_us=_event_times(count, arrays.get("event_time"), defaults.event_time_us),
        qualities=_qualities(count, arrays.get("quality")),
        types=types,
        values=values,
    )


def _event_times(count: int, array: Any, default_us: int) -> Ints:
    if array is None:
        return np.full(count, default_us, dtype=np.int64)
    numbers = to_us(_numbers(array), _per_second(array.type))
    if array.null_count:
        numbers = np.where(_is_valid(array), numbers, np.int64(default_us))
    return numbers


def _qualities(count: int, array: Any) -> Ints:
    if array is None:
        return np.zeros(count, dtype=np.int64)
    if not pa.types.is_uint64(array.type):
        return _numbers(array)
    numbers: npt.NDArray[np.uint64] = array.fill_null(0).to_numpy()
    return np.minimum(numbers, np.uint64(2**63 - 1)).astype(np.int64)


def _numbers(array: Any) -> Ints:
    """Integers or timestamps as int64; nulls as 0."""
    numbers: Ints = array.cast(pa.int64()).fill_null(0).to_numpy()
    return numbers


def _per_second(data_type: Any) -> int:
    return _PER_SECOND[data_type.unit] if pa.types.is_timestamp(data_type) else 1_000_000


def _is_valid(array: Any) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return flags


def _values(
    count: int, arrays: Mapping[str, Any]
) -> tuple[npt.NDArray[np.int8], dict[DataType, TypedRows]]:
    """Of each row the type, and the values by type."""
    given = {
        data_type: arrays[f"{data_type}_value"]
        for data_type in TYPES
        if f"{data_type}_value" in arrays
    }
    if len(given) == 1:
        ((data_type, array),) = given.items()
        if not array.null_count:
            types = np.full(count, TYPES.index(data_type), dtype=np.int8)
            return types, {data_type: _READERS[data_type](np.arange(count), array)}
    types = np.full(count, MISSING, dtype=np.int8)
    counts = np.zeros(count, dtype=np.int8)
    valid = {data_type: _is_valid(array) for data_type, array in given.items()}
    for data_type, flags in valid.items():
        types[flags] = TYPES.index(data_type)
        counts += flags
    types[counts > 1] = SEVERAL
    values: dict[DataType, TypedRows] = {}
    for data_type, array in given.items():
        rows = np.flatnonzero(types == TYPES.index(data_type))
        if len(rows):
            own = array if len(rows) == count else array.take(pa.array(rows))
            values[data_type] = _READERS[data_type](rows, own)
    return types, values


def _read_bools(rows: Ints, array: Any) -> TypedRows:
    return Bools(rows, array.cast(pa.uint8()).to_numpy())


def _read_ints(rows: Ints, array: Any) -> TypedRows:
    return Integers(rows, _numbers(array))


def _read_doubles(rows: Ints, array: Any) -> TypedRows:
    return Doubles(rows, array.cast(pa.float64()).to_numpy())


def _read_times(rows: Ints, array: Any) -> TypedRows:
    return Times(rows, _numbers(array), _per_second(array.type))


def _read_decimals(rows: Ints, array: Any) -> TypedRows:
    if pa.types.is_decimal128(array.type):
        return Decimals(rows, numerics.scaled_of(array), array.type.precision)
    # A dictionary has each decimal once already.
    decimals = None if pa.types.is_dictionary(array.type) else texts.plain_decimals(rows, array)
    return _texts(DataType.DECIMAL, rows, array) if decimals is None else decimals


def _read_text(rows: Ints, array: Any) -> TypedRows:
    return _texts(DataType.TEXT, rows, array)


def _read_json(rows: Ints, array: Any) -> TypedRows:
    return _texts(DataType.JSON, rows, array)


def _texts(data_type: DataType, rows: Ints, array: Any) -> TypedRows:
    codes, distinct = texts.distinct(array)
    sizes = pc.binary_length(distinct).to_numpy()
    text_bytes = int(sizes[codes].sum(dtype=np.int64))
    if text_bytes > TEXT_BYTES_MAX:
        raise ArrowInvalidError(
            f"has {text_bytes} bytes of text in {data_type}_value, at most {TEXT_BYTES_MAX} fit in"
            " one message: split it",
            reason="BATCH_TOO_LARGE",
        )
    return texts_of(data_type, rows, codes, distinct, text_bytes=text_bytes)


_READERS: dict[DataType, Callable[[Ints, Any], TypedRows]] = {
    DataType.BOOL: _read_bools,
    DataType.INT: _read_ints,
    DataType.DOUBLE: _read_doubles,
    DataType.DECIMAL: _read_decimals,
    DataType.TEXT: _read_text,
    DataType.TIME: _read_times,
    DataType.JSON: _read_json,
}


def _is_text(data_type: Any) -> bool:
    kinds = pa.types
    if kinds.is_dictionary(data_type):
        return _is_text(data_type.value_type)
    # No views: those of null slots are not validated, and pyarrow 26 crashes when it reads them.
    return bool(kinds.is_string(data_type) or kinds.is_large_string(data_type))


def _is_moment(data_type: Any) -> bool:
    return bool(pa.types.is_timestamp(data_type) or pa.types.is_int64(data_type))


def _is_int(data_type: Any) -> bool:
    # Of the 64-bit ones, the unsigned hold numbers that are none here.
    return bool(pa.types.is_integer(data_type) and not pa.types.is_uint64(data_type))


def _is_decimal(data_type: Any) -> bool:
    if pa.types.is_decimal128(data_type):
        return bool(0 <= data_type.scale <= _SCALE_MAX)
    return _is_text(data_type)


_TEXT = "string, or dictionary of it"
_COLUMNS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "entity_key": (_is_text, _TEXT),
    "attribute": (_is_text, _TEXT),
    "event_time": (_is_moment, "timestamp, or int64 of microseconds"),
    "quality": (pa.types.is_integer, "an integer type"),
    "bool_value": (pa.types.is_boolean, "bool"),
    "int_value": (_is_int, "int64, or a narrower integer"),
    "double_value": (pa.types.is_floating, "float64, or a narrower one"),
    "decimal_value": (_is_decimal, "decimal128 with a scale of 0 to 38, or string"),
    "text_value": (_is_text, _TEXT),
    "time_value": (_is_moment, "timestamp, or int64 of microseconds"),
    "json_value": (_is_text, _TEXT),
}


def _check_columns(schema: Any) -> None:
    seen: set[str] = set()
    for column in schema:
        name = str(column.name)
        if name not in _COLUMNS:
            raise ArrowInvalidError(f"has a column {name[:64]!r}: known are {', '.join(_COLUMNS)}")
        if name in seen:
            raise ArrowInvalidError(f"has the column {name} twice")
        seen.add(name)
        takes, wanted = _COLUMNS[name]
        # A column of type null is one that is not there: so is a frame of nothing but None.
        if not (takes(column.type) or pa.types.is_null(column.type)):
            raise ArrowInvalidError(f"has {name} as {str(column.type)[:64]}: it has to be {wanted}")
    if "attribute" not in seen:
        raise ArrowInvalidError("has no column attribute: name the attribute of each row")
    if not any(name.endswith("_value") for name in seen):
        raise ArrowInvalidError("has no value column, such as double_value")
