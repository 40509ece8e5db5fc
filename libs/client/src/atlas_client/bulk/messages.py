"""Arrow data as messages of WriteArrow: each a complete IPC stream, and none too large."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

ArrowData: TypeAlias = Any
"""A pyarrow Table, RecordBatch, RecordBatchReader, an iterable of RecordBatches, or anything that
offers itself as an Arrow stream. pyarrow has no types to say so."""

ROWS_MAX = 20_000
BYTES_MAX = 4 * 2**20


def is_repeatable(data: ArrowData) -> bool:
    """Say whether the data can be gone through twice."""
    return not isinstance(data, (pa.RecordBatchReader, Iterator))


def ipc_streams(
    data: ArrowData, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX
) -> Iterator[bytes]:
    """Give the data as IPC streams, the same ones at every call for the same data.

    Each has at most `rows_max` rows, and `bytes_max` bytes unless a single row has more. Raises
    TypeError for what is no Arrow data, ValueError for batches of different schemas.
    """
    for table in _tables(_batches(data), rows_max):
        yield from _streams(_compact(table), bytes_max)


def _batches(data: ArrowData) -> Iterable[Any]:
    if isinstance(data, pa.RecordBatch):
        return (data,)
    if hasattr(data, "__arrow_c_stream__"):
        stream: Iterable[Any] = pa.RecordBatchReader.from_stream(data)
        return stream
    if isinstance(data, Iterable):
        return data
    raise TypeError(f"{type(data).__name__} is no Arrow data: give a table or record batches")


def _tables(batches: Iterable[Any], rows_max: int) -> Iterator[Any]:
    """Cut and join the batches to tables of `rows_max` rows, but for the last."""
    parts: list[Any] = []
    rows = 0
    for batch in batches:
        if not isinstance(batch, pa.RecordBatch):
            raise TypeError(f"{type(batch).__name__} is no record batch")
        at = 0
        while at < batch.num_rows:
            part = batch.slice(at, rows_max - rows)
            parts.append(part)
            at += part.num_rows
            rows += part.num_rows
            if rows == rows_max:
                yield _joined(parts)
                parts, rows = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[Any]) -> Any:
    # With one more than there is, so that also one is copied: a slice is written with some of its
    # neighbours' bytes, and the messages shall be the same however the data are cut.
    try:
        table = pa.Table.from_batches([*parts, parts[0].slice(0, 0)])
    except pa.ArrowInvalid as error:
        raise ValueError(f"the batches have different columns: {error}") from error
    return table.unify_dictionaries().combine_chunks()


def _compact(table: Any) -> Any:
    """The table with dictionaries of what it uses, and without types that the service refuses.

    A slice of a table brings the whole table's dictionaries with it, to every message.
    """
    for index, column in enumerate(table.schema):
        kind = column.type
        if pa.types.is_dictionary(kind):
            (array,) = table.column(index).chunks
            if len(array.dictionary) > len(array) or _is_view(kind.value_type):
                plain = pc.cast(array.dictionary, _text_of(kind.value_type))
                own = pc.take(plain, array.indices).dictionary_encode()
                table = table.set_column(index, column.name, own)
        elif _is_view(kind):
            own = table.column(index).cast(pa.large_string())
            table = table.set_column(index, column.name, own)
    return table


def _is_view(kind: Any) -> bool:
    return bool(pa.types.is_string_view(kind))


def _text_of(kind: Any) -> Any:
    return pa.large_string() if _is_view(kind) else kind


def _streams(table: Any, bytes_max: int) -> Iterator[bytes]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written = sink.getvalue()
    if written.size <= bytes_max or table.num_rows == 1:
        yield written.to_pybytes()
        return
    half = table.num_rows // 2
    yield from _streams(_compact(table.slice(0, half)), bytes_max)
    yield from _streams(_compact(table.slice(half)), bytes_max)
