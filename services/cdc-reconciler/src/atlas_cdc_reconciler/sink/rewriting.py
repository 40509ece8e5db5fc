"""Updates and deletes of the history, whose rows have no key: one is found by all that it says."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from atlas_cdc_reconciler.changes import UNCHANGED, ChangeKind, MessageError, Row
from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.sink.doubt import doubt_windows
from atlas_cdc_reconciler.sink.history import store
from atlas_cdc_reconciler.sink.shapes import Fit
from atlas_cdc_reconciler.sink.work import (
    BATCH,
    DECODE_ERRORS,
    WAITS,
    Group,
    TableWork,
    check_not_null,
    fault_of,
    key_texts,
    keys_of,
    rows_table,
    shown,
    tenant_counts,
    undecodable,
)
from atlas_cdc_reconciler.tables import HISTORY, Column, ColumnType

Fields = tuple[Hashable, ...]
_NOT_HERE = Fault(LetterClass.MISSING_ROW, "the row that it changes is not here")


def rewrite(work: TableWork, groups: Sequence[Group], fit: Fit) -> None:
    """Apply updates and deletes that follow each other, of one relation.

    As one statement for all of them: a row that one update leaves and the next one finds is never
    stored. What takes a row that is not here becomes a letter, and what follows it waits.
    """
    changes = _read(work, groups, fit)
    if changes:
        _Rewrite(work, groups, fit, changes).run()


@dataclass(frozen=True, slots=True)
class _Change:
    """An update or delete: what it takes away, and what it puts in the place."""

    number: int
    old: Fields
    new: Fields | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a list of changes comes to, once rows that one makes and a later one takes are gone."""

    gone: list[list[int]]
    """Rows that the warehouse has to have: for each the changes that take one of its copies."""
    made: list[int]
    """Changes whose new rows are left in the end."""


def _read(work: TableWork, groups: Sequence[Group], fit: Fit) -> list[_Change]:
    """The changes, in the order of `fit`; those that cannot be read are buried."""
    changes = []
    places = [at for _, at in fit.columns]
    for group in groups:
        codec, relation = group.relation.codec, group.relation
        for number, raw in zip(group.numbers, group.raws, strict=True):
            new: Row | None = None
            try:
                if group.kind is ChangeKind.DELETE:
                    old = _complete(codec.delete(raw, relation))
                else:
                    old, new = _old_and_new(*codec.update(raw, relation))
            except DECODE_ERRORS as error:
                keys = keys_of(group, raw, work.table, fit)
                work.bury(number, fault_of(error), keys, is_insert=False)
                continue
            after = None if new is None else tuple(new[at] for at in places)
            changes.append(_Change(number, tuple(old[at] for at in places), after))
    return changes


def _old_and_new(old: Row | None, new: Row) -> tuple[Row, Row]:
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


class _Rewrite:
    """Changes that could be read, on their way into the table."""

    def __init__(
        self, work: TableWork, groups: Sequence[Group], fit: Fit, changes: Sequence[_Change]
    ) -> None:
        self._work = work
        self._groups = groups
        self._fit = fit
        self._changes = changes
        self._places = [(column, at) for at, (column, _) in enumerate(fit.columns)]
        self._texts: tuple[list[str], list[str]] | None = None
        self._faults = {
            at: work.known[one.number]
            for at, one in enumerate(changes if work.known else ())
            if one.number in work.known
        }
        good: Sequence[int] = range(len(changes))
        try:
            self._old, self._new = self._decode(good)
        except DECODE_ERRORS:
            bad = self._undecodable()
            self._faults |= bad
            good = [at for at in good if at not in bad]
            self._old, self._new = self._decode(good)
        self._row_of = {at: index for index, at in enumerate(good)}

    def run(self) -> None:
        """Find out what can be applied, and apply it."""
        while True:
            waiting = self._waiting()
            left = [at for at in self._row_of if at not in self._faults and at not in waiting]
            plan = self._plan(left)
            missing = self._find(plan)
            if not missing:
                break
            self._faults |= dict.fromkeys(missing, _NOT_HERE)
        for at, fault in sorted((waiting | self._faults).items()):
            number = self._changes[at].number
            self._work.bury(number, fault, self._keys(at), is_insert=False)
        if left:
            self._store(plan, left)

    def _before_and_after(self, ats: Sequence[int]) -> tuple[list[Fields], list[Fields]]:
        """The rows of changes; after a delete the one before."""
        part = [self._changes[at] for at in ats]
        return [one.old for one in part], [one.new or one.old for one in part]

    def _decode(self, ats: Sequence[int]) -> tuple[pa.Table, pa.Table]:
        codec = self._groups[0].relation.codec
        both = []
        for rows in self._before_and_after(ats):
            decoded = self._fit.cast(rows_table(codec, self._places, rows))
            check_not_null(self._work.table, decoded)
            both.append(decoded)
        return both[0], both[1]

    def _undecodable(self) -> dict[int, Fault]:
        codec, table, cast = self._groups[0].relation.codec, self._work.table, self._fit.cast
        faults: dict[int, Fault] = {}
        for rows in self._before_and_after(range(len(self._changes))):
            faults = undecodable(codec, table, self._places, rows, cast) | faults
        return faults

    def _waiting(self) -> dict[int, Fault]:
        """Changes that have to wait: behind letters there are, or behind those at fault."""
        if not self._faults and self._work.holds.is_empty:
            return {}
        waiting: dict[int, Fault] = {}
        stopped: set[str] = set()
        for at in range(len(self._changes)):
            own = self._keys(at)
            if at not in self._faults:
                if stopped.isdisjoint(own) and not self._work.holds.stops(own, is_insert=False):
                    continue
                waiting[at] = WAITS
            stopped.update(own)
        return waiting

    def _keys(self, at: int) -> tuple[str, ...]:
        """Identities of the rows that a change touches."""
        index = self._row_of.get(at)
        if index is None:
            number = self._changes[at].number
            group = next(each for each in self._groups if each.numbers[-1] >= number)
            raw = group.raws[group.numbers.index(number)]
            return keys_of(group, raw, self._work.table, self._fit)
        if self._texts is None:
            table = self._work.table
            self._texts = key_texts(table, self._old), key_texts(table, self._new)
        old, new = self._texts[0][index], self._texts[1][index]
        return (old,) if old == new else (old, new)

    def _plan(self, left: Sequence[int]) -> _Plan:
        # Rows are not found by columns that the source added: what is here of earlier rows is NULL
        # there, whatever the default is at the source.
        own = [at for column, at in self._places if column.name in HISTORY.column_names]
        is_whole = len(own) == len(self._places)
        gone: dict[Fields, list[int]] = {}
        made: dict[Fields, list[int]] = {}
        for at in left:
            one = self._changes[at]
            if copies := made.get(one.old):
                copies.pop()
            else:
                row = one.old if is_whole else tuple(one.old[place] for place in own)
                gone.setdefault(row, []).append(at)
            if one.new is not None:
                made.setdefault(one.new, []).append(at)
        return _Plan(list(gone.values()), [at for ats in made.values() for at in ats])

    def _find(self, plan: _Plan) -> list[int]:
        """Look for the rows to be taken; answers the changes whose rows are not here.

        Those that are go into cdc_found: to look for them costs far more than to delete them.
        """
        if not plan.gone:
            return []
        work = self._work
        rows = self._old.take([self._row_of[ats[0]] for ats in plan.gone])
        rows = rows.append_column("number", pa.array(range(rows.num_rows), type=pa.int64()))
        copies = pa.array([len(ats) for ats in plan.gone], type=pa.int64())
        found_by = [name for name in HISTORY.column_names if name in rows.column_names]
        same = " AND ".join(_is_same(work.table.column(name)) for name in found_by)
        with shown(work.connection, rows.append_column("copies", copies)):
            work.connection.execute(
                f"""
                CREATE OR REPLACE TEMP TABLE cdc_found AS
                SELECT row_id, number FROM (
                    SELECT t.rowid AS row_id, g.number, g.copies,
                        row_number() OVER (PARTITION BY g.number ORDER BY t.rowid) AS copy
                    FROM {work.table.name} AS t JOIN {BATCH} AS g ON {same})
                WHERE copy <= copies
                """  # noqa: S608 - names of our own tables and columns.
            )
        counted = "SELECT number, count(*) FROM cdc_found GROUP BY number"
        found = Counter(dict(work.connection.execute(counted).fetchall()))
        return [at for number, ats in enumerate(plan.gone) for at in ats[found[number] :]]

    def _store(self, plan: _Plan, left: Sequence[int]) -> None:
        """Delete the rows of cdc_found, and insert those that are made."""
        work = self._work
        tenants = tenant_counts(work.table, self._old.take([self._row_of[at] for at in left]))
        work.tally.read += tenants
        work.tally.applied += tenants
        if plan.gone:
            gone = self._old.take([self._row_of[at] for ats in plan.gone for at in ats])
            with shown(work.connection, gone):
                doubt_windows(work.connection, BATCH)
            work.connection.execute(
                f"DELETE FROM {work.table.name}"  # noqa: S608
                " WHERE rowid IN (SELECT row_id FROM cdc_found)"
            )
            work.tally.stored_rows.subtract(tenant_counts(work.table, gone))
        if plan.made:
            made = self._new.take([self._row_of[at] for at in plan.made])
            store(work, made, [self._changes[at].number for at in plan.made])


def _is_same(column: Column) -> str:
    name = column.name
    if column.type is ColumnType.DOUBLE:  # Equal bits: 0.0 = -0.0, and they are two values.
        return f"t.{name}::BIT IS NOT DISTINCT FROM g.{name}::BIT"
    return f"t.{name} = g.{name}" if column.not_null else f"t.{name} IS NOT DISTINCT FROM g.{name}"
