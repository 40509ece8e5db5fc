"""What is known of a tier. Pure."""

from dataclasses import dataclass

from atlas_query.consistency import Source


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier. `lag_seconds` is infinite if unknown; `breaker` is CLOSED, OPEN or HALF_OPEN."""

    source: Source
    endpoint: str
    is_available: bool
    lag_seconds: float
    breaker: str
