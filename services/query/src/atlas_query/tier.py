"""What is known of a tier. Pure."""

from dataclasses import dataclass
from enum import Enum

from atlas.type.freshness import Position
from atlas_query.consistency import Source


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier. `lag_seconds` is infinite if unknown; `breaker` is CLOSED, OPEN or HALF_OPEN."""

    source: Source
    endpoint: str
    is_available: bool
    lag_seconds: float
    breaker: str
    note: str = ""
    """For people."""


TOLD_CHARS_MAX = 256
"""As much as ErrorInfo.metadata is given for one key."""


class PositionState(Enum):
    """Where a tier stands to positions; the values are those of the database's position_state()."""

    REACHED = "reached"
    PENDING = "pending"
    """Not here yet."""
    LOST = "lost"
    """It never will be: a failover lost them."""


@dataclass(frozen=True, slots=True)
class TierStanding:
    """A tier, and where it stands to the positions that somebody wants."""

    tier: Tier
    state: PositionState | None
    """None: it does not answer."""
    positions: tuple[Position, ...] = ()
    """What it holds, as far as that is known."""
    token: bytes = b""
    """The same, from a tier that seals it itself."""
    fresh_in_seconds: float | None = None
    """In how long it will be as fresh as asked; None: it is, it stands still, or nobody knows."""
    reads_running: int = 0
    why: str = ""
    """What it says itself of not being fresh enough."""

    @property
    def is_reached(self) -> bool:
        """Whether it holds the positions."""
        return self.state is PositionState.REACHED

    def told(self) -> str:
        """For people and for ErrorInfo: lag, outlook and positions, the most useful first."""
        held = ", ".join(f"{p.lane}:{p.epoch}:{p.sequence}" for p in self.positions)
        lag = self.tier.lag_seconds
        parts = [
            "lag unknown" if lag == float("inf") else f"lag {lag:.1f} s",
            *([] if self.tier.is_available else ["away"]),
            *([] if self.is_reached else [outlook_text(self.fresh_in_seconds)]),
            *([self.why] if self.why else []),
            *([f"at {held or 'no position'}"] if self.tier.source in _BY_LANE else []),
        ]
        return ", ".join(parts)[:TOLD_CHARS_MAX]


_BY_LANE = frozenset({Source.PRIMARY, Source.REPLICA})


def outlook_text(seconds: float | None) -> str:
    """When a tier will be fresh enough, for people."""
    return "no telling when fresh enough" if seconds is None else f"fresh enough in {seconds:.1f} s"
