"""The messages of Postgres' logical replication, protocol version 1, with binary values.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html; pure, no I/O.
"""

import struct
from collections.abc import Hashable, Iterable, Sequence

import pyarrow as pa

from atlas_cdc_reconciler.changes import (
    UNCHANGED,
    Codec,
    MessageError,
    Relation,
    Row,
    SourceColumn,
)
from atlas_cdc_reconciler.columns import Field, table_from, to_arrow
from atlas_cdc_reconciler.lsn import Lsn
from atlas_cdc_reconciler.source import layouts
from atlas_cdc_reconciler.tables import Column, ColumnType

BEGIN, COMMIT, RELATION = ord("B"), ord("C"), ord("R")
INSERT, UPDATE, DELETE, TRUNCATE = ord("I"), ord("U"), ord("D"), ord("T")
IGNORED = frozenset(b"OYM")  # Origin, type, and messages that others wrote into the WAL.

_UINT64 = struct.Struct(">Q")
_COMMIT = struct.Struct(">xBQQq")
_NULL, _UNCHANGED, _TEXT, _BINARY = ord("n"), ord("u"), ord("t"), ord("b")
_NEW, _KEY, _OLD = ord("N"), ord("K"), ord("O")


def begin_lsn(raw: bytes) -> Lsn:
    """Where the commit record of the transaction that begins here lies."""
    return Lsn(_UINT64.unpack_from(raw, 1)[0])


def commit_end(raw: bytes) -> Lsn:
    """The position behind the transaction that ends here: what lies before it has been sent."""
    return Lsn(_COMMIT.unpack_from(raw)[2])


def relation_id(raw: bytes) -> int:
    """The relation that a change belongs to."""
    return int.from_bytes(raw[1:5], "big")


def parse_relation(raw: bytes) -> Relation:
    """A relation's description. Raises MessageError."""
    try:
        number = relation_id(raw)
        schema, name, rest = raw[5:].split(b"\0", 2)
        (count,) = struct.unpack_from(">xH", rest)  # After the replica identity.
        columns = []
        offset = 3
        for _ in range(count):
            end = rest.index(b"\0", offset + 1)
            (type_oid,) = struct.unpack_from(">I", rest, end + 1)
            columns.append(
                SourceColumn(rest[offset + 1 : end].decode(), type_oid, bool(rest[offset] & 1))
            )
            offset = end + 9
    except (ValueError, struct.error, IndexError) as error:
        raise MessageError(f"no relation message: {error}") from error
    return Relation(number, schema.decode(), name.decode(), tuple(columns), CODEC)


def insert_table(
    raws: Sequence[bytes], count: int, columns: Sequence[tuple[Column, int]]
) -> pa.Table:
    """Rows that were inserted, as the warehouse's columns; with each, its place among `count`.

    In any order. Raises MessageError, FieldError.
    """
    together, rest = layouts.split(raws, count)
    parts = [layouts.decode(layout, matrix, columns) for layout, matrix in together]
    if rest or not parts:
        try:
            fields = insert_columns(rest, count)
        except IndexError as error:
            raise MessageError("an insert that ends too soon") from error
        parts.append(table_from({column.name: (column.type, fields[at]) for column, at in columns}))
    return pa.concat_tables(parts)


def insert_columns(raws: Iterable[bytes], count: int) -> list[list[Field]]:
    """Columns of the rows that were inserted: one list per column. Raises MessageError."""
    columns: list[list[Field]] = [[] for _ in range(count)]
    appends = [column.append for column in columns]
    from_bytes = int.from_bytes
    for raw in raws:
        if raw[5] != _NEW or from_bytes(raw[6:8], "big") != count:
            raise MessageError(f"an insert that does not have {count} columns")
        offset = 8
        # Hot where layouts are many, as with long texts: all is local, the commonest comes first.
        for append in appends:
            mark = raw[offset]
            if mark == _NULL:
                append(None)
                offset += 1
            elif mark == _BINARY:
                start = offset + 5
                offset = start + from_bytes(raw[offset + 1 : start], "big")
                append(raw[start:offset])
            else:
                raise MessageError(_odd_mark(mark))
        if offset != len(raw):
            raise MessageError("an insert of another length than it says")
    return columns


def parse_update(raw: bytes) -> tuple[Row | None, Row]:
    """The old row or its key, if it was sent, and the new row. Raises MessageError."""
    try:
        old: Row | None = None
        offset = 5
        if raw[offset] in (_KEY, _OLD):
            old, offset = _parse_tuple(raw, offset + 1)
        if raw[offset] != _NEW:
            raise MessageError("an update without a new row")
        new, offset = _parse_tuple(raw, offset + 1)
    except (struct.error, IndexError) as error:
        raise MessageError(f"an update that ends too soon: {error}") from error
    return old, new


def parse_delete(raw: bytes) -> Row:
    """The row that was deleted, or its key with NULL elsewhere. Raises MessageError."""
    try:
        if raw[5] not in (_KEY, _OLD):
            raise MessageError("a delete without an old row")
        old, _ = _parse_tuple(raw, 6)
    except (struct.error, IndexError) as error:
        raise MessageError(f"a delete that ends too soon: {error}") from error
    return old


def parse_insert(raw: bytes) -> Row:
    """The row that was inserted. Raises MessageError."""
    try:
        new, _ = _parse_tuple(raw, 6)
    except (struct.error, IndexError) as error:
        raise MessageError(f"an insert that ends too soon: {error}") from error
    return new


def _parse_tuple(raw: bytes, offset: int) -> tuple[Row, int]:
    (count,) = struct.unpack_from(">H", raw, offset)
    offset += 2
    fields: Row = []
    for _ in range(count):
        mark = raw[offset]
        offset += 1
        if mark == _NULL:
            fields.append(None)
        elif mark == _UNCHANGED:
            fields.append(UNCHANGED)
        elif mark == _BINARY:
            (size,) = struct.unpack_from(">I", raw, offset)
            offset += 4
            if offset + size > len(raw):
                raise MessageError("a value that goes beyond its message")
            fields.append(raw[offset : offset + size])
            offset += size
        else:
            raise MessageError(_odd_mark(mark))
    return fields, offset


def _odd_mark(mark: int) -> str:
    if mark == _TEXT:
        return "a value as text: its type has no binary form"
    return f"a value marked {chr(mark)!r}"


class _PgOutput:
    """As Codec."""

    name = "pgoutput"

    def insert_table(
        self, raws: Sequence[bytes], relation: Relation, columns: Sequence[tuple[Column, int]]
    ) -> pa.Table:
        return insert_table(raws, len(relation.columns), columns)

    def insert(self, raw: bytes, _: Relation) -> Row:
        return parse_insert(raw)

    def update(self, raw: bytes, _: Relation) -> tuple[Row | None, Row]:
        return parse_update(raw)

    def delete(self, raw: bytes, _: Relation) -> Row:
        return parse_delete(raw)

    def to_arrow(self, column_type: ColumnType, fields: Sequence[Hashable]) -> pa.Array:
        return to_arrow(column_type, fields)  # type: ignore[arg-type]  # They are ours: bytes.


CODEC: Codec = _PgOutput()
