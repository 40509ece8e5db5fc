"""A write as the domain sees it: columns of points, what is wrong with some, what is answered."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from atlas_common.values import DataType

ERRORS_REPORTED_MAX = 100


class Ack(Enum):
    """When a write is answered, and so what the answer survives."""

    STAGED = "staged"
    COMMITTED = "committed"
    DURABLE = "durable"


@dataclass(frozen=True, slots=True)
class PointColumns:
    """Points column by column; all lists are of one length, a point is an index.

    A value is as it came: bool, int, float; text of TEXT, DECIMAL and JSON; of TIME the pair
    (seconds, nanoseconds). `types` and `values` are None where a point carries no value.
    """

    entity_keys: list[str]
    attributes: list[str]
    event_times_us: list[int]
    qualities: list[int]
    types: list[DataType | None]
    values: list[Any]

    def __len__(self) -> int:
        return len(self.entity_keys)


@dataclass(frozen=True, slots=True)
class PointError:
    """What is wrong with the point at `index`; `reason` is a name of ErrorReason."""

    index: int
    reason: str
    field: str
    message: str


@dataclass(slots=True)
class Rejections:
    """The points that are refused: the first hundred with their errors, all of them counted."""

    count: int = 0
    errors: list[PointError] = field(default_factory=list)

    def add(self, error: PointError) -> None:
        """Take note of one more refused point."""
        self.count += 1
        if len(self.errors) < ERRORS_REPORTED_MAX:
            self.errors.append(error)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write is answered, as the ledger keeps it for a repeated request."""

    accepted_count: int
    rejected_count: int
    errors: tuple[PointError, ...]


@dataclass(frozen=True, slots=True)
class ProducerSequence:
    """A producer's batch: its repetitions are known by their number."""

    producer_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class SourceOffset:
    """A message of a topic: its repetitions are known by its offset.

    `follows`: the offset after that of the message before it, as far as its reader knows. It is
    stored only if everything before that is.
    """

    topic: str
    partition: int
    offset: int
    follows: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that cannot be stored, or not all of it; `reason` is a name of ErrorReason."""

    source: str
    raw: bytes
    reason: str
    message: str
