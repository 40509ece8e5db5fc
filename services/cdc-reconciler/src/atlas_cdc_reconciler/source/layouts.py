"""Inserted rows into Arrow without a step per field: rows of one layout are decoded together.

Where the fields of a message lie follows from its NULLs and the fields' lengths alone. Telemetry
has few such layouts: one for each type, and one more for each length of a text. Messages that share
one are a matrix of bytes, and a field of all of them is a range of its columns. Pure, no I/O.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from atlas_cdc_reconciler.columns import FieldError, null_column, to_arrow_fixed
from atlas_cdc_reconciler.tables import Column

_HEADER_BYTES = 8
# Fewer rows are decoded field by field: numpy has its price per call.
_ROWS_MIN = 24
# A batch of long texts has one for nearly every row.
_LAYOUTS_MAX = 256

Matrix = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields of an insert message lie."""

    spans: tuple[tuple[int, int] | None, ...]
    """By field: where it starts and stops; None: it is NULL."""
    marks: npt.NDArray[np.intp]
    """Where bytes stand that are equal in all messages of this layout, and in no other's."""


def split(raws: Sequence[bytes], count: int) -> tuple[list[tuple[Layout, Matrix]], list[bytes]]:
    """Insert messages of `count` fields by layout; and those to be read one by one.

    The latter have a rare layout, or are no such messages.
    """
    by_length: dict[int, list[bytes]] = {}
    for raw in raws:
        same = by_length.get(len(raw))
        if same is None:
            by_length[len(raw)] = [raw]
        else:
            same.append(raw)
    together: list[tuple[Layout, Matrix]] = []
    rest: list[bytes] = []
    for length, same in by_length.items():
        if len(same) < _ROWS_MIN:
            rest += same
            continue
        left = np.frombuffer(b"".join(same), dtype=np.uint8).reshape(-1, length)
        while len(left) >= _ROWS_MIN and len(together) < _LAYOUTS_MAX:
            layout = _layout_of(left[0].tobytes(), count)
            if layout is None:
                break
            is_same = (left[:, layout.marks] == left[0, layout.marks]).all(axis=1)
            together.append((layout, left[is_same]))
            left = left[~is_same]
        rest += [row.tobytes() for row in left]
    return together, rest


def decode(layout: Layout, matrix: Matrix, columns: Sequence[tuple[Column, int]]) -> pa.Table:
    """Rows of one layout as the warehouse's columns; with each, its place in the message.

    Raises FieldError naming the column.
    """
    arrays = {}
    for column, at in columns:
        span = layout.spans[at]
        if span is None:
            arrays[column.name] = null_column(column.type, len(matrix))
            continue
        try:
            arrays[column.name] = to_arrow_fixed(column.type, matrix[:, slice(*span)])
        except FieldError as error:
            raise FieldError(f"{column.name}: {error}") from error
    return pa.table(arrays)


def _layout_of(raw: bytes, field_count: int) -> Layout | None:
    """The layout of a message; None if it is no insert of so many fields, NULL or binary."""
    spans: list[tuple[int, int] | None] = []
    marks = list(range(_HEADER_BYTES))
    offset = _HEADER_BYTES
    if raw[5:_HEADER_BYTES] != b"N" + field_count.to_bytes(2, "big"):
        return None
    for _ in range(field_count):
        mark = raw[offset : offset + 1]
        if mark == b"n":
            marks.append(offset)
            spans.append(None)
            offset += 1
        elif mark == b"b":
            marks += range(offset, offset + 5)
            start = offset + 5
            offset = start + int.from_bytes(raw[offset + 1 : start], "big")
            spans.append((start, offset))
        else:
            return None
    return Layout(tuple(spans), np.array(marks, dtype=np.intp)) if offset == len(raw) else None
