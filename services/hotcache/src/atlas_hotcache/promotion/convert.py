"""Between messages and what the policy sees and decides; the only place that knows both."""

from collections.abc import Sequence
from typing import Any

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common import errors
from atlas_common.limits import check_bytes
from atlas_common.values import datetime_to_us, us_to_timestamp
from atlas_hotcache.config import PromotionConfig
from atlas_hotcache.promotion.decisions import Action, Actor, Entry, Outcome
from atlas_hotcache.promotion.policy import Figures, Mode, Move, Pin, Verdict, Window

PAGE_DEFAULT, PAGE_MAX = 50, 200
REPORT_DEFAULT, REPORT_MAX = 100, 1_000
_PINS = {
    Pin.NONE: pb.ATTRIBUTE_PIN_NONE,
    Pin.HOT: pb.ATTRIBUTE_PIN_HOT,
    Pin.COLD: pb.ATTRIBUTE_PIN_COLD,
}
_MODES = {
    Mode.OFF: pb.PROMOTION_MODE_OFF,
    Mode.DRY_RUN: pb.PROMOTION_MODE_DRY_RUN,
    Mode.ON: pb.PROMOTION_MODE_ON,
}
_MOVES = {
    Move.NONE: pb.PROMOTION_ACTION_NONE,
    Move.PROMOTE: pb.PROMOTION_ACTION_PROMOTE,
    Move.DEMOTE: pb.PROMOTION_ACTION_DEMOTE,
}
_ACTIONS = {
    Action.PROMOTE: pb.PROMOTION_ACTION_PROMOTE,
    Action.DEMOTE: pb.PROMOTION_ACTION_DEMOTE,
    Action.PIN_HOT: pb.PROMOTION_ACTION_PIN_HOT,
    Action.PIN_COLD: pb.PROMOTION_ACTION_PIN_COLD,
    Action.UNPIN: pb.PROMOTION_ACTION_UNPIN,
}
_ACTORS = {
    Actor.POLICY: pb.PromotionDecision.ACTOR_POLICY,
    Actor.OPERATOR: pb.PromotionDecision.ACTOR_OPERATOR,
}
_OUTCOMES = {
    Outcome.STARTED: pb.PromotionDecision.OUTCOME_STARTED,
    Outcome.DONE: pb.PromotionDecision.OUTCOME_DONE,
    Outcome.WOULD: pb.PromotionDecision.OUTCOME_WOULD,
    Outcome.REFUSED: pb.PromotionDecision.OUTCOME_REFUSED,
}


def pin(request: pb.PinAttributeRequest) -> tuple[Pin, str]:
    """The pin asked for, and why. Raises ServiceError INVALID_ARGUMENT naming the field."""
    check_bytes(request, "reason")
    for known, number in _PINS.items():
        if number == request.pin:
            return known, request.reason
    raise errors.invalid_argument(
        "INVALID_FIELD",
        f"pin is {request.pin}: say HOT, COLD, or NONE to let the policy decide",
        field="pin",
    )


def report_size(request: pb.GetPromotionReportRequest) -> int:
    """How many attributes are told of. Raises ServiceError INVALID_ARGUMENT."""
    _check_counts(request, "page_size")
    return min(request.page_size or REPORT_DEFAULT, REPORT_MAX)


def page(request: pb.ListPromotionDecisionsRequest) -> tuple[int, int]:
    """Where the page begins, and its size. Raises ServiceError INVALID_ARGUMENT."""
    _check_counts(request, "page_size", "before_decision_id")
    return request.before_decision_id, min(request.page_size or PAGE_DEFAULT, PAGE_MAX)


def report(
    verdicts: Sequence[Verdict], window: Window, config: PromotionConfig, size: int
) -> pb.GetPromotionReportResponse:
    """The first attributes of the report: hot ones, then by demand."""
    ordered = sorted(verdicts, key=lambda one: (not one.candidate.is_hot, -_demand(one)))
    return pb.GetPromotionReportResponse(
        mode=_MODES[config.mode],
        window_hours=config.window_hours,
        scope_read_count=sum(count.reads for count in window.scope),
        hot_count=window.hot_count,
        hot_max=config.hot_max,
        promote_score=config.promote_score,
        demote_score=config.demote_score,
        attributes=[_standing(verdict) for verdict in ordered[:size]],
    )


def decision(entry: Entry) -> pb.PromotionDecision:
    """An entry of the audit log."""
    return pb.PromotionDecision(
        decision_id=entry.decision_id,
        decide_time=us_to_timestamp(datetime_to_us(entry.decided_at)),
        actor=_ACTORS[entry.actor],
        action=_ACTIONS[entry.action],
        attribute=entry.attribute,
        dry_run=entry.dry_run,
        outcome=_OUTCOMES[entry.outcome],
        job_id=entry.job_id or 0,
        why=entry.why,
        figures=None if entry.figures is None else _figures(entry.figures),
    )


def _check_counts(request: Any, *names: str) -> None:
    for field in names:
        if getattr(request, field) < 0:
            raise errors.invalid_argument("INVALID_FIELD", f"{field} is negative", field=field)


def _demand(verdict: Verdict) -> int:
    return sum(count.reads + count.filters for count in verdict.candidate.counts)


def _standing(verdict: Verdict) -> pb.AttributeStanding:
    candidate = verdict.candidate
    return pb.AttributeStanding(
        attribute=candidate.name,
        hot=candidate.is_hot,
        pin=_PINS[candidate.pin],
        read_count=sum(count.reads for count in candidate.counts),
        hot_read_count=sum(count.hot_reads for count in candidate.counts),
        filter_count=sum(count.filters for count in candidate.counts),
        refused_filter_count=sum(count.refused_filters for count in candidate.counts),
        figures=_figures(verdict.figures),
        wish=_MOVES[verdict.wish],
        # What evaluations have said, not this report, which counts as none.
        streak=candidate.streak if candidate.wish is verdict.wish else 0,
        action=_MOVES[verdict.action],
        why=verdict.why,
    )


def _figures(figures: Figures) -> pb.PromotionFigures:
    return pb.PromotionFigures(
        promote_score=figures.promote_score,
        demote_score=figures.demote_score,
        reads_per_hour=figures.reads_per_hour,
        filters_per_hour=figures.filters_per_hour,
        points_per_hour=figures.points_per_hour,
        hours=figures.hours,
    )
