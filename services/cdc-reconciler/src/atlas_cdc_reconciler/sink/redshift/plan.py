"""What a batch comes to, by table: the last state of each key, rows to add, rows to take away.

Pure. Statements of Redshift take seconds, whatever they do: so all changes of a table are folded
into few of them, and what is at fault is found here, before anything is sent.
"""

import struct
from collections.abc import Hashable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pyarrow as pa

from atlas_cdc_reconciler.changes import (
    UNCHANGED,
    Batch,
    ChangeKind,
    Codec,
    MessageError,
    Relation,
    Row,
    Run,
)
from atlas_cdc_reconciler.columns import FieldError, table_from
from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.sink.redshift.staging import unfit
from atlas_cdc_reconciler.sink.sift import sift
from atlas_cdc_reconciler.tables import TABLES, Column, Table

_POISON = (MessageError, FieldError, struct.error)
Faults = MutableMapping[int, Fault]
"""By the number of the change in its batch."""
_Key = tuple[Hashable, ...]
_Row = tuple[_Key, int]
"""Fields, and the number of the change."""
_Numbered = tuple[int, Run, bytes]


@dataclass(frozen=True, slots=True)
class Staged:
    """Rows of some of a table's columns, and the changes that they come from."""

    columns: tuple[Column, ...]
    rows: pa.Table
    numbers: list[int]
    """In the order of the rows, but for a table's inserts: codecs decode these in any order."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Distinct rows to take away, and for each the changes that do so: one row for each of them."""

    staged: Staged
    takers: list[list[int]]


@dataclass(slots=True)
class TablePlan:
    """What is to be done to one table; what is empty is left out."""

    table: Table
    gone: Gone | None = None
    inserted: Staged | None = None
    deleted: Staged | None = None
    """Keys."""
    merged: Staged | None = None
    updated: list[Staged] = field(default_factory=list)
    """Rows without the large values that were not sent: they have to be there already."""


def plan_batch(batch: Batch, faults: Faults) -> list[TablePlan]:
    """Plans of all tables that the batch changes, less the changes that are at fault.

    Changes that are found to be at fault are added to `faults`; so are all changes of a table that
    does not fit the warehouse's any more, from the one on that says so.
    """
    plans = []
    for name, runs in _by_table(batch).items():
        table, fitting = TABLES.get(name), runs
        if table is None:
            _hold(runs, f"the warehouse has no table {name}", faults)
            continue
        for at, (_, run) in enumerate(runs):
            misfit = _misfit(run.relation, table)
            if misfit is not None:
                fitting = runs[:at]
                _hold(runs[at:], misfit, faults)
                break
        if fitting:
            plans.append(_plan_table(table, fitting, faults))
    return plans


def _hold(runs: Sequence[tuple[int, Run]], reason: str, faults: Faults) -> None:
    for number, _, _ in _changes(runs, {}):
        faults[number] = Fault(LetterClass.SCHEMA, reason)


def _misfit(relation: Relation, table: Table) -> str | None:
    """What of the source's table does not fit; columns that are new there are left out."""
    oids = {column.name: column.type_oid for column in relation.columns}
    for column in table.columns:
        if column.name not in oids:
            return f"{table.name}.{column.name} is gone at the source"
        oid = oids[column.name]
        if oid is not None and not column.type.fits(oid):
            return (
                f"{table.name}.{column.name} has another type at the source:"
                f" oid {oid}, not {column.type.oid}"
            )
    return None


def _places(relation: Relation, table: Table) -> list[int]:
    """Where the source's messages have the warehouse's columns."""
    at = {column.name: index for index, column in enumerate(relation.columns)}
    return [at[name] for name in table.column_names]


def _plan_table(table: Table, runs: list[tuple[int, Run]], faults: Faults) -> TablePlan:
    if table.key:
        plan = _plan_keyed
    elif all(run.kind is ChangeKind.INSERT for _, run in runs):
        plan = _plan_inserts
    else:
        plan = _plan_history
    while True:  # Each round finds something, or is the last.
        found: dict[int, Fault] = {}
        made = plan(table, runs, faults, found)
        if not found:
            return made
        faults.update(found)


def _by_table(batch: Batch) -> dict[str, list[tuple[int, Run]]]:
    by_table: dict[str, list[tuple[int, Run]]] = {}
    first = 0
    for run in batch.runs:
        by_table.setdefault(run.relation.name, []).append((first, run))
        first += len(run.raws)
    return by_table


def _changes(runs: Sequence[tuple[int, Run]], faults: Mapping[int, Fault]) -> Iterator[_Numbered]:
    for first, run in runs:
        for number, raw in enumerate(run.raws, first):
            if number not in faults:
                yield number, run, raw


# The history: rows without a key ------------------------------------------------------------------


def _plan_inserts(
    table: Table, runs: list[tuple[int, Run]], faults: Mapping[int, Fault], found: Faults
) -> TablePlan:
    """The hot path: whole columns, no row is looked at by itself."""
    pieces: list[Staged] = []
    for relation, group in groupby(runs, key=lambda numbered: numbered[1].relation):
        changes = list(_changes(list(group), faults))
        columns = list(zip(table.columns, _places(relation, table), strict=True))
        numbers, raws = [number for number, _, _ in changes], [raw for _, _, raw in changes]

        def decode(
            start: int,
            stop: int,
            raws: list[bytes] = raws,
            relation: Relation = relation,
            columns: list[tuple[Column, int]] = columns,
        ) -> pa.Table:
            rows = relation.codec.insert_table(raws[start:stop], relation, columns)
            return _fitting(table.columns, rows)

        parts, bad = sift(len(raws), decode, _POISON)
        _note(found, numbers, bad)
        for start, stop, rows in parts:
            pieces.append(Staged(table.columns, rows, numbers[start:stop]))
    return TablePlan(table, inserted=_joined(pieces))


def _plan_history(
    table: Table, runs: list[tuple[int, Run]], faults: Mapping[int, Fault], found: Faults
) -> TablePlan:
    """Rows are told apart by all of their values; equal ones are interchangeable.

    A deletion takes a row that the batch itself has added before, if there is one.
    """
    added: dict[_Key, list[_Row]] = {}
    taken: dict[_Key, list[_Row]] = {}
    codec = runs[0][1].relation.codec  # A batch has one source.
    for number, run, raw in _changes(runs, faults):
        try:
            old, new = _old_and_new(run, raw, table)
        except _POISON as error:
            found[number] = _fault(error)
            continue
        if old is not None:
            key = _identity(old)
            if added.get(key):
                added[key].pop()
            else:
                taken.setdefault(key, []).append((old, number))
        if new is not None:
            added.setdefault(_identity(new), []).append((new, number))
    rows = [row for equal in added.values() for row in equal]
    inserted = _converted(codec, table.columns, rows, found)
    staged = _converted(codec, table.columns, [equal[0] for equal in taken.values()], found)
    taken_by = ([number for _, number in equal] for equal in taken.values())
    takers = {numbers[0]: numbers for numbers in taken_by}
    gone = Gone(staged, [takers[number] for number in staged.numbers])
    return TablePlan(
        table,
        gone=gone if gone.takers else None,
        inserted=inserted if inserted.numbers else None,
    )


def _identity(row: _Key) -> _Key:
    """What is equal for equal rows and for no others: 0.0 == -0.0, and they are two values."""
    return tuple(repr(field) if isinstance(field, float) else field for field in row)


def _old_and_new(run: Run, raw: bytes, table: Table) -> tuple[_Key | None, _Key | None]:
    relation, codec = run.relation, run.relation.codec
    indexes = _places(relation, table)

    def ours(row: Row) -> _Key:
        return tuple(row[index] for index in indexes)

    match run.kind:
        case ChangeKind.INSERT:
            return None, _whole(ours(codec.insert(raw, relation)))
        case ChangeKind.DELETE:
            return _whole(ours(codec.delete(raw, relation))), None
        case ChangeKind.UPDATE:
            old, new = codec.update(raw, relation)
            if old is None:
                raise MessageError("an update that does not say which row it changes")
            before = _whole(ours(old))
            after = (
                was if now is UNCHANGED else now for was, now in zip(before, ours(new), strict=True)
            )
            return before, tuple(after)


def _whole(row: _Key) -> _Key:
    if UNCHANGED in row:
        raise MessageError("a row that is not complete")
    return row


# Tables with a key --------------------------------------------------------------------------------


def _plan_keyed(
    table: Table, runs: list[tuple[int, Run]], faults: Mapping[int, Fault], found: Faults
) -> TablePlan:
    last: dict[_Key, tuple[Row | None, int]] = {}  # None: deleted.
    codec = runs[0][1].relation.codec
    for number, run, raw in _changes(runs, faults):
        try:
            _fold(last, table, run, raw, number)
        except _POISON as error:
            found[number] = _fault(error)
    keys = tuple(column for column in table.columns if column.name in table.key)
    deleted = _converted(
        codec, keys, [(key, number) for key, (row, number) in last.items() if row is None], found
    )
    plan = TablePlan(table, deleted=deleted if deleted.numbers else None)
    stored = [(row, number) for row, number in last.values() if row is not None]
    # Rows lacking the same large values can be stored by the same statement; mostly none lacks any.
    stored.sort(key=lambda numbered: _lacking(numbered[0]))
    for lacking, group in groupby(stored, key=lambda numbered: _lacking(numbered[0])):
        sent = [at for at in range(len(table.columns)) if at not in lacking]
        columns = tuple(table.columns[at] for at in sent)
        rows = [(tuple(row[at] for at in sent), number) for row, number in group]
        staged = _converted(codec, columns, rows, found)
        if not lacking:
            plan.merged = staged if staged.numbers else None
        elif staged.numbers:
            plan.updated.append(staged)
    return plan


def _fold(
    last: dict[_Key, tuple[Row | None, int]], table: Table, run: Run, raw: bytes, number: int
) -> None:
    relation, codec = run.relation, run.relation.codec
    indexes = _places(relation, table)

    def ours(row: Row) -> Row:
        return [row[index] for index in indexes]

    key_at = [table.column_names.index(name) for name in table.key]

    def key_of(row: Row) -> _Key:
        key = tuple(row[at] for at in key_at)
        if None in key or UNCHANGED in key:
            raise MessageError("a row without its key")
        return key

    if run.kind is ChangeKind.DELETE:
        last[key_of(ours(codec.delete(raw, relation)))] = None, number
        return
    old_key: _Key | None = None
    if run.kind is ChangeKind.INSERT:
        new = ours(codec.insert(raw, relation))
    else:
        sent_old, sent_new = codec.update(raw, relation)
        new = ours(sent_new)
        old_key = None if sent_old is None else key_of(ours(sent_old))
    key = key_of(new)
    is_moved = old_key is not None and old_key != key
    before, _ = last.get(old_key if is_moved and old_key is not None else key, (None, 0))
    if is_moved and old_key is not None:
        last[old_key] = None, number
    if before is not None:
        new = [was if now is UNCHANGED else now for was, now in zip(before, new, strict=True)]
    last[key] = new, number


def _lacking(row: Row) -> tuple[int, ...]:
    return tuple(at for at, value in enumerate(row) if value is UNCHANGED)


# Both ---------------------------------------------------------------------------------------------


def _converted(
    codec: Codec, columns: tuple[Column, ...], rows: Sequence[_Row], found: Faults
) -> Staged:
    """Rows of fields as Arrow, less those that cannot be."""
    numbers = [number for _, number in rows]

    def convert(start: int, stop: int) -> pa.Table:
        part = rows[start:stop]
        fields = {
            column.name: (column.type, [row[at] for row, _ in part])
            for at, column in enumerate(columns)
        }
        return _fitting(columns, table_from(fields, codec.to_arrow))

    parts, bad = sift(len(rows), convert, _POISON)
    _note(found, numbers, bad)
    pieces = [Staged(columns, made, numbers[start:stop]) for start, stop, made in parts]
    return _joined(pieces) or Staged(columns, pa.table({}), [])


def _fitting(columns: Sequence[Column], rows: pa.Table) -> pa.Table:
    """The rows, if Redshift can hold all of them. Raises FieldError."""
    for reason in unfit(columns, rows).values():
        raise FieldError(reason)
    return rows


def _joined(pieces: list[Staged]) -> Staged | None:
    pieces = [piece for piece in pieces if piece.numbers]
    if not pieces:
        return None
    return Staged(
        pieces[0].columns,
        pa.concat_tables([piece.rows for piece in pieces]),
        [number for piece in pieces for number in piece.numbers],
    )


def _note(found: Faults, numbers: Sequence[int], bad: Sequence[tuple[int, Exception]]) -> None:
    for at, error in bad:
        found[numbers[at]] = _fault(error)


def _fault(error: Exception) -> Fault:
    is_value = isinstance(error, FieldError)
    return Fault(LetterClass.VALUE if is_value else LetterClass.DECODE, str(error))
