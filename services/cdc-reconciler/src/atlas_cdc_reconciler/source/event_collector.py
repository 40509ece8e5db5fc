"""Gathers Debezium's events into batches of whole transactions; pure, no I/O.

Debezium delivers at least once: after a crash it writes events again that are in the topic already,
from some transaction, or from the middle of one, on. What is in the topic twice is found by the
positions of commits, which rise from transaction to transaction, and by the numbers of events in
their transaction. Both also show what is missing.
"""

from collections import Counter
from dataclasses import dataclass, field

from atlas_cdc_reconciler.changes import Batch, MessageError, Relation, Run
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.source import SlotLostError
from atlas_cdc_reconciler.source.debezium import Boundary, Event, EventReader


@dataclass(slots=True)
class _Transaction:
    """Events between a beginning and an end that has not come yet."""

    transaction_id: str
    runs: list[Run] = field(default_factory=list)
    event_count: int = 0
    order: int = 0
    """The number of the newest event."""
    byte_count: int = 0
    previous_commit: Lsn | None = None

    def counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for run in self.runs:
            counts[run.relation.name] += len(run.raws)
        return counts


class EventCollector:
    """Feed it message after message; take a batch whenever no transaction is open.

    A position's lsn lies behind the commit of the last transaction before it, which is how
    transactions that come again are known. They are counted and dropped, as are messages before
    `applied`.
    """

    def __init__(self, applied: LogPosition) -> None:
        self._applied = applied
        self._position = applied
        self._reader = EventReader()
        self._open: _Transaction | None = None
        self._runs: list[Run] = []
        self._gathered_changes = self._gathered_bytes = 0
        self._skipped: Counter[str] = Counter()

    @property
    def in_transaction(self) -> bool:
        """Whether the end of a transaction is still to come."""
        return self._open is not None

    @property
    def has_news(self) -> bool:
        """Whether a batch taken now would move the sink."""
        return self._position > self._applied

    @property
    def change_count(self) -> int:
        """Changes gathered, those of an open transaction included."""
        return self._gathered_changes + (self._open.event_count if self._open else 0)

    @property
    def byte_count(self) -> int:
        """Their bytes."""
        return self._gathered_bytes + (self._open.byte_count if self._open else 0)

    def feed(self, offset: int, raw: bytes | None) -> None:
        """Take in the message at an offset; None is a tombstone.

        Raises MessageError for one that is none of Debezium's, SlotLostError when changes are
        missing.
        """
        message = None if raw is None else self._reader.read(raw)
        if offset < self._applied.offset:
            if isinstance(message, Event):
                self._skip(message.relation)
            return
        match message:
            case Boundary(event_count=None):
                self._begin(message.transaction_id)
            case Boundary():
                self._end(message)
            case Event() if message.snapshot is not None:
                self._take_snapshot_row(message, offset)
            case Event():
                assert raw is not None
                self._take_change(message, raw)
        if self._open is None:
            self._position = LogPosition(offset + 1, self._position.lsn)

    def take(self) -> Batch:
        """All that was gathered since the last time; only between transactions."""
        if self.in_transaction:
            raise RuntimeError("a transaction is taken whole or not at all")
        batch = Batch(tuple(self._runs), self._applied, self._position, self._skipped)
        self._runs, self._skipped = [], Counter()
        self._gathered_changes = self._gathered_bytes = 0
        self._applied = self._position
        return batch

    def _begin(self, transaction_id: str) -> _Transaction:
        if self._open is None or self._open.transaction_id != transaction_id:
            if self._open is not None:
                # Debezium died in the middle of it and began again further back: it comes again.
                self._skipped += self._open.counts()
            self._open = _Transaction(transaction_id)
        return self._open

    def _take_change(self, event: Event, raw: bytes) -> None:
        if event.order is None:
            raise MessageError("no transaction metadata: set provide.transaction.metadata=true")
        transaction = self._begin(event.transaction_id)
        if event.order <= transaction.order:
            self._skip(event.relation)
            return
        transaction.order = event.order
        transaction.event_count += 1
        if transaction.previous_commit is None:
            transaction.previous_commit = event.previous_commit
        if event.kind is None or event.relation is None:
            return
        transaction.byte_count += len(raw)
        runs = transaction.runs
        if not runs or runs[-1].relation is not event.relation or runs[-1].kind is not event.kind:
            # Where it was committed is known at its end only.
            runs.append(Run(event.relation, event.kind, self._position))
        runs[-1].raws.append(raw)

    def _end(self, boundary: Boundary) -> None:
        transaction = self._begin(boundary.transaction_id)
        self._open = None
        seen = self._position.lsn
        if boundary.lsn <= seen:
            self._skipped += transaction.counts()
            return
        if transaction.previous_commit is not None and transaction.previous_commit > seen:
            raise SlotLostError(
                f"the topic has nothing of what was committed between {seen} and"
                f" {transaction.previous_commit}"
            )
        if transaction.event_count != boundary.event_count:
            raise SlotLostError(
                f"the topic has {transaction.event_count} of the {boundary.event_count} events of"
                f" the transaction before {boundary.lsn}"
            )
        self._position = LogPosition(self._position.offset, boundary.lsn)
        for run in transaction.runs:
            run.commit = LogPosition(self._position.offset, boundary.lsn)
            self._gathered_changes += len(run.raws)
        self._gathered_bytes += transaction.byte_count
        self._runs += transaction.runs

    def _take_snapshot_row(self, event: Event, offset: int) -> None:
        # An incremental snapshot shows rows whose changes are in the stream too.
        if event.snapshot != "incremental" and event.lsn > self._position.lsn:
            raise SlotLostError(
                f"Debezium began anew: a snapshot at offset {offset} where changes should follow,"
                " and those since its last one may be missing"
            )
        self._skip(event.relation)

    def _skip(self, relation: Relation | None) -> None:
        if relation is not None:
            self._skipped[relation.name] += 1


@dataclass(frozen=True, slots=True)
class SnapshotRange:
    """Where a topic has a whole snapshot: rows at offsets from `first` on, before `stop`."""

    first: int
    stop: int
    lsn: Lsn


@dataclass(slots=True)
class _Snapshot:
    """One whose end has not come yet."""

    first: int | None
    """Where it begins; None: before what the topic still has."""
    lsn: Lsn
    begun: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    """Tables with a row, and those whose rows are all there."""

    def goes_on_with(self, event: Event, table: str) -> bool:
        """Say whether the row may be its next; all its rows have the slot's first position."""
        is_first_again = event.snapshot == "first_in_data_collection" and table in self.begun
        return event.lsn == self.lsn and table not in self.ended and not is_first_again

    def take(self, event: Event, table: str) -> None:
        self.begun.add(table)
        if event.snapshot == "last_in_data_collection":
            self.ended.add(table)


class SnapshotFinder:
    """Feed it a topic from its start; it finds the newest snapshot that has both its ends.

    Debezium makes a snapshot anew when it dies in the middle of it, so that one without its end
    may lie before it. It marks a first row only where the first of its tables has rows: other
    snapshots begin with the first row there is, if what lies before it is known.
    """

    def __init__(self) -> None:
        self._reader = EventReader()
        self._open: _Snapshot | None = None
        self._is_known_before: bool | None = None
        self.found: SnapshotRange | None = None
        self.has_changes = False
        """Whether there were changes: then a snapshot has ended, found or not."""

    def feed(self, offset: int, raw: bytes | None) -> None:
        """Take in the message at an offset. Raises MessageError."""
        if self._is_known_before is None:
            self._is_known_before = offset == 0  # Else older messages are gone.
        event = None if raw is None else self._reader.read(raw)
        if not isinstance(event, Event):
            return
        if event.snapshot is None or event.relation is None:
            self.has_changes = True
        elif event.snapshot != "incremental":  # Whose rows are in the stream too.
            self._take_row(offset, event, event.relation.name)

    def _take_row(self, offset: int, event: Event, table: str) -> None:
        underway = self._open
        if event.snapshot == "first" or (underway and not underway.goes_on_with(event, table)):
            underway = _Snapshot(offset, event.lsn)
        elif underway is None:
            is_beginning = self._is_known_before or self.has_changes
            underway = _Snapshot(offset if is_beginning else None, event.lsn)
        underway.take(event, table)
        self._open = underway
        if event.snapshot == "last":
            if underway.first is not None:
                self.found = SnapshotRange(underway.first, offset + 1, event.lsn)
            self._open, self._is_known_before = None, True
