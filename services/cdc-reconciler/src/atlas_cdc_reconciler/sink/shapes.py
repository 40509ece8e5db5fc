"""What the warehouse's tables look like now, and how the source's changes fit them.

The source's description of a table travels in the stream, before the changes that need it. Columns
that are new there are added here; what does not fit any more is said, and a person decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

from atlas_cdc_reconciler.changes import Relation
from atlas_cdc_reconciler.columns import FieldError, arrow_type
from atlas_cdc_reconciler.tables import TABLES, Column, ColumnType, Table

_OVERRIDES = "SELECT table_name, column_name, type_name, not_null FROM cdc_columns ORDER BY rowid"
_FORGET = "DELETE FROM cdc_columns WHERE table_name = ? AND column_name = ?"
_REMEMBER = "INSERT INTO cdc_columns VALUES (?, ?, ?, ?)"
_COLUMNS_MAX = 500


class MisfitError(Exception):
    """The source's table does not fit the warehouse's any more."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a relation has the columns of a table."""

    columns: tuple[tuple[Column, int], ...]
    """The columns that it has, with their places in the relation; others are NULL from now on."""
    casts: tuple[tuple[str, ColumnType], ...] = ()
    """Columns that are of another type at the source, with those of the warehouse."""

    def cast(self, rows: pa.Table) -> pa.Table:
        """Rows as they were read in the warehouse's types. Raises FieldError if that loses any."""
        for name, column_type in self.casts:
            at = rows.schema.get_field_index(name)
            if at < 0:  # Rows without it: of an update that left it as it was.
                continue
            try:
                values = rows.column(at).cast(arrow_type(column_type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise FieldError(f"{name}: no {column_type.name}: {error}") from error
            rows = rows.set_column(at, name, values)
        return rows

    def place(self, name: str) -> int:
        """Where a column is. Raises KeyError."""
        for column, at in self.columns:
            if column.name == name:
                return at
        raise KeyError(name)


def fit(relation: Relation, table: Table, *, lenient: bool = False) -> Fit:
    """How changes of the relation fit the table. Raises MisfitError.

    `lenient`: values of other types are converted, but those of what a row is found by. Only where
    a person asked for it: in the stream a type that changed is a question.
    """
    at = {column.name: index for index, column in enumerate(relation.columns)}
    columns, casts = [], []
    for column in table.columns:
        index = at.get(column.name)
        if index is None:
            if column.not_null:
                raise MisfitError(f"{table.name}.{column.name} is gone at the source")
            continue
        oid = relation.columns[index].type_oid
        if oid is not None and column.type is not ColumnType.OTHER and not column.type.fits(oid):
            if not lenient or column.name in table.identity:
                raise MisfitError(
                    f"{table.name}.{column.name} has another type at the source:"
                    f" oid {oid}, not {column.type.oid}"
                )
            casts.append((column.name, column.type))
            column = replace(column, type=ColumnType.of(oid))  # noqa: PLW2901 - as it is read.
        columns.append((column, index))
    keys = {column.name for column in relation.columns if column.is_key}
    # All of them: the replica identity is FULL, which says nothing of the key.
    if table.key and keys and len(keys) < len(relation.columns) and keys != set(table.key):
        raise MisfitError(
            f"{table.name} has another key at the source: {', '.join(sorted(keys))},"
            f" not {', '.join(table.key)}"
        )
    return Fit(tuple(columns), tuple(casts))


class Shapes:
    """The tables as they are in the file: those of this release, and what the stream added."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._tables: dict[str, Table] = {}
        self._seen: set[Relation] = set()
        self.reload()

    def reload(self) -> None:
        """Read them anew: after a transaction that came to nothing."""
        self._seen.clear()
        self._tables = dict(TABLES)
        for name, column_name, type_name, not_null in self._connection.execute(
            _OVERRIDES
        ).fetchall():
            column = Column(column_name, ColumnType[type_name], not_null)
            self._tables[name] = _with(self._tables[name], column)

    def table(self, name: str) -> Table | None:
        """The table; None if the warehouse has none of this name."""
        return self._tables.get(name)

    def evolve(self, relations: Iterable[Relation]) -> Mapping[str, list[str]]:
        """Add what is new at the source; answers the names of the columns added, by table.

        At the beginning of a transaction: DuckDB alters no table whose rows it changed already.
        """
        added: dict[str, list[str]] = {}
        for relation in relations:
            if relation in self._seen:
                continue
            table = self._tables.get(relation.name)
            if table is not None:
                for column in _new_columns(relation, table):
                    self._connection.execute(
                        f'ALTER TABLE {table.name} ADD COLUMN "{_quoted(column.name)}"'
                        f" {column.type.warehouse_type}"
                    )
                    self._remember(table.name, column)
                    added.setdefault(table.name, []).append(column.name)
            self._seen.add(relation)
        return added

    def adopt(self, relation: Relation) -> None:
        """Make the table fit the relation: its types, and NULL where there is no column any more.

        As `evolve`, at the beginning of a transaction. Raises MisfitError for what cannot be
        adopted: the key, or values that are not of the new type.
        """
        table = self._tables[relation.name]
        oids = {column.name: column.type_oid for column in relation.columns}
        for column in table.columns:
            if column.name not in oids:
                if column.not_null and column.name not in table.identity:
                    self._alter(table, replace(column, not_null=False), "DROP NOT NULL")
                continue
            oid = oids[column.name]
            if oid is None or column.type is ColumnType.OTHER or column.type.fits(oid):
                continue
            changed = replace(column, type=ColumnType.of(oid))
            self._alter(table, changed, f"TYPE {changed.type.warehouse_type}")
        fit(relation, self._tables[relation.name])

    def _alter(self, table: Table, column: Column, how: str) -> None:
        try:
            self._connection.execute(
                f'ALTER TABLE {table.name} ALTER COLUMN "{_quoted(column.name)}" {how}'
            )
        except (duckdb.ConversionException, duckdb.OutOfRangeException) as error:
            raise MisfitError(f"{table.name}.{column.name}: {error}") from error
        self._remember(table.name, column)

    def _remember(self, name: str, column: Column) -> None:
        self._connection.execute(_FORGET, [name, column.name])
        self._connection.execute(_REMEMBER, [name, column.name, column.type.name, column.not_null])
        self._tables[name] = _with(self._tables[name], column)


def _new_columns(relation: Relation, table: Table) -> list[Column]:
    known = {name.lower() for name in table.column_names}  # DuckDB's names have no case.
    new = []
    for column in relation.columns:
        # A source that does not say the type leaves no choice that could not turn out wrong.
        if column.name.lower() in known or column.type_oid is None:
            continue
        known.add(column.name.lower())
        new.append(Column(column.name, ColumnType.of(column.type_oid), not_null=False))
    return new[: max(0, _COLUMNS_MAX - len(table.columns))]


def _with(table: Table, column: Column) -> Table:
    if column.name in table.column_names:
        columns = tuple(column if c.name == column.name else c for c in table.columns)
    else:
        columns = (*table.columns, column)
    return replace(table, columns=columns)


def _quoted(name: str) -> str:
    return name.replace('"', '""')
