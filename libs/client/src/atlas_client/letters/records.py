"""Dead letters as Python has them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from atlas.reconciler.v1 import dead_letter_service_pb2 as pb
from atlas_client.values import from_timestamp


class LetterClass(StrEnum):
    """Why a change is a dead letter; see DeadLetterClass in atlas.reconciler.v1."""

    DECODE = "decode"
    VALUE = "value"
    MISSING_ROW = "missing-row"
    CONSTRAINT = "constraint"
    SCHEMA = "schema"
    COPY = "copy"
    WAITING = "waiting"
    UNKNOWN = "unknown"
    """One that this client does not know yet."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A change that could not be applied; see DeadLetter in atlas.reconciler.v1."""

    letter_id: int
    letter_class: LetterClass
    reason: str
    table: str
    kind: str
    """insert, update or delete."""
    tenant: str
    row_keys: tuple[str, ...]
    chain_id: int
    position: str
    codec: str
    byte_count: int
    raw: bytes
    """Empty unless it was asked for."""
    attempts: int
    first_attempt_time: datetime
    last_attempt_time: datetime


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of letters that were tried again."""

    letter_count: int
    applied_count: int
    failed_count: int
    waiting_count: int
    failures: tuple[DeadLetter, ...]
    """The first of those that failed, with their new reasons."""


@dataclass(frozen=True, slots=True)
class LetterAction:
    """An entry of the audit: a replay or a discard."""

    action_id: int
    act_time: datetime
    kind: str
    operator: str
    peer: str
    request_id: str
    filter: str
    reason: str
    done_count: int
    failed_count: int


@dataclass(frozen=True, slots=True)
class Books:
    """What became of one table's changes of one tenant."""

    table: str
    tenant: str
    read_count: int
    applied_count: int
    dead_lettered_count: int
    skipped_count: int

    @property
    def balance(self) -> bool:
        """Whether read = applied + dead-lettered + skipped."""
        accounted = self.applied_count + self.dead_lettered_count + self.skipped_count
        return self.read_count == accounted


@dataclass(frozen=True, slots=True)
class BooksReport:
    """The books, and what the audit found when it counted again."""

    books: tuple[Books, ...]
    discrepancies: tuple[str, ...]
    audit_time: datetime | None

    @property
    def balance(self) -> bool:
        """Whether all is accounted for, and the tables say so too."""
        return not self.discrepancies and all(each.balance for each in self.books)


_NUMBERS = {
    each: pb.DeadLetterClass.Value(f"DEAD_LETTER_CLASS_{each.name}")
    for each in LetterClass
    if each is not LetterClass.UNKNOWN
}
_CLASSES = {number: each for each, number in _NUMBERS.items()}


def class_number(letter_class: LetterClass) -> "pb.DeadLetterClass.ValueType":
    """The contract's number of a class. Raises ValueError for UNKNOWN."""
    if letter_class is LetterClass.UNKNOWN:
        raise ValueError("UNKNOWN is no class that letters could be filtered by")
    return _NUMBERS[letter_class]


def letter_of(message: pb.DeadLetter) -> DeadLetter:
    """The record of a message."""
    return DeadLetter(
        letter_id=message.letter_id,
        letter_class=_CLASSES.get(getattr(message, "class"), LetterClass.UNKNOWN),
        reason=message.reason,
        table=message.table,
        kind=pb.ChangeKind.Name(message.kind).removeprefix("CHANGE_KIND_").lower(),
        tenant=message.tenant,
        row_keys=tuple(message.row_keys),
        chain_id=message.chain_id,
        position=message.position,
        codec=message.codec,
        byte_count=message.byte_count,
        raw=message.raw,
        attempts=message.attempts,
        first_attempt_time=from_timestamp(message.first_attempt_time),
        last_attempt_time=from_timestamp(message.last_attempt_time),
    )


def replay_of(message: pb.ReplayDeadLettersResponse) -> ReplayResult:
    """The record of a message."""
    return ReplayResult(
        letter_count=message.letter_count,
        applied_count=message.applied_count,
        failed_count=message.failed_count,
        waiting_count=message.waiting_count,
        failures=tuple(map(letter_of, message.failures)),
    )


def action_of(message: pb.DeadLetterAction) -> LetterAction:
    """The record of a message."""
    return LetterAction(
        action_id=message.action_id,
        act_time=from_timestamp(message.act_time),
        kind=pb.DeadLetterAction.Kind.Name(message.kind).removeprefix("KIND_").lower(),
        operator=message.operator,
        peer=message.peer,
        request_id=message.request_id,
        filter=message.filter,
        reason=message.reason,
        done_count=message.done_count,
        failed_count=message.failed_count,
    )


def books_of(message: pb.GetBooksResponse) -> BooksReport:
    """The record of a message."""
    books = tuple(
        Books(
            table=each.table,
            tenant=each.tenant,
            read_count=each.read_count,
            applied_count=each.applied_count,
            dead_lettered_count=each.dead_lettered_count,
            skipped_count=each.skipped_count,
        )
        for each in message.books
    )
    audited = message.HasField("audit_time")
    return BooksReport(
        books,
        tuple(message.discrepancies),
        from_timestamp(message.audit_time) if audited else None,
    )
