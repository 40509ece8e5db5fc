"""What would become of a read now, and why: the router's own policy, asked without reading."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from atlas_query.consistency import (
    Consistency,
    OnUnmet,
    Source,
    Strong,
    WarehouseConsistency,
    staleness_bound,
)
from atlas_query.policy import (
    PRIMARY,
    Miss,
    Read,
    Refuse,
    ReplicaState,
    Route,
    Step,
    Wait,
    asks_cache,
    lag_text,
)
from atlas_query.survey import Survey
from atlas_query.tier import PositionState, TierStanding, outlook_text


class ReadKind(Enum):
    """What is read: it decides which tiers come into question."""

    LATEST_HOT = "latest_hot"
    LATEST_ALL = "latest_all"
    FIND = "find"
    HISTORY = "history"
    AGGREGATE = "aggregate"


class Action(Enum):
    """What would happen first."""

    READ = "read"
    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tier, and what speaks for or against it."""

    standing: TierStanding
    verdict: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a read. `source`, `endpoint`: of what would be read."""

    action: Action
    reason: str
    on_unmet: OnUnmet
    when_unmet: str
    candidates: Sequence[Candidate]
    source: Source | None = None
    endpoint: str = ""


class Explainer:
    """Explains routes. `primary_reads_max`: the cap on reads that fall back to the primary."""

    def __init__(
        self, survey: Survey, primary_reads_max: int, monotonic: Callable[[], float]
    ) -> None:
        self._survey = survey
        self._primary_reads_max = primary_reads_max
        self._monotonic = monotonic

    async def explain(
        self, consistency: Consistency, kind: ReadKind, wait_seconds: float
    ) -> Explanation:
        """A read of Postgres, or of the cache before it."""
        now = self._monotonic()
        standings = await self._survey.servers(consistency)
        cache = None
        if asks_cache(consistency, is_hot_only=kind is ReadKind.LATEST_HOT):
            cache = await self._survey.cache(consistency)
        route = Route(consistency, now, wait_seconds)
        step, lost = self._step(route, standings, now)
        when_unmet = self._when_unmet(consistency.on_unmet, wait_seconds)
        if cache is not None and cache.tier.is_available and not lost:
            # It answers also when its entries are too old: it reads the primary then.
            source = Source.CACHE if cache.is_reached else Source.PRIMARY
            candidates = self._candidates(consistency, standings, cache, cache.tier.endpoint)
            return Explanation(
                Action.READ,
                f"hotcache is asked first{f' ({cache.why})' if cache.why else ''}",
                consistency.on_unmet,
                when_unmet,
                candidates,
                source,
                cache.tier.endpoint,
            )
        chosen = step.endpoint if isinstance(step, Read) and not lost else ""
        return Explanation(
            Action.FAIL if lost else _action(step),
            "a failover lost what the token stands for" if lost else _reason(step),
            consistency.on_unmet,
            when_unmet,
            self._candidates(consistency, standings, cache, chosen),
            (Source.PRIMARY if chosen == PRIMARY else Source.REPLICA) if chosen else None,
            chosen,
        )

    async def explain_aggregate(self, wanted: WarehouseConsistency) -> Explanation:
        """An aggregate, which the warehouse alone answers."""
        waits = wanted.wait_timeout_seconds
        on_unmet = OnUnmet.WAIT if waits > 0 else OnUnmet.FAIL
        when_unmet = self._when_unmet(on_unmet, waits)
        standing = await self._survey.analytics(wanted.requirement)
        if standing is None:
            reason = "no warehouse is configured for this service"
            return Explanation(Action.FAIL, reason, on_unmet, when_unmet, ())
        if standing.is_reached:
            return Explanation(
                Action.READ,
                "aggregates are answered by the warehouse",
                on_unmet,
                when_unmet,
                [Candidate(standing, "chosen")],
                Source.WAREHOUSE,
                standing.tier.endpoint,
            )
        may_wait = standing.state is PositionState.PENDING and waits > 0
        return Explanation(
            Action.WAIT if may_wait else Action.FAIL,
            standing.why,
            on_unmet,
            when_unmet,
            [Candidate(standing, standing.why)],
        )

    def _step(
        self, route: Route, standings: Sequence[TierStanding], now: float
    ) -> tuple[Step, bool]:
        """What the route comes to, told what each guard would say; and whether that is a loss."""
        by_name = {standing.tier.endpoint: standing for standing in standings}
        replicas = [self._state(s) for s in standings if s.tier.endpoint != PRIMARY]
        while True:
            step = route.next(replicas, now)
            if not isinstance(step, Read):
                return step, False
            standing = by_name[step.endpoint]
            if standing.state is PositionState.LOST:
                return step, True
            if standing.is_reached:
                return step, False
            is_behind = standing.state is PositionState.PENDING
            route.missed(step, Miss.BEHIND if is_behind else Miss.AWAY)

    def _state(self, standing: TierStanding) -> ReplicaState:
        tier = standing.tier
        return ReplicaState(
            tier.endpoint,
            tier.lag_seconds,
            is_available=tier.is_available,
            progress=self._survey.tracker.sighting(tier.endpoint).progress,
            reads_running=standing.reads_running,
        )

    def _when_unmet(self, on_unmet: OnUnmet, wait_seconds: float) -> str:
        match on_unmet:
            case OnUnmet.PRIMARY:
                return f"read the primary, one of at most {self._primary_reads_max} such reads"
            case OnUnmet.WAIT:
                return f"wait up to {wait_seconds:.1f} s, then fail with FRESHNESS_UNMET"
            case OnUnmet.FAIL:
                return "fail at once with FRESHNESS_UNMET"

    def _candidates(
        self,
        consistency: Consistency,
        standings: Sequence[TierStanding],
        cache: TierStanding | None,
        chosen: str,
    ) -> list[Candidate]:
        asked = [*([] if cache is None else [cache]), *standings]
        return [Candidate(each, _verdict(each, consistency, chosen)) for each in asked]


def _action(step: Step) -> Action:
    match step:
        case Read():
            return Action.READ
        case Wait():
            return Action.WAIT
        case Refuse():
            return Action.FAIL


def _reason(step: Step) -> str:
    match step:
        case Read():
            return step.reason
        case Refuse():
            return step.summary
        case Wait():
            return "no replica is fresh enough: wait until one moves"


def _verdict(standing: TierStanding, consistency: Consistency, chosen: str) -> str:
    if standing.tier.endpoint == chosen:
        return "chosen"
    return _objection(standing, consistency) or "fresh enough, another is preferred"


def _objection(standing: TierStanding, consistency: Consistency) -> str:
    """What speaks against a tier; "" if nothing does."""
    tier = standing.tier
    bound = staleness_bound(consistency.requirement)
    objection = standing.why
    if not tier.is_available:
        objection = f"is away, its breaker {tier.breaker}"
    elif standing.state is PositionState.LOST:
        objection = "lost the token's positions"
    elif isinstance(consistency.requirement, Strong) and tier.source is not Source.PRIMARY:
        objection = "STRONG is the primary's"
    elif not objection and not standing.is_reached:
        outlook = outlook_text(standing.fresh_in_seconds)
        objection = f"does not hold the token's positions, {outlook}"
    elif tier.source is Source.REPLICA and bound is not None and tier.lag_seconds > bound:
        outlook = outlook_text(standing.fresh_in_seconds)
        objection = f"{lag_text(tier.lag_seconds)} is over {bound:.1f} s, {outlook}"
    return objection
