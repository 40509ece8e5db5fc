"""How attributes are read, and what the automatic policy makes of it, as Python has them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_client.values import from_timestamp


class Pin(StrEnum):
    """What an operator has said of an attribute; the policy never touches a pinned one."""

    NONE = "none"
    HOT = "hot"
    COLD = "cold"
    UNKNOWN = "unknown"
    """Of a newer platform."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """What PinAttribute answers. `is_hot`: what the attribute is; pinning does not change it."""

    attribute: str
    pin: Pin
    is_hot: bool


@dataclass(frozen=True, slots=True)
class PromotionFigures:
    """What a decision is made on; see PromotionFigures in atlas.hotcache.v1."""

    promote_score: float
    demote_score: float
    reads_per_hour: float
    filters_per_hour: float
    points_per_hour: float
    hours: int


@dataclass(frozen=True, slots=True)
class AttributeStanding:
    """An attribute as the policy sees it; counts are estimates.

    `wish`: what its scores ask for, for `streak` evaluations in a row; `action`: what an evaluation
    would do now (promote, demote, none), and `why`.
    """

    attribute: str
    is_hot: bool
    pin: Pin
    read_count: int
    hot_read_count: int
    filter_count: int
    refused_filter_count: int
    figures: PromotionFigures
    wish: str
    streak: int
    action: str
    why: str


@dataclass(frozen=True, slots=True)
class PromotionReport:
    """The tenant's attributes, hot ones first, then by demand. `mode`: off, dry_run or on."""

    mode: str
    window_hours: int
    scope_read_count: int
    hot_count: int
    hot_max: int
    promote_score: float
    demote_score: float
    attributes: tuple[AttributeStanding, ...]


@dataclass(frozen=True, slots=True)
class PromotionDecision:
    """An entry of the audit log.

    `actor`: policy or operator. `action`: promote, demote, pin_hot, pin_cold, unpin. `outcome`:
    started (as job `job_id`), done, would (a dry run), refused. `figures`: of the policy's.
    """

    decision_id: int
    decide_time: datetime
    actor: str
    action: str
    attribute: str
    dry_run: bool
    outcome: str
    job_id: int
    why: str
    figures: PromotionFigures | None


PIN_NUMBERS = {
    Pin.NONE: pb.ATTRIBUTE_PIN_NONE,
    Pin.HOT: pb.ATTRIBUTE_PIN_HOT,
    Pin.COLD: pb.ATTRIBUTE_PIN_COLD,
}
_PINS = {number: pin for pin, number in PIN_NUMBERS.items()}


def pinned_of(attribute: str, message: pb.PinAttributeResponse) -> Pinned:
    """The record of a message."""
    return Pinned(attribute, _PINS.get(message.pin, Pin.UNKNOWN), message.hot)


def report_of(message: pb.GetPromotionReportResponse) -> PromotionReport:
    """The record of a message."""
    return PromotionReport(
        mode=_word(pb.PromotionMode, message.mode, "PROMOTION_MODE_"),
        window_hours=message.window_hours,
        scope_read_count=message.scope_read_count,
        hot_count=message.hot_count,
        hot_max=message.hot_max,
        promote_score=message.promote_score,
        demote_score=message.demote_score,
        attributes=tuple(map(_standing, message.attributes)),
    )


def decision_of(message: pb.PromotionDecision) -> PromotionDecision:
    """The record of a message."""
    return PromotionDecision(
        decision_id=message.decision_id,
        decide_time=from_timestamp(message.decide_time),
        actor=_word(pb.PromotionDecision.Actor, message.actor, "ACTOR_"),
        action=_action(message.action),
        attribute=message.attribute,
        dry_run=message.dry_run,
        outcome=_word(pb.PromotionDecision.Outcome, message.outcome, "OUTCOME_"),
        job_id=message.job_id,
        why=message.why,
        figures=_figures(message.figures) if message.HasField("figures") else None,
    )


def _standing(message: pb.AttributeStanding) -> AttributeStanding:
    return AttributeStanding(
        attribute=message.attribute,
        is_hot=message.hot,
        pin=_PINS.get(message.pin, Pin.UNKNOWN),
        read_count=message.read_count,
        hot_read_count=message.hot_read_count,
        filter_count=message.filter_count,
        refused_filter_count=message.refused_filter_count,
        figures=_figures(message.figures),
        wish=_action(message.wish),
        streak=message.streak,
        action=_action(message.action),
        why=message.why,
    )


def _figures(message: pb.PromotionFigures) -> PromotionFigures:
    return PromotionFigures(
        promote_score=message.promote_score,
        demote_score=message.demote_score,
        reads_per_hour=message.reads_per_hour,
        filters_per_hour=message.filters_per_hour,
        points_per_hour=message.points_per_hour,
        hours=message.hours,
    )


def _action(number: int) -> str:
    return _word(pb.PromotionAction, number, "PROMOTION_ACTION_")


def _word(enum: object, number: int, prefix: str) -> str:
    try:
        name: str = enum.Name(number)  # type: ignore[attr-defined]
    except ValueError:
        return str(number)
    return name.removeprefix(prefix).lower()
