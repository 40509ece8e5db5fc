"""New rows of the history: the hot path."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from atlas_cdc_reconciler.changes import Row
from atlas_cdc_reconciler.letters import Fault
from atlas_cdc_reconciler.sink.doubt import doubt_windows
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
    rows_table,
    shown,
    tenant_counts,
    undecodable,
)
from atlas_cdc_reconciler.tables import HISTORY, Table


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
    kept: Sequence[int] = range(len(group.raws))
    faults: dict[int, Fault] = {}
    try:
        rows = _decoded(work, group, fit)
    except DECODE_ERRORS:
        kept, rows, faults = _salvaged(work, group, fit)
    work.tally.read += tenant_counts(work.table, rows)
    kept, rows = _without_waiting(work, group, kept, rows)
    for at, fault in sorted(faults.items()):
        keys = keys_of(group, group.raws[at], work.table, fit)
        work.bury(group.numbers[at], fault, keys, is_insert=True)
    if rows.num_rows:
        store(work, rows, [group.numbers[at] for at in kept])
        work.tally.applied += tenant_counts(work.table, rows)


def _decoded(work: TableWork, group: Group, fit: Fit) -> pa.Table:
    relation, codec = group.relation, group.relation.codec
    # Where single rows have to be told apart; mostly none has, and it is faster without.
    if work.known or work.in_order or work.holds.stops_inserts:
        read = [codec.insert(raw, relation) for raw in group.raws]
        rows = rows_table(codec, fit.columns, read)
    else:
        rows = codec.insert_table(group.raws, relation, fit.columns)
    rows = fit.cast(rows)
    check_not_null(work.table, rows)
    return rows


def _salvaged(
    work: TableWork, group: Group, fit: Fit
) -> tuple[Sequence[int], pa.Table, dict[int, Fault]]:
    """The rows that can be stored with their places, and what is wrong with the others."""
    relation, codec = group.relation, group.relation.codec
    read: list[Row] = []
    places: list[int] = []
    faults: dict[int, Fault] = {}
    for at, raw in enumerate(group.raws):
        try:
            read.append(codec.insert(raw, relation))
            places.append(at)
        except DECODE_ERRORS as error:
            faults[at] = fault_of(error)
    bad = undecodable(codec, work.table, fit.columns, read, fit.cast)
    faults |= {places[index]: fault for index, fault in bad.items()}
    good = [index for index in range(len(read)) if index not in bad]
    rows = fit.cast(rows_table(codec, fit.columns, [read[index] for index in good]))
    return [places[index] for index in good], rows, faults


def _without_waiting(
    work: TableWork, group: Group, kept: Sequence[int], rows: pa.Table
) -> tuple[Sequence[int], pa.Table]:
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
    # Not +=, which forgets what is not above 0.
    work.tally.stored_rows.update(tenant_counts(work.table, rows))
