"""What was served, and how it was come by: the domain's form of ReadMetadata."""

from dataclasses import dataclass, replace
from datetime import datetime

from atlas.type.freshness import Position
from atlas_query.consistency import (
    REPLICA_BUDGET_SECONDS,
    WAREHOUSE_BUDGET_SECONDS,
    Level,
    Source,
)


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof that goes with an answer. `lag_seconds` is infinite where it cannot be known."""

    source: Source
    endpoint: str
    level: Level
    lag_seconds: float
    as_of: datetime | None
    positions: tuple[Position, ...]
    """Nothing in the answer is of a later flush: who reads with these sees nothing older."""
    route_reason: str
    warnings: tuple[str, ...] = ()
    held: tuple[Position, ...] = ()
    """Of an answer of the cache: what it holds at least. A server's view holds its positions."""

    def because(self, why: str) -> "Proof":
        """The same with a reason in front of the reason; unchanged if there is none."""
        return replace(self, route_reason=f"{why}; {self.route_reason}") if why else self


def budget_warnings(source: Source, lag_seconds: float) -> tuple[str, ...]:
    """What to say when a tier is staler than it is meant to be."""
    budget = WAREHOUSE_BUDGET_SECONDS if source is Source.WAREHOUSE else REPLICA_BUDGET_SECONDS
    if source is Source.PRIMARY or lag_seconds <= budget:
        return ()
    if lag_seconds == float("inf"):
        return (f"{source.value} lag is unknown: no recent heartbeat",)
    return (f"{source.value} lag {lag_seconds:.1f} s exceeds the budget of {budget:.1f} s",)
