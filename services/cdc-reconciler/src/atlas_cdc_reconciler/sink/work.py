"""What is being done to one table: its changes in order, what became of them, and of whom."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from atlas_cdc_reconciler.changes import UNCHANGED, ChangeKind, Codec, MessageError, Relation, Row
from atlas_cdc_reconciler.columns import FieldError, table_from
from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.sink.holds import Chain, TableHolds, keyless_reason
from atlas_cdc_reconciler.sink.shapes import Fit
from atlas_cdc_reconciler.sink.sift import sift
from atlas_cdc_reconciler.tables import Column, ColumnType, Table

BATCH = "cdc_batch"
"""The name under which rows are shown to DuckDB."""
REASON_CHARS_MAX = 1_000
DECODE_ERRORS = (MessageError, FieldError, ValueError, LookupError)
"""What reading a change raises; FieldError and MessageError are ValueErrors too."""
Tenants = Counter[int | None]


class RowsRefusedError(Exception):
    """DuckDB refused rows, with which the transaction is lost: find out which ones, apart."""

    def __init__(
        self,
        rows: pa.Table,
        numbers: Sequence[int],
        store: Callable[[pa.Table], None],
        error: duckdb.Error,
    ) -> None:
        super().__init__(str(error))
        self.rows = rows
        self.numbers = numbers
        self.store = store
        """Tries to store some of the rows, in the open transaction."""


REFUSALS = (
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.OutOfRangeException,
    duckdb.TypeMismatchException,
)
"""What a row can be at fault for. Everything else is the warehouse's own trouble."""


@dataclass(frozen=True, slots=True)
class Group:
    """Changes that follow each other in a table and are described alike."""

    relation: Relation
    kind: ChangeKind
    numbers: list[int]
    """Their numbers in the batch."""
    raws: list[bytes]


@dataclass(slots=True)
class Buried:
    """A change that becomes a letter, or stays one."""

    number: int
    letter_class: LetterClass
    reason: str
    tenant_id: int | None
    keys: tuple[str, ...]
    chain: Chain


@dataclass
class Tally:
    """A table's changes by tenant (None: not known, or none's)."""

    read: Tenants = field(default_factory=Counter)
    applied: Tenants = field(default_factory=Counter)
    stored_rows: Tenants = field(default_factory=Counter)
    """Rows added less rows deleted; of the history only."""


class TableWork:
    """Collects what becomes of a table's changes within one transaction."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: Table,
        holds: TableHolds,
        known: Mapping[int, Fault],
        *,
        in_order: bool = False,
    ) -> None:
        self.connection = connection
        self.table = table
        self.holds = holds
        self.known = known
        """Changes that are known to be at fault, by number."""
        self.in_order = in_order
        """Whether rows have to be those of their numbers, should DuckDB refuse some."""
        self.buried: list[Buried] = []
        self.tally = Tally()

    def bury(
        self, number: int, fault: Fault, keys: Sequence[str], *, is_insert: bool, read: bool = True
    ) -> None:
        """Make a letter of a change; what comes later of its rows will wait behind it."""
        tenant_id = tenant_of(self.table, keys)
        if keys or not self.table.key:
            chain = self.holds.join(keys, is_insert=is_insert)
        else:
            # Whose order is to be kept cannot be told: that of all rows.
            if self.holds.held_chain is None:
                self.holds.hold(keyless_reason(), LetterClass.WAITING)
            chain = self.holds.held_chain or Chain(None, stops_inserts=True)
        reason = fault.reason[:REASON_CHARS_MAX]
        self.buried.append(
            Buried(number, fault.letter_class, reason, tenant_id, tuple(keys), chain)
        )
        if read:
            self.tally.read[tenant_id] += 1

    def bury_held(self, group: Group) -> None:
        """Make letters of all changes of a table that is held; they are not looked at."""
        reason, chain = self.holds.held or "", self.holds.held_chain
        if chain is None:
            raise RuntimeError("the table is not held")
        tenants = _tenants(group)
        for number, tenant_id in zip(group.numbers, tenants, strict=True):
            self.buried.append(Buried(number, self.holds.held_class, reason, tenant_id, (), chain))
            self.tally.read[tenant_id] += 1


def fault_of(error: Exception) -> Fault:
    """What an error in reading a change says of it."""
    if isinstance(error, FieldError):
        return Fault(LetterClass.VALUE, str(error))
    return Fault(LetterClass.DECODE, f"{type(error).__name__}: {error}")


WAITS = Fault(LetterClass.WAITING, "waits behind an earlier dead letter of the same row")


# Rows ---------------------------------------------------------------------------------------------


def rows_table(
    codec: Codec, columns: Sequence[tuple[Column, int]], rows: Sequence[Sequence[Hashable]]
) -> pa.Table:
    """Rows of a relation in the warehouse's columns. Raises FieldError, MessageError."""
    return table_from(
        {column.name: (column.type, sent([row[at] for row in rows])) for column, at in columns},
        codec.to_arrow,
    )


def sent(fields: Sequence[Hashable]) -> Sequence[Hashable]:
    """The fields, once it is sure that none of them was left out. Raises MessageError."""
    if UNCHANGED in fields:
        raise MessageError("a value that was not sent")
    return fields


def check_not_null(table: Table, rows: pa.Table) -> None:
    """Raises FieldError for a NULL where there has to be a value."""
    for column in table.columns:
        if (
            column.not_null
            and column.name in rows.column_names
            and rows.column(column.name).null_count
        ):
            raise FieldError(f"{column.name}: NULL, where there has to be a value")


def undecodable(
    codec: Codec,
    table: Table,
    columns: Sequence[tuple[Column, int]],
    rows: Sequence[Sequence[Hashable]],
    cast: Callable[[pa.Table], pa.Table],
) -> dict[int, Fault]:
    """Which of the rows have values that the table cannot hold, by place.

    Column by column: of a row that is at fault mostly one value is, and only its column has to be
    looked through.
    """
    faults: dict[int, Fault] = {}
    for column, at in columns:
        for index, error in _sifted(codec, table, column, [row[at] for row in rows], cast):
            faults.setdefault(index, fault_of(error))
    return faults


def _sifted(
    codec: Codec,
    table: Table,
    column: Column,
    fields: Sequence[Hashable],
    cast: Callable[[pa.Table], pa.Table],
) -> list[tuple[int, Exception]]:
    def decode(start: int, stop: int) -> None:
        part = {column.name: (column.type, sent(fields[start:stop]))}
        check_not_null(table, cast(table_from(part, codec.to_arrow)))

    _, bad = sift(len(fields), decode, DECODE_ERRORS)
    return bad


class shown:  # noqa: N801 - used like a function.
    """Show rows to DuckDB under the name of the batch, for a block."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
        self._connection = connection
        connection.register(BATCH, rows)

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._connection.unregister(BATCH)


# Whose they are -----------------------------------------------------------------------------------


def key_texts(table: Table, rows: pa.Table) -> list[str]:
    """The identity of each row, equal for equal rows whatever codec they came by."""
    columns = []
    for name in table.identity:
        values = rows.column(name)
        if table.column(name).type is ColumnType.TIME:
            values = values.cast(pa.int64())
        columns.append(values.to_pylist())
    return [json.dumps(key, separators=(",", ":")) for key in zip(*columns, strict=True)]


def key_of(codec: Codec, table: Table, fit: Fit, row: Row | None) -> str | None:
    """The identity of one row, perhaps of a change at fault; None if it cannot be found out."""
    if row is None:
        return None
    try:
        columns = [(table.column(name), fit.place(name)) for name in table.identity]
        rows = rows_table(codec, columns, [row])
    except DECODE_ERRORS:
        return None
    if any(rows.column(name).null_count for name in table.identity):
        return None
    return key_texts(table, rows)[0]


def keys_of(group: Group, raw: bytes, table: Table, fit: Fit) -> tuple[str, ...]:
    """The identities of the rows that a change touches, as far as they can be found out."""
    relation, codec = group.relation, group.relation.codec
    rows: list[Row | None]
    try:
        match group.kind:
            case ChangeKind.INSERT:
                rows = [codec.insert(raw, relation)]
            case ChangeKind.DELETE:
                rows = [codec.delete(raw, relation)]
            case ChangeKind.UPDATE:
                rows = list(codec.update(raw, relation))
    except DECODE_ERRORS:
        return ()
    keys = (key_of(codec, table, fit, row) for row in rows)
    return tuple(dict.fromkeys(key for key in keys if key is not None))


def tenant_of(table: Table, keys: Sequence[str]) -> int | None:
    """Whose the row is; the key begins with it."""
    if not keys or not table.has_tenant:
        return None
    return int(json.loads(keys[0])[0])


def tenant_counts(table: Table, rows: pa.Table) -> Tenants:
    """Rows by tenant."""
    if not table.has_tenant:
        return Counter({None: rows.num_rows})
    counted = pc.value_counts(rows.column("tenant_id").combine_chunks())
    return Counter(
        {pair["values"]: pair["counts"] for pair in counted.to_pylist()}  # Few: one per tenant.
    )


def _tenants(group: Group) -> list[int | None]:
    """Whose changes these are, by nothing but their tenant_id; None where that cannot be read."""
    relation, codec = group.relation, group.relation.codec
    nobody: list[int | None] = [None] * len(group.raws)
    place = next((i for i, c in enumerate(relation.columns) if c.name == "tenant_id"), None)
    if place is None:
        return nobody
    try:
        read = _READERS[group.kind]
        fields = [read(raw, relation)[place] for raw in group.raws]
        return list(codec.to_arrow(ColumnType.INT4, sent(fields)).to_pylist())
    except DECODE_ERRORS:
        return (
            nobody
            if len(group.raws) == 1
            else [
                tenant
                for number, raw in zip(group.numbers, group.raws, strict=True)
                for tenant in _tenants(Group(relation, group.kind, [number], [raw]))
            ]
        )


_READERS: Mapping[ChangeKind, Callable[[bytes, Relation], Row]] = {
    ChangeKind.INSERT: lambda raw, relation: relation.codec.insert(raw, relation),
    ChangeKind.UPDATE: lambda raw, relation: relation.codec.update(raw, relation)[1],
    ChangeKind.DELETE: lambda raw, relation: relation.codec.delete(raw, relation),
}
