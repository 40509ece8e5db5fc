"""What is counted of promoting by reads."""

from atlas_common.telemetry import metrics
from atlas_hotcache.promotion.decisions import Action, Outcome

_decisions = metrics.counter(
    "atlas.hotcache.promotion_decisions", "1", "Decisions of the policy, by action and outcome."
)
_evaluated = metrics.counter(
    "atlas.hotcache.promotion_tenants", "{tenants}", "Tenants whose attributes were evaluated."
)
_seconds = metrics.histogram(
    "atlas.hotcache.promotion_evaluation", "s", "How long an evaluation of all tenants took."
)


def decided(action: Action, outcome: Outcome) -> None:
    """The policy decided something."""
    _decisions.add(1, {"action": action.value, "outcome": outcome.value})


def evaluated(tenant_count: int, seconds: float) -> None:
    """An evaluation has ended."""
    _evaluated.add(tenant_count)
    _seconds.record(seconds)
