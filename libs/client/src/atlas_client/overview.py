"""How the platform is at one moment, from what its services say: for `atlas top` and the console.

Every part is asked for at once and may fail alone: what is away is told, and the rest is shown.
"""

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import grpc

from atlas_client.client import AtlasClient
from atlas_client.errors import AtlasError
from atlas_client.policies import Policy
from atlas_client.records import (
    CacheStatus,
    PipelineStatus,
    Source,
    StagingStatus,
    Tier,
    Verifications,
)

BUDGETS = {
    Source.PRIMARY: timedelta(0),
    Source.REPLICA: timedelta(seconds=3),
    Source.CACHE: timedelta(seconds=3),
    Source.WAREHOUSE: timedelta(minutes=5),
}
"""How far each tier may be behind."""
BACKLOG_POINTS_MAX = 1_000_000
"""Staged points beyond which operators are called."""
TIMEOUT_SECONDS = 5.0
_TENANTS_MAX = 100
_AS_MEANT = frozenset({"streaming", "backfilling"})

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class TierView:
    """A tier with its budget."""

    tier: Tier
    budget: timedelta
    over_budget: bool
    """Also while it is not known how far it is behind."""


@dataclass(frozen=True, slots=True)
class Banner:
    """Something that is not as it is meant to be."""

    severity: str
    """critical: readers see it, or data wait; warning: they will."""
    text: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The platform. A part that could not be had is None, and `problems` says why."""

    taken_at: datetime
    tiers: tuple[TierView, ...] | None = None
    staging: StagingStatus | None = None
    pipeline: PipelineStatus | None = None
    verifications: Verifications | None = None
    cache: CacheStatus | None = None
    policies: tuple[Policy, ...] | None = None
    problems: dict[str, str] = field(default_factory=dict)
    banners: tuple[Banner, ...] = ()

    @property
    def is_critical(self) -> bool:
        """Whether somebody should look at it now."""
        return any(banner.severity == "critical" for banner in self.banners)


class SignedOutError(Exception):
    """Nothing could be had since it is not known who asks; the text is the services'."""


async def take(client: AtlasClient, *, timeout: float = TIMEOUT_SECONDS) -> Overview:
    """Ask every service. Needs no tenant, but the scopes telemetry.read and platform.status.

    Raises SignedOutError.
    """
    problems: dict[str, str] = {}
    codes: list[grpc.StatusCode | None] = []

    async def part(name: str, asked: Awaitable[Part]) -> Part | None:
        try:
            return await asked
        except AtlasError as error:
            problems[name] = str(error)
            codes.append(error.code)
        except LookupError as error:  # Its service has no address here.
            problems[name] = str(error.args[0])
            codes.append(None)
        return None

    tiers, staging, pipeline, verifications, cache, policies = await asyncio.gather(
        part("tiers", client.list_tiers(timeout=timeout)),
        part("staging", client.staging_status(timeout=timeout)),
        part("pipeline", client.pipeline_status(timeout=timeout)),
        part("verification", client.list_verifications(limit=_TENANTS_MAX, timeout=timeout)),
        part("cache", client.cache_status(timeout=timeout)),
        part("policies", client.policies.list(timeout=timeout)),
    )
    known = {code for code in codes if code is not None}
    if len(problems) == 6 and grpc.StatusCode.UNAUTHENTICATED in known:
        raise SignedOutError(next(iter(problems.values())))
    found = Overview(
        taken_at=datetime.now(UTC),
        tiers=None if tiers is None else tuple(view(tier) for tier in tiers),
        staging=staging,
        pipeline=pipeline,
        verifications=verifications,
        cache=cache,
        policies=None if policies is None else tuple(policies),
        problems=dict(sorted(problems.items())),
    )
    return replace(found, banners=tuple(banners(found)))


def view(tier: Tier) -> TierView:
    """The tier against its budget."""
    budget = BUDGETS.get(tier.source, timedelta(0)) if tier.source else timedelta(0)
    is_behind = tier.lag is None or tier.lag > budget
    return TierView(tier, budget, tier.source is not Source.PRIMARY and is_behind)


def banners(found: Overview) -> list[Banner]:
    """What is to be said first. Of tiers: in the words that readers get as warnings."""
    told: list[Banner] = []
    for each in found.tiers or ():
        told += _of_tier(each)
    if found.staging is not None and found.staging.backlog_points > BACKLOG_POINTS_MAX:
        told.append(
            Banner(
                "critical",
                f"staging holds {found.staging.backlog_points:,} points that are not flushed,"
                f" more than {BACKLOG_POINTS_MAX:,}",
            )
        )
    if found.pipeline is not None:
        told += _of_pipeline(found.pipeline)
    if found.verifications is not None:
        told += _of_verifications(found.verifications, found.taken_at)
    if found.cache is not None and not found.cache.connected:
        told.append(Banner("warning", "the cache is away: hot reads go to the primary"))
    for policy in found.policies or ():
        if policy.last_run is not None and policy.last_run.status == "failed":
            told.append(Banner("warning", f"policy {policy.job} failed: {policy.last_run.summary}"))
    for name, problem in found.problems.items():
        # Of a warehouse that is only fed, or an older release: nothing is wrong with it.
        severity = "warning" if problem.startswith("UNIMPLEMENTED") else "critical"
        told.append(Banner(severity, f"{name}: {problem}"))
    return sorted(told, key=lambda banner: banner.severity)  # Critical ones first.


def _of_tier(each: TierView) -> list[Banner]:
    tier, name = each.tier, each.tier.source.value if each.tier.source else "a tier"
    where = f"{tier.endpoint}: {name}" if tier.endpoint not in ("", name) else name
    if not tier.available:
        return [Banner("critical", f"{where} is not read: {tier.note or 'it does not answer'}")]
    if tier.breaker not in ("", "CLOSED"):
        return [Banner("warning", f"{where} has its breaker {tier.breaker}")]
    if not each.over_budget:
        return []
    if tier.lag is None:
        return [Banner("critical", f"{where} lag is unknown: no recent heartbeat")]
    lag, budget = tier.lag.total_seconds(), each.budget.total_seconds()
    return [Banner("critical", f"{where} lag {lag:.1f} s exceeds the budget of {budget:.1f} s")]


def _of_pipeline(pipeline: PipelineStatus) -> list[Banner]:
    told: list[Banner] = []
    if pipeline.phase not in _AS_MEANT:
        why = f": {pipeline.reason}" if pipeline.reason else ""
        told.append(Banner("critical", f"the pipeline is {pipeline.phase}{why}"))
    if not pipeline.conserved:
        told.append(Banner("critical", "the books of the pipeline do not balance"))
    if pipeline.dead_letters_open:
        told.append(Banner("warning", f"{pipeline.dead_letters_open:,} dead letters are open"))
    told += [
        Banner("critical", f"the table {held.table} is held: it does not fit any more")
        for held in pipeline.held_tables
    ]
    return told


def _of_verifications(found: Verifications, now: datetime) -> list[Banner]:
    late = [one.tenant for one in found.tenants if is_late(found, one.verified_through, now)]
    wrong = [one.tenant for one in found.tenants if one.windows_mismatched]
    told: list[Banner] = []
    if wrong:
        told.append(Banner("critical", f"the warehouse differs from the primary: {_some(wrong)}"))
    if late:
        told.append(Banner("warning", f"the verified past is older than the budget: {_some(late)}"))
    return told


def is_late(found: Verifications, verified_through: datetime | None, now: datetime) -> bool:
    """Whether the verified past is older than the budget."""
    if found.freshness_budget is None:
        return False
    return verified_through is None or now - verified_through > found.freshness_budget


def lag_text(lag: timedelta | None) -> str:
    """A lag for people."""
    if lag is None:
        return "unknown"
    seconds = lag.total_seconds()
    return f"{seconds:.2f} s" if seconds < 60 else f"{math.floor(seconds / 60)} min"


def _some(names: list[str], shown_max: int = 3) -> str:
    shown = ", ".join(names[:shown_max])
    more = len(names) - shown_max
    return f"{shown} and {more} more" if more > 0 else shown
