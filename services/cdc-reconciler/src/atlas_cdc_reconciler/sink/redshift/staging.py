"""Rows as they are staged: Arrow in the columns of a staging table, and what does not fit; pure."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas_cdc_reconciler.sink.redshift.dialect import (
    CHANGE_NUMBER,
    COPIES,
    TEXT_OCTETS_MAX,
    Stored,
    bits_name,
)
from atlas_cdc_reconciler.tables import Column, ColumnType

_NAN_BITS = 0x7FF8_0000_0000_0000
# COPY refuses code points that are for ever no characters: "Multibyte character load errors".
_NO_CHARACTER = "[\ufdd0-\ufdef\ufffe\uffff]"


def staged_table(
    columns: Sequence[Column],
    rows: pa.Table,
    numbers: Sequence[int],
    copies: Sequence[int] | None = None,
) -> pa.Table:
    """Rows of these warehouse columns as a staging table has them, with their changes' numbers."""
    arrays = {CHANGE_NUMBER: pa.array(numbers, pa.int64())}
    if copies is not None:
        arrays[COPIES] = pa.array(copies, pa.int64())
    for column in columns:
        arrays.update(_staged(column, _whole(rows[column.name])))
    return pa.table(arrays)


def unfit(columns: Sequence[Column], rows: pa.Table) -> dict[int, str]:
    """Rows that Redshift cannot hold, by index, and why."""
    reasons: dict[int, str] = {}
    for column in columns:
        values = _whole(rows[column.name])
        if column.not_null and values.null_count:
            for index in _indexes(values.is_null()):
                reasons.setdefault(index, f"{column.name}: NULL, and there has to be a value")
        if not Stored(column.name, column.type, column.not_null).is_text:
            continue
        texts = _array_texts(values) if column.type is ColumnType.TEXT_ARRAY else values
        for index, reason in _unfit_texts(texts):
            reasons.setdefault(index, f"{column.name}: {reason}")
    return reasons


def _unfit_texts(texts: pa.Array) -> Iterator[tuple[int, str]]:
    octets = pc.binary_length(texts)
    for index in _indexes(pc.greater(octets, TEXT_OCTETS_MAX)):
        length = octets[index].as_py()
        yield index, f"{length} bytes of text, and Redshift holds {TEXT_OCTETS_MAX}"
    for index in _indexes(pc.match_substring_regex(texts, _NO_CHARACTER)):
        yield index, "a code point that is no character, which Redshift refuses"


def _indexes(mask: pa.Array) -> list[int]:
    return pc.indices_nonzero(mask.fill_null(False)).to_pylist()  # type: ignore[no-any-return]


def _staged(column: Column, values: pa.Array) -> dict[str, pa.Array]:
    match column.type:
        case ColumnType.TIME:
            return {column.name: values.cast(pa.int64())}
        case ColumnType.TEXT_ARRAY:
            return {column.name: _array_texts(values)}
        case ColumnType.DOUBLE:
            return {column.name: values, bits_name(column.name): _bits(values)}
        case _:
            return {column.name: values}


def _bits(doubles: pa.Array) -> pa.Array:
    """The 64 bits of each. All NaN get the same: their payload means nothing to anybody."""
    numbers = doubles.fill_null(0.0).to_numpy(zero_copy_only=False)
    bits = np.where(np.isnan(numbers), np.int64(_NAN_BITS), numbers.view(np.int64))
    mask = doubles.is_null().to_numpy(zero_copy_only=False) if doubles.null_count else None
    return pa.array(bits, pa.int64(), mask=mask)


def _array_texts(values: pa.Array) -> pa.Array:
    """Arrays of texts as JSON: Redshift has no arrays."""
    texts = [
        None if items is None else json.dumps(items, ensure_ascii=False, separators=(",", ":"))
        for items in values.to_pylist()
    ]
    return pa.array(texts, pa.string())


def _whole(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(column.chunks)
