"""What a read must have seen, as the caller asked for it. Pure: no I/O, no wire format."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeAlias

from atlas.type.freshness import Position

EVENTUAL_STALENESS_SECONDS = 3.0
WAIT_TIMEOUT_SECONDS = 2.0
REPLICA_BUDGET_SECONDS = 3.0
WAREHOUSE_BUDGET_SECONDS = 300.0


class OnUnmet(Enum):
    """What to do when no tier but the primary is fresh enough."""

    WAIT = "wait"
    PRIMARY = "primary"
    FAIL = "fail"


class Level(Enum):
    """The level a read is served at; the values are those of x-consistency."""

    STRONG = "strong"
    EVENTUAL = "eventual"
    ANALYTICS = "analytics"
    AT_LEAST_AS_FRESH = "at_least_as_fresh"


class Source(Enum):
    """Where an answer came from; the values are those of x-data-source."""

    PRIMARY = "primary"
    REPLICA = "replica"
    CACHE = "cache"
    WAREHOUSE = "warehouse"


@dataclass(frozen=True, slots=True)
class Strong:
    """All that was committed before the call began; none of the positions was lost."""

    positions: tuple[Position, ...] = ()
    token: bytes = b""


@dataclass(frozen=True, slots=True)
class Eventual:
    """A copy at most this stale, that holds the positions."""

    max_staleness_seconds: float = EVENTUAL_STALENESS_SECONDS
    positions: tuple[Position, ...] = ()
    token: bytes = b""


@dataclass(frozen=True, slots=True)
class AtLeastAsFresh:
    """Any copy that holds the positions, however stale it is otherwise."""

    positions: tuple[Position, ...]
    token: bytes


@dataclass(frozen=True, slots=True)
class Analytics:
    """The warehouse, proven equal to the source at least up to `min_verified_through`."""

    min_verified_through: datetime | None = None
    token: bytes = b""


Requirement: TypeAlias = Strong | Eventual | AtLeastAsFresh
_LEVELS: dict[type, Level] = {
    Strong: Level.STRONG,
    Eventual: Level.EVENTUAL,
    AtLeastAsFresh: Level.AT_LEAST_AS_FRESH,
}


@dataclass(frozen=True, slots=True)
class Consistency:
    """A read's requirement, and what to do while nothing meets it."""

    requirement: Requirement = Eventual()
    on_unmet: OnUnmet = OnUnmet.PRIMARY
    wait_timeout_seconds: float = WAIT_TIMEOUT_SECONDS

    @property
    def level(self) -> Level:
        """The level's name."""
        return _LEVELS[type(self.requirement)]

    @property
    def positions(self) -> tuple[Position, ...]:
        """The positions that the answer must hold."""
        return self.requirement.positions

    @property
    def token(self) -> bytes:
        """The same, as the caller gave them."""
        return self.requirement.token


@dataclass(frozen=True, slots=True)
class WarehouseConsistency:
    """The same for aggregates, which the warehouse alone answers."""

    requirement: Analytics = Analytics()
    wait_timeout_seconds: float = WAIT_TIMEOUT_SECONDS
    """0: do not wait."""


def staleness_bound(requirement: Requirement) -> float | None:
    """The lag in seconds a copy may have; None where the positions alone count."""
    return requirement.max_staleness_seconds if isinstance(requirement, Eventual) else None


def wait_seconds(consistency: Consistency, remaining: float | None, reserve: float) -> float:
    """How long the read may wait: never beyond the call's deadline, less `reserve` to report it."""
    return within_deadline(consistency.wait_timeout_seconds, remaining, reserve)


def within_deadline(seconds: float, remaining: float | None, reserve: float) -> float:
    """So many seconds, but never beyond the call's deadline, less `reserve` to report it."""
    return seconds if remaining is None else max(0.0, min(seconds, remaining - reserve))
