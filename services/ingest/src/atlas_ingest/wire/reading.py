"""The points of a message as columns."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from atlas_common.values import DataType
from atlas_ingest.arrow import ArrowColumns, Defaults, texts
from atlas_ingest.arrow.values import Bools, Doubles, Integers, TypedRows, texts_of
from atlas_ingest.wire import fields
from atlas_ingest.wire.fields import PointFields
from atlas_ingest.wire.splitting import split
from atlas_ingest.wire.strings import strings_of
from atlas_ingest.wire.timestamps import Timestamps
from atlas_ingest.wire.varints import NotCanonicalError

Ints: TypeAlias = npt.NDArray[np.int64]
Distinct: TypeAlias = tuple[Ints, Any]

POINTS_MIN = 500
"""From so many points on, columns take less time than one point after the other."""

_TEXTS = (DataType.TEXT, DataType.JSON, DataType.DECIMAL)


def read(message: bytes, defaults: Defaults) -> ArrowColumns | None:
    """The points of a serialized WriteRequest or WriteStreamBatch.

    None: something in them is not known here; they are to be read one by one.
    """
    points = split(message)
    if not points.count:
        return None
    try:
        return _columns(points.data, fields.read(points), defaults)
    except NotCanonicalError:
        return None


def _columns(data: Any, points: PointFields, defaults: Defaults) -> ArrowColumns:
    times = points.event_times_us
    if not points.has_event_time.all():
        times = np.where(points.has_event_time, times, np.int64(defaults.event_time_us))
    keys, attributes, texts_by_type = _texts(data, points)
    return ArrowColumns(
        entity_keys=texts.named(*keys, defaults.entity_key),
        attributes=texts.named(*attributes, ""),
        event_times_us=times,
        qualities=points.qualities,
        types=points.types,
        values={
            data_type: texts_by_type[data_type]
            if data_type in texts_by_type
            else _typed(data_type, rows, points.numbers[data_type])
            for data_type, rows in points.rows.items()
        },
    )


def _typed(data_type: DataType, rows: Ints, numbers: Any) -> TypedRows:
    match data_type:
        case DataType.BOOL:
            return Bools(rows, numbers.view(np.uint8))
        case DataType.INT:
            return Integers(rows, numbers)
        case DataType.DOUBLE:
            return Doubles(rows, numbers)
        case _:
            return Timestamps(rows, *numbers)


def _texts(data: Any, points: PointFields) -> tuple[Distinct, Distinct, dict[DataType, TypedRows]]:
    """Entity keys, attributes, and the values that are text."""
    types = [data_type for data_type in _TEXTS if data_type in points.rows]
    every_row = np.arange(len(points.types))
    strings = strings_of(
        data,
        (points.entity_keys, points.attributes, points.texts),
        [(0, every_row), (1, every_row), *((2, points.rows[data_type]) for data_type in types)],
    )
    values: dict[DataType, TypedRows] = {}
    if DataType.DECIMAL in types:
        number = 1 + len(types)  # The last one.
        parsed = texts.plain_decimals(points.rows[DataType.DECIMAL], strings.column(number))
        if parsed is not None:
            values[types.pop()] = parsed
    keys, attributes, *others = strings.distinct(2 + len(types))
    for number, (data_type, (codes, distinct)) in enumerate(zip(types, others, strict=True), 2):
        values[data_type] = texts_of(
            data_type,
            points.rows[data_type],
            codes,
            distinct,
            text_bytes=strings.text_bytes(number),
        )
    return keys, attributes, values
