"""What clients sent, and what they were told: the truth that a database is audited against.

Every point ever made has a serial number of its own, over all tenants. Its value and its event time
are made of it, so a stored row says by itself which point it is, and whose.
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2

ENTITIES_PER_TENANT = 16
# Event times rise with the serial, but for places swapped among neighbours: points come late.
_SHUFFLE = 0b101101
_TOO_HIGH = 10**18


class Level(IntEnum):
    """The ack ladder; more is safer."""

    STAGED = pb.ACK_LEVEL_STAGED
    COMMITTED = pb.ACK_LEVEL_COMMITTED
    DURABLE = pb.ACK_LEVEL_DURABLE


class Outcome(Enum):
    """What the client knows of a batch."""

    UNKNOWN = "unknown"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"


@dataclass(frozen=True)
class Kind:
    """An attribute that the load writes."""

    name: str
    is_text: bool
    """Else an integer."""
    is_hot: bool


KINDS = (
    Kind("count", is_text=False, is_hot=False),
    Kind("level", is_text=False, is_hot=True),
    Kind("note", is_text=True, is_hot=False),
    Kind("state", is_text=True, is_hot=True),
)


@dataclass(frozen=True, slots=True)
class SentPoint:
    """One point. No two have the same (tenant, entity, attribute, event time)."""

    serial: int
    tenant: str
    entity: str
    kind: Kind
    event_time_us: int
    is_bad: bool = False

    @property
    def value(self) -> str:
        """As Postgres shows it as text."""
        return f"{self.tenant} {self.serial}" if self.kind.is_text else str(self.serial)

    def message(self) -> value_pb2.Point:
        """As it is sent. A bad one has a value above its attribute's maximum."""
        point = value_pb2.Point(
            entity_key=self.entity, attribute=self.kind.name, event_time_us=self.event_time_us
        )
        if self.kind.is_text:
            point.text_value = self.value
        else:
            point.int_value = _TOO_HIGH if self.is_bad else self.serial
        return point


@dataclass(eq=False)
class SentBatch:
    """Points that are stored together or not at all, under one key that makes them repeatable."""

    tenant: str
    key: str
    points: tuple[SentPoint, ...]
    level: Level
    made_at: float
    is_bad: bool = False
    """To be refused as a whole."""
    outcome: Outcome = Outcome.UNKNOWN
    attempts: int = 0
    token: bytes = b""
    acknowledged_at: float = 0.0
    """By time.monotonic()."""
    reason: str = ""
    """Of a refusal."""
    first_answers: int = 0
    """How often a client was told that it is stored now; an answer may get lost."""
    repeated_answers: int = 0
    """How often that it had been stored before."""

    def acknowledge(self, token: bytes, *, duplicate: bool = False) -> None:
        """A client was told that it is stored."""
        self.outcome = Outcome.ACKNOWLEDGED
        self.acknowledged_at = time.monotonic()
        self.token = token
        if duplicate:
            self.repeated_answers += 1
        else:
            self.first_answers += 1

    def refuse(self, reason: str) -> None:
        """It was refused for good."""
        self.outcome = Outcome.REFUSED
        self.reason = reason


@dataclass
class Ledger:
    """All batches of a test."""

    batches: list[SentBatch] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    """Of single attempts: "CODE REASON" -> how often. They were repeated."""
    surprises: list[str] = field(default_factory=list)
    """Answers that break the contract, whatever the fault."""
    lost: list[tuple[SentBatch, float]] = field(default_factory=list)
    """Acknowledged at that moment, below DURABLE, and missing when their producer came back."""
    _serials: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _first_event_us: int = field(
        default_factory=lambda: (time.time_ns() // 1_000_000_000 - 3600) * 1_000_000
    )

    def new_batch(
        self, tenant: str, key: str, level: Level, size: int, *, is_bad: bool = False
    ) -> SentBatch:
        """A batch that nobody has sent yet."""
        points = tuple(self._new_point(tenant, is_bad=is_bad) for _ in range(size))
        batch = SentBatch(tenant, key, points, level, time.monotonic(), is_bad)
        self.batches.append(batch)
        return batch

    def _new_point(self, tenant: str, *, is_bad: bool) -> SentPoint:
        serial = next(self._serials)
        # Both tenants use the same names.
        entity = f"asset-{serial * 7 % ENTITIES_PER_TENANT}"
        kind = KINDS[1] if is_bad else KINDS[serial // 3 % len(KINDS)]
        event_time_us = self._first_event_us + (serial ^ _SHUFFLE)
        return SentPoint(serial, tenant, entity, kind, event_time_us, is_bad)

    def with_outcome(self, outcome: Outcome) -> list[SentBatch]:
        """The batches of an outcome."""
        return [batch for batch in self.batches if batch.outcome is outcome]

    def promised(self, floor: Level, until: float = float("inf")) -> list[SentBatch]:
        """The batches acknowledged at this level or a safer one, and before that moment."""
        return [
            batch
            for batch in self.with_outcome(Outcome.ACKNOWLEDGED)
            if batch.level >= floor and batch.acknowledged_at < until
        ]

    def acknowledged_since(self, moment: float, floor: Level = Level.DURABLE) -> list[SentBatch]:
        """Those of them that were acknowledged after a moment of time.monotonic()."""
        return [batch for batch in self.promised(floor) if batch.acknowledged_at > moment]

    def delivery_seconds(self) -> list[float]:
        """How long each acknowledged batch took, all its attempts together."""
        acknowledged = self.with_outcome(Outcome.ACKNOWLEDGED)
        return [batch.acknowledged_at - batch.made_at for batch in acknowledged]

    def points(self) -> dict[int, tuple[SentBatch, SentPoint]]:
        """Serial -> its batch and the point."""
        return {point.serial: (batch, point) for batch in self.batches for point in batch.points}

    def summary(self) -> str:
        """For people, when a test fails."""
        outcomes = Counter(f"{batch.outcome.value}@{batch.level.name}" for batch in self.batches)
        return f"{len(self.batches)} batches: {dict(outcomes)}, failed: {dict(self.failures)}"


def serials(batches: Iterable[SentBatch]) -> set[int]:
    """Of all their points."""
    return {point.serial for batch in batches for point in batch.points}
