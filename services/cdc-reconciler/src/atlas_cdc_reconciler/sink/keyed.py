"""Changes of tables with a key: folded to the last state of each row, and that is stored."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import pyarrow as pa

from atlas_cdc_reconciler.changes import UNCHANGED, ChangeKind, Codec, MessageError, Row
from atlas_cdc_reconciler.columns import table_from
from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.sink.shapes import Fit
from atlas_cdc_reconciler.sink.work import (
    BATCH,
    DECODE_ERRORS,
    REFUSALS,
    WAITS,
    Group,
    RowsRefusedError,
    TableWork,
    check_not_null,
    fault_of,
    key_texts,
    keys_of,
    shown,
    undecodable,
)
from atlas_cdc_reconciler.tables import Table

Fields = tuple[Hashable, ...]
_NOT_HERE = Fault(
    LetterClass.MISSING_ROW, "it leaves values of the row as they were, and the row is not here"
)


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of one row, or of two if it changes the key."""

    number: int
    fit: Fit | None
    """What `new` has; a column that it has not becomes NULL. None: there is no `new`."""
    key: Fields
    old_key: Fields | None
    """If it is another one."""
    new: Fields | None
    """None: deleted."""

    @property
    def missing(self) -> tuple[int, ...]:
        """Fields that the row has and that were not sent."""
        if self.new is None:
            return ()
        return tuple(at for at, value in enumerate(self.new) if value is UNCHANGED)


@dataclass(slots=True)
class _State:
    """A row as it shall be in the end."""

    fit: Fit | None
    row: Fields | None
    """None: deleted."""
    number: int
    """Of the newest change."""


@dataclass
class _Folded:
    """What changes come to."""

    last: dict[Fields, _State] = field(default_factory=dict)
    needs: list[tuple[Fields, int]] = field(default_factory=list)
    """Rows that have to be in the warehouse, and the changes that leave some of their values."""
    hopeless: set[int] = field(default_factory=set)
    """Changes that leave values of a row as they were that is gone, or had another key."""


def apply(work: TableWork, groups: Sequence[tuple[Group, Fit]]) -> None:
    """Apply changes of a table with a key; what is at fault becomes a letter, what follows waits.

    Every change is looked at, also one that a later one makes up for: whether it becomes a letter
    must not hang on where a batch ends.
    """
    changes, faults, unread = _read(work, groups)
    codec = groups[0][0].relation.codec
    faults |= _undecodable(work, codec, changes)
    if work.known:
        faults |= {
            at: work.known[one.number] for at, one in enumerate(changes) if one.number in work.known
        }
    texts = _KeyTexts(codec, work.table)
    while True:
        buried = _stopped(work, changes, faults, unread, texts)
        folded = _fold(one for at, one in enumerate(changes) if at not in buried)
        missing = folded.hopeless or _not_here(work, codec, folded.needs)
        if not missing:
            break
        faults |= {at: _NOT_HERE for at, one in enumerate(changes) if one.number in missing}
    _bury(work, changes, buried, unread, texts)
    _store(work, codec, folded.last)
    _count(work, codec, [one for at, one in enumerate(changes) if at not in buried])


# Reading ------------------------------------------------------------------------------------------


def _read(
    work: TableWork, groups: Sequence[tuple[Group, Fit]]
) -> tuple[list[_Change], dict[int, Fault], dict[int, tuple[int, Fault, tuple[str, ...]]]]:
    """The changes; those at fault by place; those that cannot even be read.

    The latter by the place of the change they come before: (number, fault, keys).
    """
    changes: list[_Change] = []
    unread: dict[int, tuple[int, Fault, tuple[str, ...]]] = {}
    for group, fit in groups:
        for number, raw in zip(group.numbers, group.raws, strict=True):
            try:
                changes.append(_change(work.table, group, fit, number, raw))
            except DECODE_ERRORS as error:
                keys = keys_of(group, raw, work.table, fit)
                # A place of its own in the order, with nothing to store.
                changes.append(_Change(number, None, (), None, None))
                unread[len(changes) - 1] = (number, fault_of(error), keys)
    return changes, {at: fault for at, (_, fault, _) in unread.items()}, unread


def _change(table: Table, group: Group, fit: Fit, number: int, raw: bytes) -> _Change:
    relation, codec = group.relation, group.relation.codec
    places = [fit.place(name) for name in table.key]

    def key(row: Row) -> Fields:
        fields = tuple(row[at] for at in places)
        if UNCHANGED in fields:
            raise MessageError("a key that was not sent")
        return fields

    if group.kind is ChangeKind.DELETE:
        return _Change(number, None, key(codec.delete(raw, relation)), None, None)
    old: Row | None = None
    if group.kind is ChangeKind.INSERT:
        new = codec.insert(raw, relation)
    else:
        old, new = codec.update(raw, relation)
    own, before = key(new), None if old is None else key(old)
    return _Change(
        number,
        fit,
        own,
        before if before != own else None,
        tuple(new[at] for _, at in fit.columns),
    )


def _undecodable(work: TableWork, codec: Codec, changes: Sequence[_Change]) -> dict[int, Fault]:
    """Changes with values that the warehouse cannot hold."""
    faults: dict[int, Fault] = {}

    def alike(at: int) -> tuple[Fit | None, tuple[int, ...]]:
        return changes[at].fit, changes[at].missing

    def check(ats: Sequence[int]) -> None:
        keys = _key_table(codec, work.table, [changes[at].key for at in ats])
        check_not_null(work.table, keys)
        fit, missing = alike(ats[0])
        if fit is not None:
            rows = [changes[at].new or () for at in ats]
            check_not_null(work.table, _row_table(codec, fit, missing, rows))

    readable = [at for at, one in enumerate(changes) if one.key]
    for (fit, missing), group in groupby(readable, key=alike):
        ats = list(group)
        try:
            check(ats)
        except DECODE_ERRORS:
            bad = _undecodable_alike(work.table, codec, fit, missing, [changes[at] for at in ats])
            faults |= {ats[index]: fault for index, fault in bad.items()}
    return faults


def _undecodable_alike(
    table: Table,
    codec: Codec,
    fit: Fit | None,
    missing: Sequence[int],
    changes: Sequence[_Change],
) -> dict[int, Fault]:
    key = [(table.column(name), at) for at, name in enumerate(table.key)]
    bad = undecodable(codec, table, key, [change.key for change in changes], lambda rows: rows)
    if fit is None:
        return bad
    sent = [(column, at) for at, (column, _) in enumerate(fit.columns) if at not in missing]
    rows = [change.new or () for change in changes]
    return undecodable(codec, table, sent, rows, fit.cast) | bad


def _key_table(codec: Codec, table: Table, keys: Sequence[Fields]) -> pa.Table:
    columns = {
        name: (table.column(name).type, [key[at] for key in keys])
        for at, name in enumerate(table.key)
    }
    return table_from(columns, codec.to_arrow)


def _row_table(codec: Codec, fit: Fit, missing: Sequence[int], rows: Sequence[Fields]) -> pa.Table:
    """The rows in those of the columns that all of them have."""
    columns = {
        column.name: (column.type, [row[at] for row in rows])
        for at, (column, _) in enumerate(fit.columns)
        if at not in missing
    }
    return fit.cast(table_from(columns, codec.to_arrow))


# What has to wait ---------------------------------------------------------------------------------


class _KeyTexts:
    """Identities of rows: made only once something is at fault."""

    def __init__(self, codec: Codec, table: Table) -> None:
        self._codec = codec
        self._table = table
        self._known: dict[Fields, str | None] = {}

    def of(self, change: _Change) -> tuple[str, ...]:
        """Those of a change, as far as they can be told."""
        keys = (change.key,) if change.old_key is None else (change.old_key, change.key)
        texts = (self._text(key) for key in keys if key)
        return tuple(text for text in texts if text is not None)

    def _text(self, key: Fields) -> str | None:
        if key not in self._known:
            try:
                rows = _key_table(self._codec, self._table, [key])
                known = not any(column.null_count for column in rows.columns)
                self._known[key] = key_texts(self._table, rows)[0] if known else None
            except DECODE_ERRORS:
                self._known[key] = None
        return self._known[key]


def _stopped(
    work: TableWork,
    changes: Sequence[_Change],
    faults: Mapping[int, Fault],
    unread: Mapping[int, tuple[int, Fault, tuple[str, ...]]],
    texts: _KeyTexts,
) -> dict[int, Fault]:
    """Changes at fault, and those that have to wait behind them or behind letters there are."""
    if not faults and work.holds.is_empty:
        return {}
    stopped: dict[int, Fault] = {}
    keys_stopped: set[str] = set()
    all_stopped = False
    for at, change in enumerate(changes):
        keys = unread[at][2] if at in unread else texts.of(change)
        fault = faults.get(at)
        if fault is None and (
            all_stopped
            or not keys_stopped.isdisjoint(keys)
            or work.holds.stops(keys, is_insert=False)
        ):
            fault = WAITS
        if fault is not None:
            stopped[at] = fault
            keys_stopped.update(keys)
            all_stopped |= not keys
    return stopped


def _bury(
    work: TableWork,
    changes: Sequence[_Change],
    buried: Mapping[int, Fault],
    unread: Mapping[int, tuple[int, Fault, tuple[str, ...]]],
    texts: _KeyTexts,
) -> None:
    for at, fault in sorted(buried.items()):
        keys = unread[at][2] if at in unread else texts.of(changes[at])
        work.bury(changes[at].number, fault, keys, is_insert=False)


# Storing ------------------------------------------------------------------------------------------


def _fold(changes: Iterator[_Change]) -> _Folded:
    folded = _Folded()
    last = folded.last
    for change in changes:
        before = last.get(change.key if change.old_key is None else change.old_key)
        new = change.new
        if new is not None and UNCHANGED in new:
            if before is not None and before.row is not None:
                new = _filled(change, before)
            elif before is None and change.old_key is None:
                folded.needs.append((change.key, change.number))
            else:
                folded.hopeless.add(change.number)
                continue
        if change.old_key is not None:
            last[change.old_key] = _State(None, None, change.number)
        last[change.key] = _State(change.fit, new, change.number)
    return folded


def _filled(change: _Change, before: _State) -> Fields:
    """The new row with what it left as it was in the row before."""
    was = dict(zip(_names(before.fit), before.row or (), strict=True))
    return tuple(
        was.get(name) if now is UNCHANGED else now
        for name, now in zip(_names(change.fit), change.new or (), strict=True)
    )


def _names(fit: Fit | None) -> list[str]:
    return [] if fit is None else [column.name for column, _ in fit.columns]


def _missing(state: _State) -> tuple[int, ...]:
    return tuple(at for at, value in enumerate(state.row or ()) if value is UNCHANGED)


def _not_here(work: TableWork, codec: Codec, needs: Sequence[tuple[Fields, int]]) -> set[int]:
    """Those of the changes whose row is not in the warehouse."""
    if not needs:
        return set()
    rows = _key_table(codec, work.table, [key for key, _ in needs])
    numbers = pa.array([number for _, number in needs], type=pa.int64())
    with shown(work.connection, rows.append_column("cdc_number", numbers)):
        found = work.connection.execute(
            f"SELECT cdc_number FROM {BATCH} AS b WHERE NOT EXISTS"  # noqa: S608
            f" (SELECT 1 FROM {work.table.name} AS t WHERE {_same_key(work.table)})"
        ).fetchall()
    return {number for (number,) in found}


def _store(work: TableWork, codec: Codec, last: Mapping[Fields, _State]) -> None:
    deleted = [key for key, state in last.items() if state.row is None]
    if deleted:
        with shown(work.connection, _key_table(codec, work.table, deleted)):
            work.connection.execute(
                f"DELETE FROM {work.table.name} AS t USING {BATCH} AS b"  # noqa: S608
                f" WHERE {_same_key(work.table)}"
            )
    stored = [state for state in last.values() if state.row is not None]
    # Rows lacking the same large values can be stored by the same statement; mostly none lacks any.
    stored.sort(key=lambda state: (_missing(state), _names(state.fit)))
    for (missing, fit), states in groupby(stored, key=lambda state: (_missing(state), state.fit)):
        if fit is not None:
            _upsert(work, codec, fit, missing, list(states))


def _upsert(
    work: TableWork, codec: Codec, fit: Fit, missing: Sequence[int], states: Sequence[_State]
) -> None:
    rows = _row_table(codec, fit, missing, [state.row or () for state in states])
    statement = _merge(work.table, rows.column_names, _names(fit), is_whole=not missing)

    def store(part: pa.Table) -> None:
        with shown(work.connection, part):
            work.connection.execute(statement)

    try:
        store(rows)
    except REFUSALS as error:
        raise RowsRefusedError(rows, [state.number for state in states], store, error) from error


def _merge(table: Table, sent: Sequence[str], here: Sequence[str], *, is_whole: bool) -> str:
    """`sent`: the columns of the rows; `here`: those that the source has."""
    sets = [f'"{name}" = b."{name}"' for name in sent if name not in table.key]
    # What the source has no column for any more is NULL from now on.
    sets += [f'"{name}" = NULL' for name in table.column_names if name not in here]
    names = ", ".join(f'"{name}"' for name in sent)
    values = ", ".join(f'b."{name}"' for name in sent)
    matched = f"UPDATE SET {', '.join(sets)}" if sets else "DO NOTHING"
    # A row that lacks values can only be the newer state of one that is here.
    insert = f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})" if is_whole else ""  # noqa: S608
    return (
        f"MERGE INTO {table.name} AS t USING {BATCH} AS b ON {_same_key(table)}"
        f" WHEN MATCHED THEN {matched} {insert}"
    )


def _same_key(table: Table) -> str:
    return " AND ".join(f"t.{name} = b.{name}" for name in table.key)


def _count(work: TableWork, codec: Codec, applied: Sequence[_Change]) -> None:
    """By the tenant, with which each key begins."""
    if not applied:
        return
    counts: Counter[Hashable] = Counter(change.key[0] for change in applied)
    by_tenant: Counter[int | None] = Counter()
    if work.table.has_tenant:
        column = work.table.column("tenant_id")
        tenants = codec.to_arrow(column.type, list(counts)).to_pylist()
        for tenant, count in zip(tenants, counts.values(), strict=True):
            by_tenant[tenant] += count
    else:
        by_tenant[None] = len(applied)
    work.tally.read += by_tenant
    work.tally.applied += by_tenant
