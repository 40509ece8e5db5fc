"""Changes into rows: what changes do to the warehouse's tables, within one transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import duckdb

from atlas_cdc_reconciler.changes import ChangeKind, Relation, Run
from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.sink import history, keyed, rewriting
from atlas_cdc_reconciler.sink.holds import Holds
from atlas_cdc_reconciler.sink.shapes import Fit, MisfitError, Shapes, fit
from atlas_cdc_reconciler.sink.sift import sift
from atlas_cdc_reconciler.sink.work import (
    REFUSALS,
    Buried,
    Group,
    RowsRefusedError,
    TableWork,
    Tally,
)
from atlas_cdc_reconciler.tables import Table


@dataclass
class Outcome:
    """What became of changes."""

    buried: list[Buried] = field(default_factory=list)
    """Those that are letters now, in their order."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """By table."""
    newly_held: dict[str, str] = field(default_factory=dict)
    """Tables whose changes become letters from now on, and why."""


def apply_runs(
    connection: duckdb.DuckDBPyConnection,
    shapes: Shapes,
    holds: Holds,
    runs: Sequence[Run],
    known: Mapping[int, Fault],
    *,
    in_order: bool = False,
    lenient: bool = False,
) -> Outcome:
    """Apply the changes in the open transaction, which is to be rolled back if this raises.

    Changes are numbered through the runs, from 0; those in `known` are at fault. What cannot be
    applied is in the outcome, and `holds` has learned of it. Order is kept within a table. Between
    tables there is none to keep: nobody sees the middle of the transaction, and no row refers to
    another by constraint.

    `in_order`: should rows be refused, be able to say which; `lenient`: see shapes.fit. Raises
    RowsRefusedError; duckdb.Error when the warehouse itself fails.
    """
    outcome = Outcome()
    for name, groups in _by_table(runs).items():
        table = shapes.table(name)
        table_holds = holds.table(name)
        was_held = table_holds.held
        if table is None:
            if was_held is None:
                table_holds.hold("the warehouse has no table of this name", LetterClass.SCHEMA)
            table = Table(name, (), ("tenant_id",), by_tenant=False)
        work = TableWork(connection, table, table_holds, known, in_order=in_order)
        _apply_table(work, groups, lenient=lenient)
        outcome.buried += work.buried
        outcome.tallies[name] = work.tally
        if table_holds.held is not None and was_held is None:
            outcome.newly_held[name] = table_holds.held
    outcome.buried.sort(key=lambda buried: buried.number)
    return outcome


def refused(connection: duckdb.DuckDBPyConnection, error: RowsRefusedError) -> dict[int, Fault]:
    """Find the rows that DuckDB refuses, by halves; stores nothing. No transaction may be open."""

    def try_rows(start: int, stop: int) -> None:
        connection.execute("BEGIN")
        try:
            error.store(error.rows.slice(start, stop - start))
        finally:
            connection.execute("ROLLBACK")

    _, bad = sift(error.rows.num_rows, try_rows, REFUSALS)
    return {error.numbers[at]: Fault(LetterClass.CONSTRAINT, str(why)) for at, why in bad}


def _by_table(runs: Iterable[Run]) -> dict[str, list[Group]]:
    """Each table's changes, neighbours alike as one: after an outage transactions are small."""
    numbered: list[tuple[Run, int]] = []
    first = 0
    for run in runs:
        numbered.append((run, first))
        first += len(run.raws)
    tables: dict[str, list[tuple[Run, int]]] = {}
    for run, first in numbered:
        tables.setdefault(run.relation.name, []).append((run, first))
    return {
        name: [
            _group(relation, kind, list(members))
            for (relation, kind), members in groupby(
                table_runs, key=lambda each: (each[0].relation, each[0].kind)
            )
        ]
        for name, table_runs in tables.items()
    }


def _group(relation: Relation, kind: ChangeKind, members: Sequence[tuple[Run, int]]) -> Group:
    if len(members) == 1:
        run, first = members[0]
        return Group(relation, kind, list(range(first, first + len(run.raws))), run.raws)
    numbers = [n for run, first in members for n in range(first, first + len(run.raws))]
    return Group(relation, kind, numbers, [raw for run, _ in members for raw in run.raws])


def _apply_table(work: TableWork, groups: Sequence[Group], *, lenient: bool) -> None:
    """Apply a table's changes as far as they fit it; from the first that does not, hold it."""
    fitting: list[tuple[Group, Fit]] = []
    misfit: str | None = None
    for group in groups:
        if work.holds.held is not None:
            break
        try:
            fitting.append((group, fit(group.relation, work.table, lenient=lenient)))
        except MisfitError as error:
            misfit = str(error)
            break
    _apply_fitting(work, fitting)
    if misfit is not None and work.holds.held is None:
        work.holds.hold(misfit, LetterClass.SCHEMA)
    for group in groups[len(fitting) :]:
        work.bury_held(group)


def _apply_fitting(work: TableWork, fitting: Sequence[tuple[Group, Fit]]) -> None:
    if not fitting:
        return
    if work.table.key:
        # Codecs do not mix: fields are compared as they come.
        for _, alike in groupby(fitting, key=lambda each: each[0].relation.codec.name):
            rows = list(alike)
            if work.holds.held is None:
                keyed.apply(work, rows)
                continue
            for group, _ in rows:
                work.bury_held(group)
        return

    def together(each: tuple[Group, Fit]) -> tuple[Relation, bool]:
        return each[0].relation, each[0].kind is ChangeKind.INSERT

    for (_, is_insert), members in groupby(fitting, key=together):
        same = list(members)
        if is_insert:
            for group, how in same:
                history.insert(work, group, how)
        else:
            rewriting.rewrite(work, [group for group, _ in same], same[0][1])
