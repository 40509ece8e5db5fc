"""Changes into rows: what a list of runs does to the warehouse's tables, within one transaction."""

import struct
from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby

import duckdb
import pyarrow as pa

from atlas_cdc_reconciler.changes import (
    UNCHANGED,
    ChangeKind,
    Codec,
    MessageError,
    Relation,
    Row,
    Run,
)
from atlas_cdc_reconciler.columns import FieldError, table_from
from atlas_cdc_reconciler.sink import SchemaChangedError
from atlas_cdc_reconciler.sink.doubt import doubt_windows
from atlas_cdc_reconciler.tables import HISTORY, TABLES, Column, ColumnType, Table

_BATCH = "cdc_batch"  # The name under which a batch's rows are shown to DuckDB.

# What a change can be at fault for. Everything else is the warehouse's own trouble.
_POISON_ERRORS = (
    MessageError,
    FieldError,
    struct.error,
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.OutOfRangeException,
    duckdb.TypeMismatchException,
)


class PoisonError(Exception):
    """At least one of the changes cannot be applied."""


class RowMissingError(PoisonError):
    """A change of a row that the warehouse does not have."""


def apply_runs(connection: duckdb.DuckDBPyConnection, runs: Iterable[Run]) -> None:
    """Apply the changes in the open transaction, which is to be rolled back if this raises.

    Order is kept within a table. Between tables there is none to keep: nobody sees the middle of
    the transaction, and no row refers to another by constraint.

    Raises PoisonError, SchemaChangedError; duckdb.Error when the warehouse itself fails.
    """
    by_table: dict[str, list[Run]] = {}
    for run in runs:
        by_table.setdefault(run.relation.name, []).append(run)
    for name, table_runs in by_table.items():
        table = TABLES.get(name)
        if table is None:
            raise SchemaChangedError(f"the publication has a table {name} that is not known here")
        apply = _apply_keyed if table.key else _apply_history
        try:
            apply(connection, table, table_runs)
        except _POISON_ERRORS as error:
            raise PoisonError(f"{type(error).__name__}: {error}") from error


def column_indexes(relation: Relation, table: Table) -> list[int]:
    """Where the source's messages have the warehouse's columns. Raises SchemaChangedError."""
    at = {column.name: index for index, column in enumerate(relation.columns)}
    indexes = []
    for column in table.columns:
        index = at.get(column.name)
        if index is None:
            raise SchemaChangedError(f"{table.name}.{column.name} is gone at the source")
        oid = relation.columns[index].type_oid
        if oid is not None and oid != column.type.oid:
            raise SchemaChangedError(
                f"{table.name}.{column.name} has another type at the source:"
                f" oid {oid}, not {column.type.oid}"
            )
        indexes.append(index)
    return indexes


def append_rows(connection: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> None:
    """Insert rows that have the table's columns."""
    names = ", ".join(table.column_names)
    with _shown(connection, rows):
        if table is HISTORY:
            doubt_windows(connection, _BATCH)
        connection.execute(f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {_BATCH}")  # noqa: S608


# The history: rows without a key ------------------------------------------------------------------


def _apply_history(
    connection: duckdb.DuckDBPyConnection, table: Table, runs: Sequence[Run]
) -> None:
    # Neighbours of one kind go in one statement: after an outage there are many small transactions.
    for (kind, relation), group in groupby(runs, key=lambda run: (run.kind, run.relation)):
        raws = [raw for run in group for raw in run.raws]
        indexes, codec = column_indexes(relation, table), relation.codec
        match kind:
            case ChangeKind.INSERT:
                columns = list(zip(table.columns, indexes, strict=True))
                append_rows(connection, table, codec.insert_table(raws, relation, columns))
            case ChangeKind.DELETE:
                gone = [_complete(codec.delete(raw, relation)) for raw in raws]
                _delete_rows(connection, table, _rows_table(codec, table, indexes, gone))
            case ChangeKind.UPDATE:
                # One by one: the second update of a row finds what the first one left.
                for raw in raws:
                    old, new = _old_and_new(raw, relation)
                    _delete_rows(connection, table, _rows_table(codec, table, indexes, [old]))
                    append_rows(connection, table, _rows_table(codec, table, indexes, [new]))


def _old_and_new(raw: bytes, relation: Relation) -> tuple[Row, Row]:
    old, new = relation.codec.update(raw, relation)
    if old is None:
        raise MessageError("an update that does not say which row: replica identity is not FULL")
    # What an update leaves unchanged and out is in the old row, which is always whole.
    return _complete(old), [
        before if now is UNCHANGED else now for before, now in zip(old, new, strict=True)
    ]


def _complete(row: Row) -> Row:
    if UNCHANGED in row:
        raise MessageError("an old row that is not complete")
    return row


def _delete_rows(connection: duckdb.DuckDBPyConnection, table: Table, gone: pa.Table) -> None:
    """Delete one row for each of `gone`; of rows that are the same, as many as were deleted."""
    names = ", ".join(table.column_names)
    same = " AND ".join(map(_is_same, table.columns))
    numbered = ", ".join(f"t.{name}" for name in table.column_names)
    with _shown(connection, gone):
        doubt_windows(connection, _BATCH)
        row = connection.execute(
            f"""
            DELETE FROM {table.name} WHERE rowid IN (
                SELECT row_id FROM (
                    SELECT t.rowid AS row_id, g.copies,
                        row_number() OVER (PARTITION BY {numbered} ORDER BY t.rowid) AS number
                    FROM {table.name} AS t
                    JOIN (SELECT {names}, count(*) AS copies FROM {_BATCH} GROUP BY ALL) AS g
                    ON {same}
                ) WHERE number <= copies)
            """  # noqa: S608 - names of our own tables and columns.
        ).fetchone()
    deleted = row[0] if row else 0
    if deleted != gone.num_rows:
        raise RowMissingError(f"{gone.num_rows - deleted} of {gone.num_rows} rows are not here")


def _is_same(column: Column) -> str:
    name = column.name
    if column.type is ColumnType.DOUBLE:  # Equal bits: 0.0 = -0.0, and they are two values.
        return f"t.{name}::BIT IS NOT DISTINCT FROM g.{name}::BIT"
    return f"t.{name} = g.{name}" if column.not_null else f"t.{name} IS NOT DISTINCT FROM g.{name}"


# Tables with a key --------------------------------------------------------------------------------


def _apply_keyed(connection: duckdb.DuckDBPyConnection, table: Table, runs: Sequence[Run]) -> None:
    """Fold the changes to the last state of each key, then store those."""
    last: dict[tuple[Hashable, ...], Row | None] = {}  # None: deleted.
    key_at = [table.column_names.index(name) for name in table.key]
    codec = runs[0].relation.codec  # A batch has one source.
    for run in runs:
        indexes = column_indexes(run.relation, table)
        for raw in run.raws:
            _fold(last, run, raw, indexes, key_at)
    deleted = [key for key, row in last.items() if row is None]
    if deleted:
        _delete_keys(connection, codec, table, deleted)
    stored = [row for row in last.values() if row is not None]
    # Rows lacking the same large values can be stored by the same statement; mostly none lacks any.
    stored.sort(key=_missing)
    for missing, rows in groupby(stored, key=_missing):
        _upsert(connection, codec, table, set(missing), list(rows))


def _fold(
    last: dict[tuple[Hashable, ...], Row | None],
    run: Run,
    raw: bytes,
    indexes: list[int],
    key_at: list[int],
) -> None:
    codec, relation = run.relation.codec, run.relation

    def ours(row: Row) -> Row:
        return [row[index] for index in indexes]

    def key_of(row: Row) -> tuple[Hashable, ...]:
        return tuple(row[at] for at in key_at)

    if run.kind is ChangeKind.DELETE:
        last[key_of(ours(codec.delete(raw, relation)))] = None
        return
    old: Row | None = None
    if run.kind is ChangeKind.INSERT:
        new = ours(codec.insert(raw, relation))
    else:
        sent_old, sent_new = codec.update(raw, relation)
        old, new = (None if sent_old is None else ours(sent_old)), ours(sent_new)
    key = key_of(new)
    before = last.get(key)
    if old is not None and key_of(old) != key:
        before = last.get(key_of(old))
        last[key_of(old)] = None
    if before is not None:
        new = [was if now is UNCHANGED else now for was, now in zip(before, new, strict=True)]
    last[key] = new


def _missing(row: Row) -> tuple[int, ...]:
    return tuple(index for index, value in enumerate(row) if value is UNCHANGED)


def _upsert(
    connection: duckdb.DuckDBPyConnection,
    codec: Codec,
    table: Table,
    missing: set[int],
    rows: list[Row],
) -> None:
    columns = [column for index, column in enumerate(table.columns) if index not in missing]
    batch = table_from(
        {
            column.name: (column.type, _sent([row[index] for row in rows]))
            for index, column in enumerate(table.columns)
            if index not in missing
        },
        codec.to_arrow,
    )
    on = " AND ".join(f"t.{name} = b.{name}" for name in table.key)
    sets = ", ".join(f"{c.name} = b.{c.name}" for c in columns if c.name not in table.key)
    names = ", ".join(column.name for column in columns)
    values = ", ".join(f"b.{column.name}" for column in columns)
    # A row that lacks values can only be the newer state of one that is here.
    insert = f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"  # noqa: S608
    with _shown(connection, batch):
        row = connection.execute(
            f"MERGE INTO {table.name} AS t USING {_BATCH} AS b ON {on}"
            f" WHEN MATCHED THEN UPDATE SET {sets} {'' if missing else insert}"
        ).fetchone()
    merged = row[0] if row else 0
    if merged != len(rows):
        raise RowMissingError(f"{len(rows) - merged} updated rows are not here")


def _delete_keys(
    connection: duckdb.DuckDBPyConnection,
    codec: Codec,
    table: Table,
    keys: list[tuple[Hashable, ...]],
) -> None:
    types = {column.name: column.type for column in table.columns}
    batch = table_from(
        {
            name: (types[name], _sent([key[at] for key in keys]))
            for at, name in enumerate(table.key)
        },
        codec.to_arrow,
    )
    on = " AND ".join(f"t.{name} = b.{name}" for name in table.key)
    with _shown(connection, batch):
        connection.execute(f"DELETE FROM {table.name} AS t USING {_BATCH} AS b WHERE {on}")  # noqa: S608


# Both ---------------------------------------------------------------------------------------------


def _rows_table(codec: Codec, table: Table, indexes: list[int], rows: Sequence[Row]) -> pa.Table:
    return table_from(
        {
            column.name: (column.type, _sent([row[index] for row in rows]))
            for column, index in zip(table.columns, indexes, strict=True)
        },
        codec.to_arrow,
    )


def _sent(fields: Sequence[Hashable]) -> Sequence[Hashable]:
    """The fields, once it is sure that none of them was left out."""
    if UNCHANGED in fields:
        raise MessageError("a value that was not sent")
    return fields


class _shown:  # noqa: N801 - used like a function.
    """Show rows to DuckDB under the name of the batch, for a block."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
        self._connection = connection
        connection.register(_BATCH, rows)

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._connection.unregister(_BATCH)
