"""Dead letters: changes that could not be applied, kept until they can be, or are given up."""

from dataclasses import dataclass
from enum import StrEnum


class LetterClass(StrEnum):
    """Why a change is a dead letter; the names are those of the contract."""

    DECODE = "DECODE"
    """Its bytes are no change that the codec knows."""
    VALUE = "VALUE"
    """A value that the warehouse cannot hold, or none where there has to be one."""
    MISSING_ROW = "MISSING_ROW"
    """It changes a row that the warehouse does not have."""
    CONSTRAINT = "CONSTRAINT"
    """The warehouse's table refused the row."""
    SCHEMA = "SCHEMA"
    """The table does not fit the warehouse's any more: all its changes since then."""
    COPY = "COPY"
    """A row of the first copy that the warehouse cannot hold."""
    WAITING = "WAITING"
    """Nothing is wrong with it: it waits behind an earlier letter of the same row."""


HEADS = frozenset(LetterClass) - {LetterClass.SCHEMA, LetterClass.WAITING}
"""Classes of letters that are at fault themselves."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a change."""

    letter_class: LetterClass
    reason: str


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Letters that match all that is set."""

    tenant_id: int | None = None
    table: str = ""
    letter_class: LetterClass | None = None
    reason: str = ""
    """A part of the reason, whatever the case of its letters."""
    letter_ids: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it matches every letter."""
        return self == LetterFilter()


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it is kept."""

    letter_id: int
    letter_class: LetterClass
    reason: str
    table: str
    kind: str
    """A ChangeKind's name."""
    tenant_id: int | None
    tenant: str
    """The tenant's key, or its id where the key is not known; empty: there is no tenant."""
    row_keys: tuple[str, ...]
    chain_id: int
    offset: int
    lsn: int
    codec: str
    source_columns: str
    """Relation.columns_text of its table at that moment."""
    byte_count: int
    attempts: int
    first_attempt_us: int
    last_attempt_us: int
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for something to be done to letters, for the audit."""

    request_id: str
    """Empty: none; otherwise the same request is done once."""
    operator: str
    peer: str
    matching: LetterFilter
    matching_text: str
    """The filter as it was asked for, as JSON."""
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of the letters of a replay."""

    letter_count: int
    applied_count: int
    failed_count: int
    waiting_count: int
    failures: tuple[Letter, ...] = ()
    """The first of those that failed, with their new reasons."""


@dataclass(frozen=True, slots=True)
class Action:
    """An entry of the audit."""

    action_id: int
    acted_us: int
    kind: str
    operator: str
    peer: str
    request_id: str
    matching_text: str
    reason: str
    done_count: int
    failed_count: int


@dataclass(frozen=True, slots=True)
class HeldTable:
    """A table whose changes are all kept as letters."""

    table: str
    reason: str
    letter_count: int
    since_us: int
