"""Arrow IPC streams for tests: from columns, and from points that came one by one."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType
from atlas_ingest import arrow
from atlas_ingest.columns import Window
from atlas_ingest.row_points import RowPoints
from atlas_ingest.rules import rule_of

NOW_US = 1_800_000_000_000_000
WINDOW = Window(NOW_US - 10_000_000, NOW_US + 1_000_000)
DEFAULTS = arrow.Defaults("", NOW_US)


def attribute(number: int, name: str, data_type: DataType, **rules: Any) -> AttributeDef:
    return AttributeDef(number, name, data_type, is_hot=False, **rules)


DEFINITIONS = [
    attribute(number, *definition[:2], **(definition[2] if len(definition) > 2 else {}))  # type: ignore[arg-type]
    for number, definition in enumerate(
        [
            ("bool", DataType.BOOL),
            ("int", DataType.INT),
            ("double", DataType.DOUBLE),
            ("decimal", DataType.DECIMAL),
            ("text", DataType.TEXT),
            ("time", DataType.TIME),
            ("json", DataType.JSON),
            ("percent", DataType.DOUBLE, {"min_value": Decimal(0), "max_value": Decimal(100)}),
            ("tenth", DataType.DOUBLE, {"min_value": Decimal("0.1")}),
            ("rpm", DataType.INT, {"min_value": Decimal("0.5"), "max_value": Decimal("9.5")}),
            ("huge", DataType.INT, {"min_value": Decimal("1e30")}),
            ("price", DataType.DECIMAL, {"min_value": Decimal("0.01")}),
            ("debt", DataType.DECIMAL, {"max_value": Decimal("-1.005")}),
            ("state", DataType.TEXT, {"allowed_values": ("running", "stopped")}),
            ("serial", DataType.TEXT, {"validation_regex": "[A-Z]{2}[0-9]+"}),
            ("evil", DataType.TEXT, {"validation_regex": "(a+)+$"}),
        ],
        1,
    )
]
RULES = {definition.name: rule_of(definition) for definition in DEFINITIONS}
TYPES = {
    "entity_key": pa.string(),
    "attribute": pa.string(),
    "event_time": pa.int64(),
    "quality": pa.int64(),
    "bool_value": pa.bool_(),
    "int_value": pa.int64(),
    "double_value": pa.float64(),
    "decimal_value": pa.string(),
    "text_value": pa.string(),
    "time_value": pa.timestamp("us", "UTC"),
    "json_value": pa.string(),
}


def stream(table: pa.Table, **options: Any) -> bytes:
    """The table as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def rows(*rows: Mapping[str, Any], types: Mapping[str, Any] | None = None) -> pa.Table:
    """A table of rows; a column for each name in any of them."""
    wanted = {**TYPES, **(types or {})}
    names = [name for name in wanted if any(name in row for row in rows)]
    return pa.table(
        {name: pa.array([row.get(name) for row in rows], wanted[name]) for name in names}
    )


def good(**fields: Any) -> dict[str, Any]:
    """A row without fault, unless told otherwise."""
    row = {"entity_key": "pump-1", "attribute": "double", "event_time": NOW_US, **fields}
    if not any(name.endswith("_value") for name in row):
        row["double_value"] = 1.5
    return row


def read(table: pa.Table, **options: Any) -> arrow.ArrowColumns:
    """The table as the service reads it."""
    data = stream(table, **options)
    arrow.measure(data)
    return arrow.read(data, DEFAULTS)


def as_points(table: pa.Table) -> RowPoints:
    """The same points as messages would bring them; each row has one value at most."""
    points = RowPoints.empty()
    for row in table.to_pylist():
        points.entity_keys.append(row.get("entity_key") or "")
        points.attributes.append(row.get("attribute") or "")
        time_us = row.get("event_time")
        points.event_times_us.append(NOW_US if time_us is None else time_us)
        points.qualities.append(row.get("quality") or 0)
        data_type, value = None, None
        for each in DataType:
            if row.get(f"{each}_value") is not None:
                data_type, value = each, _message_value(row[f"{each}_value"])
        points.types.append(data_type)
        points.values.append(value)
    return points


def _message_value(value: Any) -> Any:
    if isinstance(value, datetime):
        since = value.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        return since.days * 86_400 + since.seconds, since.microseconds * 1_000
    return format(value, "f") if isinstance(value, Decimal) else value
