"""Gathers the messages of the stream into batches of whole transactions; pure, no I/O."""

from collections import Counter

from atlas_cdc_reconciler.changes import Batch, ChangeKind, MessageError, Relation, Run
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.source import pgoutput

_KINDS = {kind.value[0]: kind for kind in ChangeKind}


class Collector:
    """Feed it message after message; take a batch whenever no transaction is open.

    Transactions whose commit lies before `applied` are counted and dropped: the source may send
    again what the sink has, since it hears of the sink's progress only now and then.
    """

    def __init__(self, applied: Lsn) -> None:
        self._applied = applied
        self._position = applied
        self._relations: dict[int, Relation] = {}
        self._runs: list[Run] = []
        self._raws: list[bytes] = []  # Of the newest run.
        self._run_head = b""
        self._skipped: Counter[str] = Counter()
        self._commit_lsn = applied
        self._skipping = False
        self.in_transaction = False
        self.change_count = 0
        """Changes gathered, those of an open transaction included."""
        self.byte_count = 0

    @property
    def has_news(self) -> bool:
        """Whether a batch taken now would move the sink."""
        return self._position > self._applied

    def feed(self, raw: bytes) -> None:
        """Take in one message. Raises MessageError for one that is none."""
        head = raw[:5]
        if head == self._run_head:  # As most: one more change like the one before.
            self._raws.append(raw)
            self.change_count += 1
            self.byte_count += len(raw)
            return
        match raw[0]:
            case pgoutput.INSERT | pgoutput.UPDATE | pgoutput.DELETE:
                self._begin_run(raw, head)
            case pgoutput.BEGIN:
                self._commit_lsn = pgoutput.begin_lsn(raw)
                self._skipping = self._commit_lsn < self._applied
                self.in_transaction = True
                self._run_head = b""
            case pgoutput.COMMIT:
                self._position = max(self._position, pgoutput.commit_end(raw))
                self.in_transaction = False
                self._run_head = b""
            case pgoutput.RELATION:
                relation = pgoutput.parse_relation(raw)
                self._relations[relation.relation_id] = relation
                self._run_head = b""  # What follows may have other columns.
            case kind if kind not in pgoutput.IGNORED:
                raise MessageError(f"a message {chr(kind)!r}, which was not asked for")

    def take(self) -> Batch:
        """All that was gathered since the last time; only between transactions."""
        if self.in_transaction:
            raise RuntimeError("a transaction is taken whole or not at all")
        batch = Batch(
            tuple(self._runs),
            LogPosition.at(self._applied),
            LogPosition.at(self._position),
            self._skipped,
        )
        self._runs, self._skipped = [], Counter()
        self._run_head = b""
        self._applied = self._position
        self.change_count = self.byte_count = 0
        return batch

    def _begin_run(self, raw: bytes, head: bytes) -> None:
        relation = self._relations.get(pgoutput.relation_id(raw))
        if relation is None:
            raise MessageError("a change of a relation that was not described")
        if self._skipping:
            self._skipped[relation.name] += 1
            return
        self._raws = [raw]
        commit = LogPosition.at(self._commit_lsn)
        self._runs.append(Run(relation, _KINDS[raw[0]], commit, self._raws))
        self._run_head = head
        self.change_count += 1
        self.byte_count += len(raw)
