"""Columns of Postgres' binary field values, as Arrow arrays.

Both the change stream and a binary COPY carry what a type's send function makes: see
src/backend/utils/adt/*.c of Postgres (int8send, numeric_send, jsonb_send, ...).
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas_cdc_reconciler.tables import ColumnType

Field = bytes | None
"""The binary value of one field; None is NULL."""

_POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01, in microseconds since 1970.
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_SCALE = 18
_UNSCALED_MAX = 10**38
_NUMERIC_NEGATIVE = 0x4000
_NUMERIC_POSITIVE = 0x0000
_JSONB_VERSION = 1


class FieldError(ValueError):
    """A value that the warehouse cannot hold, or bytes that are no value of the type."""


def to_arrow(column_type: ColumnType, fields: Sequence[Field]) -> pa.Array:
    """One column of the warehouse from its binary fields. Raises FieldError."""
    # Of seven value columns six are mostly empty: that is worth a look before anything else.
    if fields.count(None) == len(fields):
        return pa.nulls(len(fields), _TYPES[column_type])
    try:
        return _BUILDERS[column_type](fields)
    except (ValueError, struct.error, IndexError, OverflowError) as error:
        raise FieldError(f"no {column_type.name}: {error}") from error


def arrow_type(column_type: ColumnType) -> pa.DataType:
    """What `to_arrow` makes of a type."""
    return _TYPES[column_type]


def table_from(
    columns: Mapping[str, tuple[ColumnType, Sequence[Any]]],
    convert: Callable[[ColumnType, Sequence[Any]], pa.Array] = to_arrow,
) -> pa.Table:
    """An Arrow table from columns by name, of binary fields or of those that `convert` takes.

    Raises FieldError naming the column.
    """
    arrays = {}
    for name, (column_type, fields) in columns.items():
        try:
            arrays[name] = convert(column_type, fields)
        except FieldError as error:
            raise FieldError(f"{name}: {error}") from error
    return pa.table(arrays)


def null_column(column_type: ColumnType, count: int) -> pa.Array:
    """One column of the warehouse without a value."""
    return pa.nulls(count, _TYPES[column_type])


def to_arrow_fixed(column_type: ColumnType, fields: npt.NDArray[np.uint8]) -> pa.Array:
    """One column from fields that are all equally long, a row each. Raises FieldError."""
    build = _MATRIX_BUILDERS.get(column_type)
    if build is None:
        return to_arrow(column_type, [row.tobytes() for row in fields])
    try:
        return build(fields)
    except (ValueError, OverflowError) as error:
        raise FieldError(f"no {column_type.name}: {error}") from error


def numeric(field: bytes) -> Decimal:
    """The exact value of a binary numeric, with the digits after the point that Postgres shows.

    Raises FieldError for NaN and the infinities.
    """
    unscaled, scale = _numeric_parts(field)
    (shown,) = struct.unpack_from(">H", field, 6)
    # The last digit of base 10,000 may reach beyond what is shown, by zeros.
    unscaled = unscaled * 10**shown // 10**scale
    # Not scaleb(), which rounds to the digits of a context.
    return Decimal((int(unscaled < 0), tuple(map(int, str(abs(unscaled)))), -shown))


def _fixed(
    fields: Sequence[Field], width: int, wire: str, native: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers in host order, and which of them are NULL (None: none is)."""
    mask = None
    if None in fields:
        mask = np.fromiter((field is None for field in fields), dtype=bool, count=len(fields))
        zero = bytes(width)
        fields = [zero if field is None else field for field in fields]
    joined = b"".join(fields)  # type: ignore[arg-type]
    if len(joined) != width * len(fields):
        raise FieldError(f"fields are not {width} bytes wide")
    return np.frombuffer(joined, dtype=wire).astype(native), mask


def _numbers(fields: npt.NDArray[np.uint8], wire: str, native: str) -> np.ndarray:
    """Numbers in host order, one a row of bytes."""
    if fields.shape[1] != np.dtype(wire).itemsize:
        raise FieldError(f"fields are not {np.dtype(wire).itemsize} bytes wide")
    return np.ascontiguousarray(fields).view(wire).ravel().astype(native)


def _integer(width: int) -> Callable[[Sequence[Field]], pa.Array]:
    def build(fields: Sequence[Field]) -> pa.Array:
        values, mask = _fixed(fields, width, f">i{width}", f"<i{width}")
        return pa.array(values, mask=mask)

    return build


def _double(fields: Sequence[Field]) -> pa.Array:
    # As integers, so that no conversion touches the bits of a NaN.
    values, mask = _fixed(fields, 8, ">u8", "<u8")
    return pa.array(values.view("<f8"), mask=mask, from_pandas=False)


def _bool(fields: Sequence[Field]) -> pa.Array:
    values, mask = _fixed(fields, 1, "u1", "u1")
    return pa.array(values.astype(bool), mask=mask)


def _time(fields: Sequence[Field]) -> pa.Array:
    return _times(*_fixed(fields, 8, ">i8", "<i8"))


def _times(values: np.ndarray, mask: np.ndarray | None = None) -> pa.Array:
    if len(values) and (
        values.max() > _INT64_MAX - _POSTGRES_EPOCH_US or values.min() == _INT64_MIN
    ):
        raise FieldError("a time beyond what the warehouse can hold")
    shifted = pa.array(values + _POSTGRES_EPOCH_US, mask=mask)
    return shifted.cast(pa.timestamp("us", tz="UTC"))


def _decimal(fields: Sequence[Field]) -> pa.Array:
    values = b"".join(
        bytes(16) if field is None else _unscaled(field).to_bytes(16, "little", signed=True)
        for field in fields
    )
    validity = None
    if None in fields:
        present = np.fromiter((f is not None for f in fields), dtype=bool, count=len(fields))
        validity = pa.py_buffer(np.packbits(present, bitorder="little").tobytes())
    return pa.Array.from_buffers(
        pa.decimal128(38, _SCALE), len(fields), [validity, pa.py_buffer(values)]
    )


def _unscaled(field: bytes) -> int:
    """The value times 10**18, exactly."""
    unscaled, scale = _numeric_parts(field)
    if scale > _SCALE:
        unscaled, rest = divmod(unscaled, int(10 ** (scale - _SCALE)))
        if rest:
            raise FieldError(f"more than {_SCALE} digits after the point")
    else:
        unscaled *= int(10 ** (_SCALE - scale))
    if abs(unscaled) >= _UNSCALED_MAX:
        raise FieldError("more than 20 digits before the point")
    return unscaled


def _numeric_parts(field: bytes) -> tuple[int, int]:
    """(unscaled, scale): the value is unscaled / 10**scale. Digits have base 10,000: numeric.c."""
    count: int
    weight: int
    count, weight, sign, _ = struct.unpack_from(">HhHH", field)
    if sign not in (_NUMERIC_POSITIVE, _NUMERIC_NEGATIVE):
        raise FieldError("NaN or infinite")
    unscaled: int = 0
    for digit in struct.unpack_from(f">{count}H", field, 8):
        unscaled = unscaled * 10_000 + digit
    exponent = 4 * (weight + 1 - count)  # Of the last digit.
    if exponent > 0:
        unscaled, exponent = unscaled * int(10**exponent), 0
    return (-unscaled if sign == _NUMERIC_NEGATIVE else unscaled), -exponent


def _numeric_text(fields: Sequence[Field]) -> pa.Array:
    texts = [None if field is None else format(numeric(field), "f") for field in fields]
    return pa.array(texts, type=pa.string())


def _text(fields: Sequence[Field]) -> pa.Array:
    return pa.array(fields, type=pa.binary()).cast(pa.string())  # The cast checks the UTF-8.


def _json(fields: Sequence[Field]) -> pa.Array:
    texts = []
    for field in fields:
        if field is not None and field[0] != _JSONB_VERSION:
            raise FieldError(f"version {field[0]} of jsonb is unknown")
        texts.append(None if field is None else field[1:])
    return _text(texts)


def _other(fields: Sequence[Field]) -> pa.Array:
    texts = [None if field is None else "\\x" + field.hex() for field in fields]
    return pa.array(texts, type=pa.string())


def _texts(fields: npt.NDArray[np.uint8]) -> pa.Array:
    count, width = fields.shape
    offsets = np.arange(count + 1, dtype=np.int64) * width
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(fields))]
    # The cast checks the UTF-8.
    return pa.Array.from_buffers(pa.large_binary(), count, buffers).cast(pa.string())


def _jsons(fields: npt.NDArray[np.uint8]) -> pa.Array:
    if fields.shape[1] == 0 or (fields[:, 0] != _JSONB_VERSION).any():
        raise FieldError("a version of jsonb that is unknown")
    return _texts(fields[:, 1:])


def _text_array(fields: Sequence[Field]) -> pa.Array:
    texts = [None if field is None else _array_items(field) for field in fields]
    return pa.array(texts, type=pa.list_(pa.string()))


def _array_items(field: bytes) -> list[str | None]:
    """Items of a one-dimensional array, see array_send()."""
    dimensions, _, _ = struct.unpack_from(">iiI", field)
    if dimensions == 0:
        return []
    if dimensions != 1:
        raise FieldError(f"an array of {dimensions} dimensions")
    (count,) = struct.unpack_from(">i", field, 12)
    items: list[str | None] = []
    offset = 20
    for _ in range(count):
        (size,) = struct.unpack_from(">i", field, offset)
        offset += 4
        if size < 0:
            items.append(None)
            continue
        items.append(field[offset : offset + size].decode())
        offset += size
    return items


_TYPES = {
    ColumnType.BOOL: pa.bool_(),
    ColumnType.INT2: pa.int16(),
    ColumnType.INT4: pa.int32(),
    ColumnType.INT8: pa.int64(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.DECIMAL: pa.decimal128(38, _SCALE),
    ColumnType.NUMERIC_TEXT: pa.string(),
    ColumnType.TEXT: pa.string(),
    ColumnType.TEXT_ARRAY: pa.list_(pa.string()),
    ColumnType.TIME: pa.timestamp("us", tz="UTC"),
    ColumnType.JSON: pa.string(),
    ColumnType.OTHER: pa.string(),
}
_BUILDERS: dict[ColumnType, Callable[[Sequence[Field]], pa.Array]] = {
    ColumnType.BOOL: _bool,
    ColumnType.INT2: _integer(2),
    ColumnType.INT4: _integer(4),
    ColumnType.INT8: _integer(8),
    ColumnType.DOUBLE: _double,
    ColumnType.DECIMAL: _decimal,
    ColumnType.NUMERIC_TEXT: _numeric_text,
    ColumnType.TEXT: _text,
    ColumnType.TEXT_ARRAY: _text_array,
    ColumnType.TIME: _time,
    ColumnType.JSON: _json,
    ColumnType.OTHER: _other,
}
_MATRIX_BUILDERS: dict[ColumnType, Callable[[npt.NDArray[np.uint8]], pa.Array]] = {
    ColumnType.BOOL: lambda fields: pa.array(_numbers(fields, "u1", "u1").astype(bool)),
    ColumnType.INT2: lambda fields: pa.array(_numbers(fields, ">i2", "<i2")),
    ColumnType.INT4: lambda fields: pa.array(_numbers(fields, ">i4", "<i4")),
    ColumnType.INT8: lambda fields: pa.array(_numbers(fields, ">i8", "<i8")),
    # As integers, so that no conversion touches the bits of a NaN.
    ColumnType.DOUBLE: lambda fields: pa.array(
        _numbers(fields, ">u8", "<u8").view("<f8"), from_pandas=False
    ),
    ColumnType.TIME: lambda fields: _times(_numbers(fields, ">i8", "<i8")),
    ColumnType.TEXT: _texts,
    ColumnType.JSON: _jsons,
}
