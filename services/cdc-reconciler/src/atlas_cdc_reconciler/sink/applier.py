"""Batches into one transaction each: rows, dead letters, books and position, or nothing of it."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

import duckdb

from atlas_cdc_reconciler.changes import Batch, ChangeKind, Run
from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.letters import HEADS, Fault, LetterClass
from atlas_cdc_reconciler.lsn import LogPosition
from atlas_cdc_reconciler.sink import FencedError, TooManyDeadLettersError, WarehouseError
from atlas_cdc_reconciler.sink.apply import Outcome, apply_runs, refused
from atlas_cdc_reconciler.sink.books import Ledger
from atlas_cdc_reconciler.sink.history import append_rows
from atlas_cdc_reconciler.sink.holds import Holds
from atlas_cdc_reconciler.sink.letter_store import Source, keep
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.shapes import Shapes, fit
from atlas_cdc_reconciler.sink.work import (
    Buried,
    Group,
    RowsRefusedError,
    TableWork,
    keys_of,
    tenant_counts,
)
from atlas_cdc_reconciler.source import CopiedRows, copy
from atlas_common.telemetry import logger

_log = logger(__name__)
_CLAIMS_MAX = 100


class Applier:
    """Writes through the one connection; used in the writer's thread alone."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, config: WarehouseConfig) -> None:
        self.connection = connection
        self.config = config
        self.shapes = Shapes(connection)
        self.holds = Holds.load(connection)
        self._is_stale = False
        self._epoch: int | None = None

    # Ownership ------------------------------------------------------------------------------------

    def claim(self, owner: str) -> int:
        """As Sink.claim."""
        for _ in range(_CLAIMS_MAX):
            self.begin()
            try:
                ((epoch,),) = self.connection.execute(Q["epoch"]).fetchall()
                self.connection.execute(Q["leave"])
                self.connection.execute(Q["claim"], {"epoch": epoch + 1, "owner": owner})
                self.connection.execute("COMMIT")
            except duckdb.TransactionException:  # The owner before us is just storing something.
                self.rollback()
                continue
            except BaseException:
                self.rollback()
                raise
            self._epoch = int(epoch) + 1
            return self._epoch
        raise WarehouseError("the warehouse cannot be claimed: another instance keeps storing")

    def check_owner(self, *, strict: bool = True) -> None:
        """Within a transaction: raises FencedError unless the last claim was ours.

        Not `strict`: nor if we have not claimed it yet.
        """
        if self._epoch is None:
            if not strict:
                return
            raise FencedError("this instance has not claimed the warehouse")
        ((epoch,),) = self.connection.execute(Q["epoch"]).fetchall()
        try:
            # A claim that is committed while we work has to make us fail: both change this row.
            self.connection.execute(Q["touch_owner"])
        except duckdb.TransactionException:
            epoch = self._epoch + 1
        if epoch != self._epoch:
            raise FencedError(
                f"another instance owns the warehouse since epoch {epoch}, ours was {self._epoch}"
            )

    # Batches --------------------------------------------------------------------------------------

    def apply(self, batch: Batch) -> None:
        """Store a batch whose beginning is where the sink stands."""
        known: dict[int, Fault] = {}
        in_order = False
        while True:
            self.begin()
            try:
                outcome, ledger = self._store(batch, known, in_order=in_order)
                self.connection.execute("COMMIT")
                break
            except RowsRefusedError as error:
                self.rollback()
                if not in_order:
                    in_order = True
                    continue
                found = refused(self.connection, error)
                if not found or found.keys() <= known.keys():
                    raise WarehouseError(
                        f"rows were refused together, not alone: {error}"
                    ) from error
                known |= found
                self._check_heads(len(known), next(iter(found.values())).reason)
            except BaseException:
                self.rollback()
                raise
        ledger.export()
        _tell(batch, outcome)

    def begin(self) -> None:
        """Begin a transaction, knowing what the last one that was committed left."""
        if self._is_stale:
            self.shapes.reload()
            self.holds = Holds.load(self.connection)
            self._is_stale = False
        self.connection.execute("BEGIN")

    def rollback(self) -> None:
        """Undo the open transaction, if there is one, and forget what it taught."""
        self._is_stale = True
        with suppress(duckdb.TransactionException):  # None was open.
            self.connection.execute("ROLLBACK")

    def forget(self) -> None:
        """What is known of open letters is to be read anew: some are gone."""
        self._is_stale = True

    def _store(
        self, batch: Batch, known: Mapping[int, Fault], *, in_order: bool
    ) -> tuple[Outcome, Ledger]:
        self.check_owner()
        added = self.shapes.evolve(dict.fromkeys(run.relation for run in batch.runs))
        for table, columns in added.items():
            _log.warning("columns added", table=table, columns=columns)
        outcome = apply_runs(
            self.connection, self.shapes, self.holds, batch.runs, known, in_order=in_order
        )
        heads = [each for each in outcome.buried if each.letter_class in HEADS]
        if heads:
            self._check_heads(len(heads), heads[-1].reason)
        sources = _sources(batch.runs, outcome.buried)
        keep(self.connection, self.holds, outcome.buried, sources)
        self._check_open()
        ledger = Ledger()
        for table, tally in outcome.tallies.items():
            ledger.add_tally(table, tally)
        by_table: dict[str, list[Buried]] = {}
        for each, source in zip(outcome.buried, sources, strict=True):
            by_table.setdefault(source.relation.name, []).append(each)
        for table, buried in by_table.items():
            ledger.add_buried(table, buried)
        for table, count in batch.skipped.items():
            entry = ledger.entry(table, None)  # Nobody looked whose they are: they are not read.
            entry.read += count
            entry.skipped += count
        ledger.check(batch.counts() + batch.skipped)
        ledger.post(self.connection)
        self.connection.execute(Q["set_position"], stored(batch.position))
        return outcome, ledger

    def _check_heads(self, count: int, reason: str) -> None:
        if count > self.config.dead_letters_per_batch_max:
            raise TooManyDeadLettersError(
                f"{count} changes of one batch cannot be applied, more than the"
                f" {self.config.dead_letters_per_batch_max} of"
                " ATLAS_WAREHOUSE__DEAD_LETTERS_PER_BATCH_MAX; the last one:"
                f" {reason}"
            )

    def _check_open(self) -> None:
        letters_max = self.config.dead_letters_max
        bytes_max = self.config.dead_letter_bytes_max
        if self.holds.letter_count > letters_max or self.holds.byte_count > bytes_max:
            raise TooManyDeadLettersError(
                f"there would be {self.holds.letter_count} dead letters with"
                f" {self.holds.byte_count} bytes, more than the {letters_max} of"
                f" ATLAS_WAREHOUSE__DEAD_LETTERS_MAX or the {bytes_max} bytes of"
                " ATLAS_WAREHOUSE__DEAD_LETTER_BYTES_MAX: replay or discard some"
            )

    # The first copy -------------------------------------------------------------------------------

    def append(self, at: LogPosition, copied: CopiedRows) -> None:
        """Take in rows of the first copy, in the open transaction."""
        table = copied.table
        append_rows(self.connection, table, copied.rows)
        relation = copied.relation or copy.relation(table)
        work = TableWork(self.connection, table, self.holds.table(table.name), {})
        work.tally.applied += tenant_counts(table, copied.rows)
        work.tally.read += work.tally.applied
        if not table.key:
            work.tally.stored_rows.update(work.tally.applied)
        how = fit(relation, table)
        for number, (raw, reason) in enumerate(copied.rejected):
            keys = keys_of(Group(relation, ChangeKind.INSERT, [], []), raw, table, how)
            work.bury(number, Fault(LetterClass.COPY, reason), keys, is_insert=True)
        if work.buried:
            _log.error(
                "dead letters",
                table=table.name,
                letter_class=LetterClass.COPY,
                letters=len(work.buried),
                reason=work.buried[0].reason,
            )
        sources = [Source(relation, ChangeKind.INSERT, at, raw) for raw, _ in copied.rejected]
        keep(self.connection, self.holds, work.buried, sources)
        self._check_open()
        ledger = Ledger()
        ledger.add_tally(table.name, work.tally)
        ledger.add_buried(table.name, work.buried)
        ledger.check({table.name: copied.rows.num_rows + len(copied.rejected)})
        ledger.post(self.connection)
        ledger.export()


def stored(position: LogPosition) -> dict[str, object]:
    """A position as the warehouse has it."""
    return {"log_offset": position.offset, "lsn": position.lsn.value}


def _sources(runs: Sequence[Run], buried: Sequence[Buried]) -> list[Source]:
    starts = []
    first = 0
    for run in runs:
        starts.append(first)
        first += len(run.raws)
    sources = []
    for each in buried:
        at = bisect_right(starts, each.number) - 1
        run = runs[at]
        raw = run.raws[each.number - starts[at]]
        sources.append(Source(run.relation, run.kind, run.commit, raw))
    return sources


def _tell(batch: Batch, outcome: Outcome) -> None:
    """Log what was buried: once for each table and class, however many they are."""
    told: Counter[tuple[str, LetterClass]] = Counter()
    first: dict[tuple[str, LetterClass], tuple[Source, Buried]] = {}
    sources = _sources(batch.runs, outcome.buried)
    for source, each in zip(sources, outcome.buried, strict=True):
        key = (source.relation.name, each.letter_class)
        told[key] += 1
        first.setdefault(key, (source, each))
    for (table, letter_class), count in told.items():
        source, each = first[table, letter_class]
        _log.error(
            "dead letters",
            table=table,
            letter_class=letter_class,
            letters=count,
            kind=source.kind.name,
            commit=str(source.commit),
            reason=each.reason,
        )
    for table, reason in outcome.newly_held.items():
        _log.critical("table held: its changes become dead letters", table=table, reason=reason)
