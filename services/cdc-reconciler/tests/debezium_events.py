"""Events as Debezium 3.6 writes them: each field was seen in one that its engine made."""

import json
from collections.abc import Mapping
from typing import Any

from atlas_cdc_reconciler.tables import ColumnType, Table

_SCHEMAS: Mapping[ColumnType, dict[str, Any]] = {
    ColumnType.BOOL: {"type": "boolean"},
    ColumnType.INT2: {"type": "int16"},
    ColumnType.INT4: {"type": "int32"},
    ColumnType.INT8: {"type": "int64"},
    ColumnType.DOUBLE: {"type": "double"},
    ColumnType.DECIMAL: {"type": "string"},
    ColumnType.NUMERIC_TEXT: {"type": "string"},
    ColumnType.TEXT: {"type": "string"},
    ColumnType.TEXT_ARRAY: {"type": "array", "items": {"type": "string", "optional": True}},
    ColumnType.TIME: {"type": "string", "name": "io.debezium.time.ZonedTimestamp", "version": 1},
    ColumnType.JSON: {"type": "string", "name": "io.debezium.data.Json", "version": 1},
}


def change(
    table: str,
    op: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    *,
    lsn: int = 28_736_432,
    previous_commit: int | None = None,
    transaction: str = "869",
    order: int | None = 1,
    snapshot: str = "false",
) -> dict[str, Any]:
    """A change's payload."""
    numbers = {"total_order": order, "data_collection_order": order}
    sequence = [None if previous_commit is None else str(previous_commit), str(lsn)]
    return {
        "before": before,
        "after": after,
        "source": {
            "version": "3.6.3.Final",
            "connector": "postgresql",
            "name": "atlas",
            "ts_ms": 1795760376592,
            "snapshot": snapshot,
            "db": "atlas",
            "sequence": json.dumps(sequence),
            "schema": "atlas",
            "table": table,
            "txId": int(transaction),
            "lsn": lsn,
            "xmin": None,
            "origin": None,
            "origin_lsn": None,
        },
        "transaction": None if order is None else {"id": f"{transaction}:{lsn}", **numbers},
        "op": op,
        "ts_ms": 1795760377055,
    }


def boundary(status: str, transaction: str, lsn: int, count: int | None = None) -> bytes:
    """The beginning or the end of a transaction."""
    return encoded(
        {
            "status": status,
            "id": f"{transaction}:{lsn}",
            "event_count": count,
            "data_collections": None,
            "ts_ms": 1795760376592,
        }
    )


HEARTBEAT = b'{"ts_ms":1795760374331}'


def encoded(payload: Mapping[str, Any]) -> bytes:
    """Without its schema. Java writes what is no finite number as text."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def with_schema(payload: Mapping[str, Any], table: Table) -> bytes:
    """With the schema of a table's changes."""
    row = {
        "type": "struct",
        "optional": True,
        "name": f"atlas.atlas.{table.name}.Value",
        "fields": [
            {**_SCHEMAS[column.type], "optional": not column.not_null, "field": column.name}
            for column in table.columns
        ],
    }
    fields = [{**row, "field": "before"}, {**row, "field": "after"}]
    fields.append({"type": "string", "optional": False, "field": "op"})
    schema = {"type": "struct", "name": f"atlas.atlas.{table.name}.Envelope", "fields": fields}
    return encoded({"schema": schema, "payload": payload})
