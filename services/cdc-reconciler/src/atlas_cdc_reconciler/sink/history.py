"""New rows of the history: the hot path."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.sink.doubt import doubt_windows
from atlas_cdc_reconciler.sink.shapes import Fit
from atlas_cdc_reconciler.sink.sift import sift
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
    joined,
    key_texts,
    keys_of,
    rows_table,
    shown,
    tenant_counts,
)
from atlas_cdc_reconciler.tables import HISTORY, Table

_NOT_HERE = Fault(LetterClass.MISSING_ROW, "the row that it changes is not here")


def append_rows(connection: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> None:
    """Insert rows that have columns of the table; the others become NULL."""
    names = ", ".join(f'"{name}"' for name in rows.column_names)
    with shown(connection, rows):
        if table.name == HISTORY.name:
            doubt_windows(connection, BATCH)
        connection.execute(f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {BATCH}")  # noqa: S608


# Inserts ------------------------------------------------------------------------------------------


def insert(work: TableWork, group: Group, fit: Fit) -> None:
    """Store new rows; those that cannot be become letters."""
    relation, raws = group.relation, group.raws
    codec = relation.codec
    # Where single rows have to be told apart; mostly none has, and it is faster without.
    in_order = bool(work.known) or work.in_order or work.holds.stops_inserts

    def decode(start: int, stop: int) -> pa.Table:
        # As one list where nothing was at fault, which is nearly always.
        part = raws if stop - start == len(raws) else raws[start:stop]
        if in_order:
            read = [codec.insert(raw, relation) for raw in part]
            rows = fit.cast(rows_table(codec, fit.columns, read))
        else:
            rows = fit.cast(codec.insert_table(part, relation, fit.columns))
        check_not_null(work.table, rows)
        return rows

    parts, bad = sift(len(raws), decode, DECODE_ERRORS)
    faults = {at: fault_of(error) for at, error in bad}
    kept, rows = joined(parts)
    if rows is not None:
        work.tally.read += tenant_counts(work.table, rows)
        kept, rows = _without_waiting(work, group, kept, rows)
    for at, fault in sorted(faults.items()):
        keys = keys_of(group, raws[at], work.table, fit)
        work.bury(group.numbers[at], fault, keys, is_insert=True)
    if rows is not None and rows.num_rows:
        store(work, rows, [group.numbers[at] for at in kept])
        work.tally.applied += tenant_counts(work.table, rows)


def _without_waiting(
    work: TableWork, group: Group, kept: list[int], rows: pa.Table
) -> tuple[list[int], pa.Table]:
    """The rows less those that have to wait, or are known to be at fault: these are buried."""
    if not work.holds.stops_inserts and not work.known:  # In order, if there are any.
        return kept, rows
    keys = key_texts(work.table, rows)
    stays = []
    for index, at in enumerate(kept):
        fault = work.known.get(group.numbers[at])
        if fault is None and work.holds.stops([keys[index]], is_insert=True):
            fault = WAITS
        if fault is None:
            stays.append(index)
        else:
            work.bury(group.numbers[at], fault, [keys[index]], is_insert=True, read=False)
    if len(stays) == len(kept):
        return kept, rows
    return [kept[index] for index in stays], rows.take(stays)


def store(work: TableWork, rows: pa.Table, numbers: Sequence[int]) -> None:
    """Append rows, which the changes with these numbers made. Raises RowsRefusedError."""

    def append(part: pa.Table) -> None:
        append_rows(work.connection, work.table, part)

    try:
        append(rows)
    except REFUSALS as error:
        raise RowsRefusedError(rows, numbers, append, error) from error
    work.tally.stored_rows += tenant_counts(work.table, rows)
