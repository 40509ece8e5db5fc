"""Where a read goes next. Pure: told the time and the tiers' state, it decides; others do.

A `Route` lives as long as one read. `next()` names the next thing to do; what came of it is told
with `missed()`, and asked again, until a read succeeds or the route refuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from atlas_query.consistency import Consistency, OnUnmet, Strong, staleness_bound

PRIMARY = "primary"
LAG_GRAIN_SECONDS = 0.5
"""What heartbeats and polls, five a second each, can tell apart."""


class Miss(Enum):
    """Why an endpoint did not serve the read; the values are for people."""

    BEHIND = "was behind"
    AWAY = "is away"
    BUSY = "was busy"
    CONFLICT = "was in conflict with recovery"
    CUT = "ended the session"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A replica as it is known at this moment."""

    name: str
    lag_seconds: float
    """Infinite if unknown."""
    is_available: bool
    """It answered when last asked, and its breaker lets calls through."""
    progress: int = 0
    """Rises whenever the replica is seen to have moved."""
    reads_running: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """Read this endpoint."""

    endpoint: str
    reason: str
    progress: int = 0
    is_admitted: bool = True
    """False: the read takes the primary's strength from STRONG reads and must be admitted."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a tier moves, at most so long."""

    seconds: float


def asks_cache(consistency: Consistency, *, is_hot_only: bool) -> bool:
    """Whether the cache is asked before any server: it has hot attributes, and is never strong."""
    return is_hot_only and not isinstance(consistency.requirement, Strong)


class Refusal(Enum):
    """Why there is nothing left to do."""

    UNMET = "unmet"
    """No tier met the freshness asked for in time."""
    LAST_MISS = "last_miss"
    """The endpoint that had to answer did not: its error is the answer."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Give up."""

    refusal: Refusal
    summary: str


Step: TypeAlias = Read | Wait | Refuse


@dataclass(slots=True)
class Route:
    """One read's way through the tiers. `began` and every `now` are monotonic seconds."""

    consistency: Consistency
    began: float
    wait_seconds: float
    _tried: dict[str, int] = field(default_factory=dict)  # Replica -> its progress then.
    _misses: dict[str, Miss] = field(default_factory=dict)
    _waited: bool = False
    _primary_tried: bool = False

    def next(self, replicas: Sequence[ReplicaState], now: float) -> Step:
        """The next step, by what is known of the replicas now."""
        if isinstance(self.consistency.requirement, Strong):
            return self._primary("STRONG reads the primary", is_admitted=True)
        candidate = self._candidate(replicas, now)
        if candidate is not None:
            reason = self._replica_reason(candidate, replicas, now)
            return Read(candidate.name, reason, candidate.progress)
        summary = self._summary(replicas)
        if self.consistency.on_unmet is OnUnmet.PRIMARY:
            return self._primary(f"{summary}: the primary", is_admitted=False)
        if self.consistency.on_unmet is OnUnmet.WAIT:
            left = self.began + self.wait_seconds - now
            if left > 0:
                self._waited = True
                return Wait(left)
        return Refuse(Refusal.UNMET, summary)

    def missed(self, read: Read, miss: Miss) -> None:
        """The endpoint did not serve the read."""
        if read.endpoint == PRIMARY:
            self._primary_tried = True
        else:
            self._tried[read.endpoint] = read.progress
        self._misses[read.endpoint] = miss

    def _candidate(self, replicas: Sequence[ReplicaState], now: float) -> ReplicaState | None:
        usable = [replica for replica in replicas if self._is_usable(replica, now)]
        # One that missed makes way for those not asked yet, although it has moved meanwhile.
        return min(usable, key=lambda r: (r.name in self._tried, _preference(r)), default=None)

    def _is_usable(self, replica: ReplicaState, now: float) -> bool:
        if not replica.is_available or not self._may_try(replica, now):
            return False
        bound = staleness_bound(self.consistency.requirement)
        # Without a bound the guard decides, in the snapshot itself: it alone knows the positions.
        return bound is None or replica.lag_seconds <= bound

    def _may_try(self, replica: ReplicaState, now: float) -> bool:
        tried = self._tried.get(replica.name)
        if tried is None:
            return True
        # Not again before it has moved: behind now, it is behind a microsecond later.
        if replica.progress <= tried:
            return False
        # One that is busy is no less so for having moved, as replicas do all the time: a read would
        # go from one to the next and back until its deadline. Only who waits tries again, and as
        # long as he waits.
        is_waiting = self.consistency.on_unmet is OnUnmet.WAIT
        is_over = now >= self.began + self.wait_seconds
        return self._misses[replica.name] is not Miss.BUSY or (is_waiting and not is_over)

    def _primary(self, reason: str, *, is_admitted: bool) -> Step:
        if self._primary_tried:
            return Refuse(Refusal.LAST_MISS, f"the primary {self._misses[PRIMARY].value}")
        return Read(PRIMARY, reason, is_admitted=is_admitted)

    def _replica_reason(
        self, chosen: ReplicaState, replicas: Sequence[ReplicaState], now: float
    ) -> str:
        bound = staleness_bound(self.consistency.requirement)
        if bound is None:
            reason = f"least lagged of {_count(len(replicas))}, asked for a token's positions"
        else:
            under = sum(r.is_available and r.lag_seconds <= bound for r in replicas)
            reason = f"least lagged of {_count(under)} under {bound:.1f} s"
        missed = [
            f"{name} {miss.value}" for name, miss in self._misses.items() if name != chosen.name
        ]
        waited = [f"waited {now - self.began:.2f} s"] if self._waited else []
        return "; ".join([reason, *missed, *waited])

    def _summary(self, replicas: Sequence[ReplicaState]) -> str:
        if not replicas:
            return "there are no replicas"
        bound = staleness_bound(self.consistency.requirement)
        want = "holds the token's positions" if bound is None else f"is under {bound:.1f} s"
        states = ", ".join(f"{r.name} {self._state(r)}" for r in replicas)
        return f"no replica {want} ({states})"

    def _state(self, replica: ReplicaState) -> str:
        if not replica.is_available:
            return Miss.AWAY.value
        miss = self._misses.get(replica.name)
        if miss is not None:
            return miss.value
        return lag_text(replica.lag_seconds)


def _preference(replica: ReplicaState) -> tuple[float, int, float, str]:
    """The least lagged; of those as fresh as can be told, the less busy."""
    lag = replica.lag_seconds
    grains = lag if lag == float("inf") else lag // LAG_GRAIN_SECONDS
    return (grains, replica.reads_running, lag, replica.name)


def lag_text(seconds: float) -> str:
    """A lag for people."""
    return "lag unknown" if seconds == float("inf") else f"lag {seconds:.1f} s"


def _count(replicas: int) -> str:
    return "1 replica" if replicas == 1 else f"{replicas} replicas"
