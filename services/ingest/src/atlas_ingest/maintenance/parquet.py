"""Points as Parquet: the columns, how they are read from COPY, and their checksum.

No I/O but on the buffers given. A row group is one block of rows; the checksum goes group by group,
so that a file is verified without ever being in memory as a whole.
"""

import hashlib
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

# Times are microseconds since the epoch on the way, since there are ones before Christ.
_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("tenant_id", pa.int32(), nullable=False),
        pa.field("entity_id", pa.int64(), nullable=False),
        pa.field("attribute_id", pa.int32(), nullable=False),
        pa.field("event_time", _TIME, nullable=False),
        pa.field("ingested_at", _TIME, nullable=False),
        pa.field("quality", pa.int16(), nullable=False),
        pa.field("value_bool", pa.bool_()),
        pa.field("value_int", pa.int64()),
        pa.field("value_double", pa.float64()),
        pa.field("value_decimal", pa.decimal128(38, 18)),
        pa.field("value_text", pa.string()),
        pa.field("value_time", _TIME),
        pa.field("value_json", pa.string()),
    ]
)
_ON_THE_WAY = {field.name: pa.int64() if field.type == _TIME else field.type for field in SCHEMA}
_ZERO = {
    pa.bool_(): False,
    pa.string(): "",
    pa.decimal128(38, 18): Decimal(0),
}
_CONVERT = csv.ConvertOptions(
    column_types=_ON_THE_WAY,
    null_values=[""],
    strings_can_be_null=True,
    quoted_strings_can_be_null=False,  # COPY writes an empty string as "", NULL as nothing.
    true_values=["t"],
    false_values=["f"],
)
_PARSE = csv.ParseOptions(newlines_in_values=True)


def select_list() -> str:
    """What to SELECT for `rows_of`, in SQL."""
    return ", ".join(
        f"(extract(epoch FROM {field.name}) * 1000000)::bigint"
        if field.type == _TIME
        else field.name
        for field in SCHEMA
    )


def rows_of(block: bytes | bytearray) -> pa.Table:
    """Whole rows of COPY's CSV. Raises pa.ArrowInvalid for a value that SCHEMA cannot hold."""
    read = csv.ReadOptions(column_names=SCHEMA.names, block_size=len(block) + 1, use_threads=False)
    table = csv.read_csv(
        pa.BufferReader(bytes(block)),
        read_options=read,
        parse_options=_PARSE,
        convert_options=_CONVERT,
    )
    return table.cast(SCHEMA)


class Checksum:
    """SHA-256 over values, however they are laid out in memory.

    Of each group and column: count, which values there are, then their bytes; of strings, first
    their lengths.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.row_count = 0

    def add(self, group: pa.Table) -> None:
        """The next row group."""
        self.row_count += group.num_rows
        self._digest.update(group.num_rows.to_bytes(8, "little"))
        for name in SCHEMA.names:
            chunks = group.column(name).combine_chunks()
            array = chunks if isinstance(chunks, pa.Array) else pa.concat_arrays(chunks.chunks)
            self._add(array)

    def text(self) -> str:
        """So far."""
        return f"sha256:{self._digest.hexdigest()}"

    def _add(self, array: Any) -> None:
        self._digest.update(_fixed(pc.is_valid(array).cast(pa.uint8()), 1))
        zero = pa.scalar(_ZERO.get(array.type, 0), array.type)
        filled = pc.fill_null(array, zero)
        if pa.types.is_string(array.type):
            self._digest.update(_fixed(pc.binary_length(filled), 4))
            offsets = memoryview(filled.buffers()[1]).cast("i")
            first, last = offsets[filled.offset], offsets[filled.offset + len(filled)]
            text = filled.buffers()[2]
            self._digest.update(memoryview(text)[first:last] if text is not None else b"")
        elif pa.types.is_boolean(array.type):
            self._digest.update(_fixed(filled.cast(pa.uint8()), 1))
        else:
            self._digest.update(_fixed(filled, array.type.bit_width // 8))


def _fixed(array: Any, width: int) -> memoryview:
    first = array.offset * width
    return memoryview(array.buffers()[1])[first : first + len(array) * width]
