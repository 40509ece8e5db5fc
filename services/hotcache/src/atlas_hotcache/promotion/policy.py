"""Which attributes should be hot, by how they were read and written. Pure.

The score of an hour is its benefit as a multiple of what being projected costs in an hour. A cold
attribute is promoted when a low percentile of its hours' scores is high (it is asked for most of
the time), a hot one demoted when a high percentile is low (it is asked for hardly ever). Since the
low percentile is never above the high one, and the threshold of demotions below that of promotions,
no history asks for both: what has just been promoted is not demoted by the hours that promoted it.
What is filtered by is never demoted: reads of a cold attribute are slower, but filters over it are
refused. Beside that a move waits until it has been wished for several evaluations in a row, and
until the attribute has been what it is for a while.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What the policy may do."""

    OFF = "off"
    DRY_RUN = "dry_run"
    ON = "on"


class Pin(StrEnum):
    """What an operator has said."""

    NONE = "none"
    HOT = "hot"
    COLD = "cold"


class Move(StrEnum):
    """What is done with an attribute."""

    NONE = "none"
    PROMOTE = "promote"
    DEMOTE = "demote"


@dataclass(frozen=True, slots=True)
class Rules:
    """How benefits are weighed; see PromotionConfig for each."""

    promote_score: float = 2.0
    demote_score: float = 0.5
    promote_percentile: float = 50.0
    demote_percentile: float = 90.0
    filter_weight: float = 20.0
    scope_weight: float = 1.0
    point_weight: float = 0.1
    idle_reads_per_hour: float = 60.0
    hours_min: int = 6
    dwell_hours: float = 6.0
    confirmations: int = 3
    hot_max: int = 50
    changes_max: int = 2


@dataclass(frozen=True, slots=True)
class HourCount:
    """What was asked for in an hour, which is a number that rises by one each hour."""

    hour: int
    reads: int
    hot_reads: int = 0
    filters: int = 0
    refused_filters: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of an attribute."""

    attribute_id: int
    name: str
    is_hot: bool
    pin: Pin = Pin.NONE
    wish: Move = Move.NONE
    """What the last evaluation wished for."""
    streak: int = 0
    """In how many evaluations in a row."""
    points_per_hour: float = 0.0
    unchanged_hours: float = math.inf
    """How long it has been hot, or cold."""
    in_transition: bool = False
    counts: tuple[HourCount, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """A tenant's full hours in which reads were counted, and what was asked for by no name."""

    hours: tuple[int, ...]
    scope: tuple[HourCount, ...] = ()
    hot_count: int = 0
    """Hot attributes, and those that become so."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a decision is made on; see PromotionFigures in the contract."""

    promote_score: float
    demote_score: float
    reads_per_hour: float
    filters_per_hour: float
    points_per_hour: float
    hours: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an attribute. `streak`: as it is to be remembered."""

    candidate: Candidate
    figures: Figures
    wish: Move
    streak: int
    action: Move
    why: str


def evaluate(candidates: Sequence[Candidate], window: Window, rules: Rules) -> list[Verdict]:
    """A verdict on each candidate, in their order.

    The most wanted are promoted first, as far as `hot_max` goes, and the least wanted demoted; at
    most `changes_max` of either. What a demotion makes room for is there in the next evaluation.
    """
    wishes = [_wished(candidate, window, rules) for candidate in candidates]
    room = max(0, min(rules.changes_max, rules.hot_max - window.hot_count))
    limit = f"of its budget of {rules.hot_max} the tenant has {window.hot_count} hot attributes"
    if room == rules.changes_max:
        limit = f"{room} others come first in this evaluation"
    promoted = _chosen(wishes, Move.PROMOTE, room, rules)
    demoted = _chosen(wishes, Move.DEMOTE, rules.changes_max, rules)
    verdicts = []
    for wish in wishes:
        is_ripe = not wish.why and wish.streak >= rules.confirmations
        if id(wish) in promoted | demoted:
            verdicts.append(_acted(wish, rules))
        elif is_ripe:
            held = limit if wish.wish is Move.PROMOTE else "others come first in this evaluation"
            verdicts.append(_held(wish, held))
        else:
            verdicts.append(_held(wish, wish.why or _unripe(wish, rules)))
    return verdicts


def percentile(values: Iterable[float], percent: float) -> float:
    """The least value that `percent` of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class _Wish:
    candidate: Candidate
    figures: Figures
    wish: Move
    streak: int
    why: str  # Why nothing is done about it; empty: nothing is in the way but the streak.


def _wished(candidate: Candidate, window: Window, rules: Rules) -> _Wish:
    figures = _figures(candidate, window, rules)
    wish, why = _wish(candidate, figures, rules)
    streak = 0
    if wish is not Move.NONE:
        streak = min(candidate.streak + 1, 1_000) if candidate.wish is wish else 1
        if candidate.unchanged_hours < rules.dwell_hours:
            state = "hot" if candidate.is_hot else "cold"
            why = (
                f"{state} for {candidate.unchanged_hours:.1f} h only,"
                f" changed after {rules.dwell_hours:g} h at the earliest"
            )
    return _Wish(candidate, figures, wish, streak, why)


def _wish(candidate: Candidate, figures: Figures, rules: Rules) -> tuple[Move, str]:
    """What the scores ask for; if that is nothing, why."""
    if candidate.pin is not Pin.NONE:
        return Move.NONE, f"pinned {candidate.pin}"
    if candidate.in_transition:
        return Move.NONE, "it is in transition: see the jobs"
    if figures.hours < rules.hours_min:
        return Move.NONE, f"reads were counted in {figures.hours} of {rules.hours_min} hours needed"
    return _wish_of_hot(figures, rules) if candidate.is_hot else _wish_of_cold(figures, rules)


def _wish_of_hot(figures: Figures, rules: Rules) -> tuple[Move, str]:
    if figures.filters_per_hour > 0:
        return Move.NONE, "filtered by, and filters over a cold attribute are refused"
    if figures.demote_score <= rules.demote_score:
        return Move.DEMOTE, ""
    return Move.NONE, f"score {figures.demote_score:.2f}, demoted at {rules.demote_score:g}"


def _wish_of_cold(figures: Figures, rules: Rules) -> tuple[Move, str]:
    if figures.promote_score >= rules.promote_score:
        return Move.PROMOTE, ""
    return Move.NONE, f"score {figures.promote_score:.2f}, promoted at {rules.promote_score:g}"


def _figures(candidate: Candidate, window: Window, rules: Rules) -> Figures:
    counts = {count.hour: count for count in candidate.counts}
    scope = {count.hour: count.reads for count in window.scope} if candidate.is_hot else {}
    reads, filters = 0, 0
    scores = []
    # The hour costs something even if nothing is written: memory, and room in the budget.
    cost = candidate.points_per_hour * rules.point_weight + rules.idle_reads_per_hour
    for hour in window.hours:
        count = counts.get(hour, HourCount(hour, 0))
        reads += count.reads
        filters += count.filters
        benefit = (
            count.reads
            + count.filters * rules.filter_weight
            + scope.get(hour, 0) * rules.scope_weight
        )
        scores.append(benefit / cost)
    hours = len(window.hours)
    return Figures(
        promote_score=percentile(scores, rules.promote_percentile),
        demote_score=percentile(scores, rules.demote_percentile),
        reads_per_hour=reads / max(1, hours),
        filters_per_hour=filters / max(1, hours),
        points_per_hour=candidate.points_per_hour,
        hours=hours,
    )


def _chosen(wishes: Sequence[_Wish], move: Move, most: int, rules: Rules) -> set[int]:
    ripe = [
        wish
        for wish in wishes
        if wish.wish is move and not wish.why and wish.streak >= rules.confirmations
    ]
    if move is Move.PROMOTE:
        ripe.sort(key=lambda wish: (-wish.figures.promote_score, wish.candidate.attribute_id))
    else:
        ripe.sort(key=lambda wish: (wish.figures.demote_score, wish.candidate.attribute_id))
    return {id(wish) for wish in ripe[:most]}


def _acted(wish: _Wish, rules: Rules) -> Verdict:
    figures = wish.figures
    if wish.wish is Move.PROMOTE:
        score = f"score {figures.promote_score:.2f} reaches {rules.promote_score:g}"
    else:
        score = f"score {figures.demote_score:.2f} is not above {rules.demote_score:g}"
    why = (
        f"{score} in {wish.streak} evaluations: {figures.reads_per_hour:.0f} reads,"
        f" {figures.filters_per_hour:.1f} filters and {figures.points_per_hour:.0f} points an hour"
    )
    # The count begins anew: what has come of this decision is another evaluation's business.
    return Verdict(wish.candidate, figures, wish.wish, 0, wish.wish, why)


def _held(wish: _Wish, why: str) -> Verdict:
    return Verdict(wish.candidate, wish.figures, wish.wish, wish.streak, Move.NONE, why)


def _unripe(wish: _Wish, rules: Rules) -> str:
    return f"{wish.wish}: wished for in {wish.streak} of {rules.confirmations} evaluations"
