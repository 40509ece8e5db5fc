"""Debezium's change events in JSON, with or without their schema; pure, no I/O.

https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pyarrow as pa

from atlas_cdc_reconciler.changes import (
    UNCHANGED,
    ChangeKind,
    Codec,
    MessageError,
    Relation,
    Row,
    SourceColumn,
)
from atlas_cdc_reconciler.columns import table_from
from atlas_cdc_reconciler.lsn import Lsn
from atlas_cdc_reconciler.source.json_fields import to_arrow
from atlas_cdc_reconciler.tables import Column, ColumnType

UNAVAILABLE: Final = "__debezium_unavailable_value"
"""Stands for a large value that an update did not touch (unavailable.value.placeholder)."""

_KINDS = {
    "c": ChangeKind.INSERT,
    "r": ChangeKind.INSERT,
    "u": ChangeKind.UPDATE,
    "d": ChangeKind.DELETE,
}
_MESSAGE = "m"  # Of pg_logical_emit_message(): no change of a row, but numbered like one.
# What a schema says of a type, where that is one type of Postgres alone: texts and decimals are
# both plain strings.
_OIDS = {
    ("boolean", None): ColumnType.BOOL.oid,
    ("int16", None): ColumnType.INT2.oid,
    ("int32", None): ColumnType.INT4.oid,
    ("int64", None): ColumnType.INT8.oid,
    ("double", None): ColumnType.DOUBLE.oid,
    ("array of string", None): ColumnType.TEXT_ARRAY.oid,
    ("string", "io.debezium.time.ZonedTimestamp"): ColumnType.TIME.oid,
    ("string", "io.debezium.data.Json"): ColumnType.JSON.oid,
}
_SHAPES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a row, or a logical message, as far as its place in the log goes."""

    kind: ChangeKind | None
    """None for a message that somebody wrote into the log."""
    relation: Relation | None
    lsn: Lsn
    snapshot: str | None
    """For a row of a snapshot its place there: "first" and "last" are its ends."""
    transaction_id: str
    order: int | None
    """Its number in the transaction from 1 on; None in a snapshot, or without metadata."""
    previous_commit: Lsn | None
    """Behind the transaction that Debezium saw before this one; None if it has seen none."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """A transaction begins or ends (provide.transaction.metadata)."""

    transaction_id: str
    lsn: Lsn
    """At the end: the position behind its commit."""
    event_count: int | None
    """At the end: the events in it. None at the beginning."""


class EventReader:
    """Reads events; remembers the shapes of tables, since each change tells its own."""

    def __init__(self) -> None:
        self._relations: dict[Hashable, Relation] = {}

    def read(self, raw: bytes) -> Event | Boundary | None:
        """What a message says; None for a heartbeat. Raises MessageError for anything else."""
        schema, payload = _opened(raw)
        try:
            if "op" in payload:
                return self._event(schema, payload)
            if "status" in payload and "id" in payload:
                return _boundary(payload)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise MessageError(f"an event without what belongs to it: {error!r}") from error
        if payload.keys() == {"ts_ms"}:
            return None
        raise MessageError("no event of Debezium's: it has neither op nor status")

    def _event(self, schema: Mapping[str, Any] | None, payload: Mapping[str, Any]) -> Event:
        source, transaction = payload["source"], payload.get("transaction")
        op = payload["op"]
        if op not in _KINDS and op != _MESSAGE:
            raise MessageError(f"an event with op {op!r}, which is not published")
        place = source.get("snapshot")
        previous, _ = orjson.loads(source.get("sequence") or "[null,null]")
        return Event(
            _KINDS.get(op),
            None if op == _MESSAGE else self._relation(schema, payload),
            Lsn(int(source["lsn"])),
            str(place) if op == "r" else None,
            str(source["txId"]),
            int(transaction["total_order"]) if transaction else None,
            None if previous is None else Lsn(int(previous)),
        )

    def _relation(self, schema: Mapping[str, Any] | None, payload: Mapping[str, Any]) -> Relation:
        source = payload["source"]
        side = "before" if payload["op"] == "d" else "after"
        types = _types(schema, side) if schema else {}
        shape = (source["schema"], source["table"], tuple(payload[side]), tuple(types.values()))
        relation = self._relations.get(shape)
        if relation is None:
            if len(self._relations) >= _SHAPES_MAX:
                self._relations.clear()
            columns = tuple(
                SourceColumn(name, types.get(name), is_key=False) for name in payload[side]
            )
            relation = Relation(0, source["schema"], source["table"], columns, CODEC)
            self._relations[shape] = relation
        return relation


def _opened(raw: bytes) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
    """(schema, payload): the converter wraps events so if schemas.enable is on."""
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MessageError(f"no JSON: {error}") from error
    if not isinstance(message, dict):
        raise MessageError("no event: a JSON value that is no object")
    if message.keys() == {"schema", "payload"}:
        if not isinstance(message["payload"], dict):
            raise MessageError("no event: a payload that is no object")
        return message["schema"], message["payload"]
    return None, message


def _boundary(payload: Mapping[str, Any]) -> Boundary:
    transaction_id, lsn = payload["id"].split(":")
    ends = payload["status"] == "END"
    if not ends and payload["status"] != "BEGIN":
        raise MessageError(f"a transaction with status {payload['status']!r}")
    return Boundary(transaction_id, Lsn(int(lsn)), int(payload["event_count"]) if ends else None)


def _types(schema: Mapping[str, Any], side: str) -> dict[str, int | None]:
    """The types that a schema has for the columns of a row."""
    row = next(field for field in schema["fields"] if field["field"] == side)
    return {field["field"]: _OIDS.get(_type(field)) for field in row["fields"]}


def _type(field: Mapping[str, Any]) -> tuple[str, str | None]:
    if field["type"] == "array":
        return f"array of {field['items']['type']}", field.get("name")
    return field["type"], field.get("name")


class _Debezium:
    """As Codec."""

    name = "debezium"

    def insert_table(
        self, raws: Sequence[bytes], relation: Relation, columns: Sequence[tuple[Column, int]]
    ) -> pa.Table:
        rows = [_side(raw, "after") for raw in raws]
        names = [relation.columns[at].name for _, at in columns]
        try:
            fields = {
                column.name: (column.type, [row[name] for row in rows])
                for (column, _), name in zip(columns, names, strict=True)
            }
        except KeyError as error:
            raise MessageError(f"a row without its column {error}") from error
        return table_from(fields, to_arrow)

    def insert(self, raw: bytes, relation: Relation) -> Row:
        return _row(_side(raw, "after"), relation)

    def update(self, raw: bytes, relation: Relation) -> tuple[Row | None, Row]:
        _, payload = _opened(raw)
        before = payload.get("before")
        old = None if before is None else _row(before, relation)
        new = [
            UNCHANGED if field in (UNAVAILABLE, (UNAVAILABLE,)) else field
            for field in _row(_side(raw, "after"), relation)
        ]
        return old, new

    def delete(self, raw: bytes, relation: Relation) -> Row:
        return _row(_side(raw, "before"), relation)

    def to_arrow(self, column_type: ColumnType, fields: Sequence[Hashable]) -> pa.Array:
        return to_arrow(column_type, fields)


def _side(raw: bytes, side: str) -> Mapping[str, Any]:
    row = _opened(raw)[1].get(side)
    if not isinstance(row, dict):
        raise MessageError(f"a change without the row {side}")
    return row


def _row(fields: Mapping[str, Any], relation: Relation) -> Row:
    try:
        row = [fields[column.name] for column in relation.columns]
    except KeyError as error:
        raise MessageError(f"a row without its column {error}") from error
    except TypeError as error:
        raise MessageError("a row that is no object") from error
    return [tuple(field) if isinstance(field, list) else field for field in row]


CODEC: Codec = _Debezium()
