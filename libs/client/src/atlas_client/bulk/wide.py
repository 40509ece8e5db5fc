"""A table with one column per attribute, as points."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_SLICE_POINTS = 200_000
_VALUE_TYPES = {
    "bool_value": pa.bool_(),
    "int_value": pa.int64(),
    "double_value": pa.float64(),
    "decimal_value": pa.string(),
    "text_value": pa.string(),
    "time_value": pa.timestamp("us", "UTC"),
    "json_value": pa.string(),
}
_NAME = pa.dictionary(pa.int32(), pa.string())


class Melted:
    """Points of a wide table: an iterable of record batches for write_arrow(). Made by melt()."""

    def __init__(
        self,
        table: Any,
        attributes: dict[str, str],
        *,
        entity: str,
        time: str | None,
        quality: str | None,
    ) -> None:
        self._table = table
        self._attributes = attributes
        self._entity = entity
        self._time = time
        self._quality = quality
        kinds = set(attributes.values())
        self._kinds = [name for name in _VALUE_TYPES if name in kinds]

    @property
    def attributes(self) -> Sequence[str]:
        """The columns that are attributes, in their order."""
        return tuple(self._attributes)

    def __iter__(self) -> Iterator[Any]:
        step = max(1, _SLICE_POINTS // len(self._attributes))
        for at in range(0, self._table.num_rows, step):
            batch = self._melted(self._table.slice(at, step).combine_chunks())
            if batch.num_rows:
                yield batch

    def _melted(self, table: Any) -> Any:
        """The points of some rows, attribute by attribute: those of one keep their order."""
        all_rows = pa.array(range(table.num_rows), pa.int64())
        rows: list[Any] = []
        values: list[tuple[str, Any]] = []
        for name, kind in self._attributes.items():
            column = _whole(table.column(name))
            is_there = column.is_valid()
            rows.append(all_rows.filter(is_there))
            values.append((kind, _cast(column.filter(is_there), kind)))
        taken = pa.concat_arrays(rows)
        columns = {
            "entity_key": _whole(table.column(self._entity)).take(taken),
            "attribute": self._names([len(each) for each in rows]),
        }
        if self._time is not None:
            columns["event_time"] = _whole(table.column(self._time)).take(taken)
        if self._quality is not None:
            columns["quality"] = _whole(table.column(self._quality)).take(taken)
        for kind in self._kinds:
            arrays = [
                array if own == kind else pa.nulls(len(array), _VALUE_TYPES[kind])
                for own, array in values
            ]
            columns[kind] = pa.concat_arrays(arrays)
        return pa.RecordBatch.from_pydict(columns)

    def _names(self, counts: Sequence[int]) -> Any:
        names = pa.array(list(self._attributes), pa.string())
        parts = [pa.repeat(pa.scalar(i, pa.int32()), count) for i, count in enumerate(counts)]
        return pa.DictionaryArray.from_arrays(pa.concat_arrays(parts), names).cast(_NAME)


def melt(
    data: Any,
    *,
    entity: str = "entity_key",
    time: str | None = "event_time",
    quality: str | None = None,
    attributes: Collection[str] | None = None,
    json: Collection[str] = (),
) -> Melted:
    """Make points of a table that has a row per observation and a column per attribute.

    `entity`, `time` (None: the moment of the write) and `quality` name the columns of every point
    of a row; `attributes` the others to be taken, all unless given. A null is no point. Columns
    become values by their types: bool, integers, floats, decimals, text, timestamps and dates;
    those named in `json` hold documents as text. Attributes must be of these types in the catalog.

    Raises ValueError for a column that is not there or of a type without values.
    """
    table = data if isinstance(data, pa.Table) else pa.table(data)
    own = {name for name in (entity, time, quality) if name is not None}
    wanted = attributes if attributes is not None else table.column_names
    names = [name for name in wanted if name not in own]
    for name in (*sorted(own), *names, *json):
        if name not in table.column_names:
            raise ValueError(f"the table has no column {name!r}: it has {table.column_names}")
    if not names:
        raise ValueError("the table has no column that is an attribute")
    kinds = {
        name: "json_value" if name in json else _kind_of(name, table.schema.field(name).type)
        for name in names
    }
    return Melted(table, kinds, entity=entity, time=time, quality=quality)


def _kind_of(name: str, kind: Any) -> str:
    for is_kind, value in _KINDS:
        if is_kind(kind):
            return value
    raise ValueError(f"column {name!r} is {kind}, which no attribute has: cast it or leave it out")


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_moment(kind: Any) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


_KINDS = (
    (pa.types.is_boolean, "bool_value"),
    (pa.types.is_integer, "int_value"),
    (pa.types.is_floating, "double_value"),
    (pa.types.is_decimal, "decimal_value"),
    (_is_text, "text_value"),
    (_is_moment, "time_value"),
)


def _cast(array: Any, kind: str) -> Any:
    if kind == "time_value":
        if pa.types.is_date(array.type):
            array = array.cast(pa.timestamp("us"))
        # Finer times than microseconds are cut off towards the past, as everywhere.
        array = pc.floor_temporal(array, unit="microsecond")
    return array.cast(_VALUE_TYPES[kind])


def _whole(column: Any) -> Any:
    """A column as one array."""
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
