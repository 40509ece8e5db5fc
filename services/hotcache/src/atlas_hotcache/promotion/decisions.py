"""What is entered into the audit log. Pure."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from atlas_hotcache.promotion.policy import Figures, Move, Pin, Verdict


class Actor(StrEnum):
    """Who decided."""

    POLICY = "policy"
    OPERATOR = "operator"


class Action(StrEnum):
    """What was decided."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    PIN_HOT = "pin_hot"
    PIN_COLD = "pin_cold"
    UNPIN = "unpin"


class Outcome(StrEnum):
    """What came of it."""

    STARTED = "started"
    DONE = "done"
    WOULD = "would"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that is to be entered. `why`: for people; `figures`: of the policy."""

    actor: Actor
    action: Action
    attribute_id: int
    why: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A decision as it is stored."""

    decision_id: int
    decided_at: datetime
    actor: Actor
    action: Action
    attribute_id: int
    attribute: str
    dry_run: bool
    outcome: Outcome
    job_id: int | None
    why: str
    figures: Figures | None


def of_verdict(verdict: Verdict) -> Decision:
    """The policy's decision. Raises KeyError if it is to do nothing."""
    action = {Move.PROMOTE: Action.PROMOTE, Move.DEMOTE: Action.DEMOTE}[verdict.action]
    return Decision(
        Actor.POLICY,
        action,
        verdict.candidate.attribute_id,
        verdict.why,
        asdict(verdict.figures),
    )


def by_operator(action: Action, attribute_id: int) -> Decision:
    """A call of PromoteAttribute or DemoteAttribute."""
    return Decision(Actor.OPERATOR, action, attribute_id, "asked for")


def of_pin(attribute_id: int, pin: Pin, reason: str) -> Decision:
    """An operator's."""
    action = {Pin.HOT: Action.PIN_HOT, Pin.COLD: Action.PIN_COLD, Pin.NONE: Action.UNPIN}[pin]
    return Decision(Actor.OPERATOR, action, attribute_id, reason)
