"""What happened during a run, counted."""

from collections import Counter, deque
from dataclasses import dataclass, field

TIERS = ("primary", "replica", "cache", "warehouse")
_LATENCIES_MAX = 200_000


class Latencies:
    """The last so many latencies."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_LATENCIES_MAX)

    def add(self, seconds: float) -> None:
        """Take one in."""
        self._seconds.append(seconds)

    def percentile_ms(self, percent: float) -> float | None:
        """Return a percentile in milliseconds; None without any."""
        ordered = sorted(self._seconds)
        if not ordered:
            return None
        return round(ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1000, 2)


@dataclass(slots=True)
class Probes:
    """Reads of one's own writes at one tier."""

    checks: int = 0
    """Answers of this tier, each compared with what was written."""
    failures: int = 0
    """Answers that were not what was written."""
    unavailable: int = 0
    """No answer, or none in time: not wrong, but no check either."""
    elsewhere: int = 0
    """Answered by another tier (and counted there)."""
    latencies: Latencies = field(default_factory=Latencies)


@dataclass(slots=True)
class Tally:
    """One run's counts."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    """Tenant -> points."""
    writes: int = 0
    repeated_writes: int = 0
    """Writes that were sent again, by the same id, after their client had given up."""
    duplicate_answers: int = 0
    """Writes that turned out to be stored already when they were sent again."""
    unsettled: Counter[str] = field(default_factory=Counter)
    """Tenant -> points that may or may not be stored: nobody answered to the end."""
    skipped_samples: int = 0
    """Left out because the platform was slower than the host."""
    samples: int = 0
    entities: set[str] = field(default_factory=set)
    ack: Latencies = field(default_factory=Latencies)
    probes: dict[str, Probes] = field(default_factory=lambda: {tier: Probes() for tier in TIERS})
    problems: list[str] = field(default_factory=list)
    """What is wrong, for people; the first ones."""

    @property
    def points(self) -> int:
        """Points acknowledged, of all tenants."""
        return sum(self.acknowledged.values())

    def problem(self, text: str) -> None:
        """Note what is wrong."""
        if len(self.problems) < 50:
            self.problems.append(text)
