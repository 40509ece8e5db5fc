"""Rows of a table to batches of points, always cut at the same places."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from atlas.type.v1 import value_pb2
from atlas_client.importing.cells import TimeUnit, cell_type, joined, parse_time, parser
from atlas_client.importing.errors import CellError, MappingError
from atlas_client.importing.mapping import Shape
from atlas_client.importing.source import Rows
from atlas_client.values import DataType, Value, set_value

# A batch ends by the number of its cells or by their size. Both are properties of the file alone,
# not of the catalog: the same file is always cut into the same batches, with the same ids.
CELLS_MAX = 5000
BYTES_MAX = 4 * 1024 * 1024
ATTRIBUTES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One value as it stands in the file."""

    row: int
    entity: str
    attribute: str
    time: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Rejected:
    """A cell, or a whole broken row, that was not stored."""

    row: int
    reason: str
    message: str
    entity: str = ""
    attribute: str = ""
    time: Any = ""
    value: Any = ""


@dataclass(slots=True)
class Batch:
    """The points of one write."""

    number: int
    cells: list[Cell] = field(default_factory=list)
    """Those of the points, index by index."""
    points: list[value_pb2.Point] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def request_id(self, import_id: bytes) -> str:
        """Return the same id for the same batch of the same file."""
        seed = import_id + self.number.to_bytes(8, "big")
        return f"import-{hashlib.sha256(seed).hexdigest()[:48]}"


def cells_of(rows: Rows, shape: Shape) -> Iterator[Cell]:
    """Go through the cells; a wide table's empty ones are no values at all."""
    count = len(rows.numbers)
    times = rows.columns[shape.time]
    entities = rows.columns[shape.entity] if shape.entity else [shape.entity_key] * count
    names = rows.columns[shape.attribute] if shape.attribute else [shape.attribute_name] * count
    for index, row in enumerate(rows.numbers):
        entity, attribute = _key(entities[index]), _key(names[index])
        for column in shape.values:
            value = rows.columns[column][index]
            if value is None and shape.is_wide:
                continue
            yield Cell(row, entity, column if shape.is_wide else attribute, times[index], value)


def _key(cell: Any) -> str:
    return "" if cell is None else str(cell)


class TypeSurvey:
    """Finds the types of attributes that the catalog does not have."""

    def __init__(self, known: Iterable[str], *, texts_are_text: bool) -> None:
        self.types: dict[str, DataType] = {}
        self._known = frozenset(known)
        self._texts_are_text = texts_are_text

    def look(self, cells: Iterable[Cell]) -> None:
        """Take account of some cells. Raises MappingError for too many attributes."""
        for cell in cells:
            name = cell.attribute
            if cell.value is None or not name or name in self._known:
                continue
            known = self.types.get(name)
            if known is DataType.TEXT:
                continue  # Holds everything.
            is_text = self._texts_are_text and isinstance(cell.value, str)
            own = DataType.TEXT if is_text else cell_type(cell.value)
            self.types[name] = joined(known, own)
        if len(self.types) > ATTRIBUTES_MAX:
            raise MappingError(
                f"more than {ATTRIBUTES_MAX:,} different attributes: is this the right column?"
            )


class BatchCutter:
    """Makes typed points of cells, and batches of points."""

    def __init__(self, types: Mapping[str, DataType], unit: TimeUnit) -> None:
        self._parsers: dict[str, Callable[[Any], Value]] = {
            name: parser(data_type, unit) for name, data_type in types.items()
        }
        self._unit = unit

    def cut(self, tables: Iterable[Rows], shape: Shape) -> Iterator[Batch]:
        """Go through a file's rows, batch by batch."""
        batch, cells, size = Batch(0), 0, 0
        for rows in tables:
            for broken in rows.broken:
                batch.rejected.append(
                    Rejected(broken.row, "INVALID_FIELD", broken.message, value=broken.text)
                )
            for cell in cells_of(rows, shape):
                self._add(batch, cell)
                cells += 1
                size += 64 + (len(cell.value) if isinstance(cell.value, str) else 0)
                if cells >= CELLS_MAX or size >= BYTES_MAX:
                    yield batch
                    batch, cells, size = Batch(batch.number + 1), 0, 0
        if cells or batch.rejected:
            yield batch

    def _add(self, batch: Batch, cell: Cell) -> None:
        try:
            point = self._point(cell)
        except CellError as error:
            batch.rejected.append(rejected(cell, error.reason, str(error)))
        else:
            batch.cells.append(cell)
            batch.points.append(point)

    def _point(self, cell: Cell) -> value_pb2.Point:
        if not cell.entity:
            raise CellError("ENTITY_KEY_INVALID", "the entity is empty")
        if cell.value is None:
            raise CellError("VALUE_MISSING", "the value is empty")
        parse = self._parsers.get(cell.attribute)
        if parse is None:
            message = f"no attribute {cell.attribute!r} (see --create-attributes)"
            raise CellError("ATTRIBUTE_UNKNOWN", message)
        point = value_pb2.Point(
            entity_key=cell.entity,
            attribute=cell.attribute,
            event_time_us=parse_time(cell.time, self._unit),
        )
        set_value(point, parse(cell.value))
        return point


def rejected(cell: Cell, reason: str, message: str) -> Rejected:
    """Return a report of the cell."""
    return Rejected(cell.row, reason, message, cell.entity, cell.attribute, cell.time, cell.value)
