"""The policy keeps its budget and its hands off pins, is monotone, and does not flap."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from atlas_hotcache.config import PromotionConfig
from atlas_hotcache.promotion.policy import (
    Candidate,
    HourCount,
    Move,
    Pin,
    Rules,
    Verdict,
    Window,
    evaluate,
    percentile,
)

RULES = Rules()
HOURS = tuple(range(1000, 1024))
READS = st.integers(0, 1_000_000)


def counts(reads: Sequence[int], filters: Sequence[int] = ()) -> tuple[HourCount, ...]:
    padded = [*filters, *[0] * (len(reads) - len(filters))]
    return tuple(
        HourCount(hour, number, filters=asked)
        for hour, number, asked in zip(HOURS, reads, padded, strict=False)
    )


def candidate(reads: Sequence[int] = (), *, attribute_id: int = 1, **fields: object) -> Candidate:
    is_hot = bool(fields.pop("is_hot", False))
    known = Candidate(attribute_id, f"a{attribute_id}", is_hot, counts=counts(reads))
    return replace(known, **fields)  # type: ignore[arg-type]


def judge(one: Candidate, rules: Rules = RULES, **window: object) -> Verdict:
    (verdict,) = evaluate([one], Window(HOURS, **window), rules)  # type: ignore[arg-type]
    return verdict


candidates = st.builds(
    Candidate,
    attribute_id=st.integers(1, 10_000),
    name=st.just("a"),
    is_hot=st.booleans(),
    pin=st.sampled_from(Pin),
    wish=st.sampled_from(Move),
    streak=st.integers(0, 10),
    points_per_hour=st.floats(0, 1e6),
    unchanged_hours=st.floats(0, 100),
    in_transition=st.booleans(),
    counts=st.lists(READS, max_size=24).map(counts),
)
ripe = st.builds(
    candidate,
    st.just([100_000] * 24),
    attribute_id=st.integers(10_001, 20_000),
    wish=st.just(Move.PROMOTE),
    streak=st.just(9),
    pin=st.sampled_from([Pin.NONE, Pin.NONE, Pin.COLD]),
)
"""Cold attributes that are only held back by pins, and by bounds."""
rules = st.builds(
    Rules,
    hot_max=st.integers(0, 10),
    changes_max=st.integers(1, 5),
    confirmations=st.integers(1, 3),
    dwell_hours=st.floats(0, 10),
)


@given(
    st.lists(candidates | ripe, max_size=20, unique_by=lambda one: one.attribute_id),
    st.integers(0, 12),
    rules,
)
def test_it_keeps_its_budget_and_its_hands_off_what_it_may_not_touch(
    found: list[Candidate], hot_count: int, rules: Rules
) -> None:
    verdicts = evaluate(found, Window(HOURS, hot_count=hot_count), rules)
    assert [verdict.candidate for verdict in verdicts] == found
    promoted = [v for v in verdicts if v.action is Move.PROMOTE]
    demoted = [v for v in verdicts if v.action is Move.DEMOTE]
    assert hot_count + len(promoted) <= max(rules.hot_max, hot_count)
    assert max(len(promoted), len(demoted)) <= rules.changes_max
    for verdict in promoted + demoted:
        one = verdict.candidate
        assert one.pin is Pin.NONE
        assert not one.in_transition
        assert one.unchanged_hours >= rules.dwell_hours
        assert one.is_hot is (verdict.action is Move.DEMOTE)
        assert verdict.streak == 0
    assert all(verdict.why for verdict in verdicts)


@given(st.lists(READS, min_size=24, max_size=24), st.floats(0, 1e6))
def test_no_history_asks_for_both(reads: list[int], points: float) -> None:
    cold = judge(candidate(reads, points_per_hour=points))
    hot = judge(candidate(reads, points_per_hour=points, is_hot=True))
    assert not (cold.wish is Move.PROMOTE and hot.wish is Move.DEMOTE)


@given(
    st.lists(READS, min_size=24, max_size=24),
    st.lists(READS, min_size=24, max_size=24),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)
def test_more_reads_and_fewer_points_never_speak_against_being_hot(
    reads: list[int], more: list[int], points: float, fewer: float
) -> None:
    fewer = min(points, fewer)
    less = candidate(reads, points_per_hour=points)
    wanted = candidate([a + b for a, b in zip(reads, more, strict=True)], points_per_hour=fewer)
    before, after = judge(less).figures, judge(wanted).figures
    assert after.promote_score >= before.promote_score
    assert after.demote_score >= before.demote_score
    if judge(less).wish is Move.PROMOTE:
        assert judge(wanted).wish is Move.PROMOTE
    if judge(replace(wanted, is_hot=True)).wish is Move.DEMOTE:
        assert judge(replace(less, is_hot=True)).wish is Move.DEMOTE


def changes(series: Sequence[int], rules: Rules, *, is_hot: bool = False) -> list[int]:
    """The hours after which the attribute was changed, evaluated each hour over the last 24."""
    one, changed = candidate(is_hot=is_hot), []
    since = 0
    for now in range(24, len(series)):
        hours = tuple(range(now - 24, now))
        seen = tuple(HourCount(hour, series[hour]) for hour in hours)
        one = replace(one, counts=seen, unchanged_hours=float(now - since))
        (verdict,) = evaluate([one], Window(hours), rules)
        one = replace(one, wish=verdict.wish, streak=verdict.streak)
        if verdict.action is not Move.NONE:
            changed.append(now)
            since = now
            one = replace(one, is_hot=not one.is_hot, wish=Move.NONE, streak=0)
    return changed


@given(st.integers(0, 10_000), st.booleans())
def test_constant_reads_change_an_attribute_at_most_once(level: int, is_hot: bool) -> None:
    assert len(changes([level] * 80, RULES, is_hot=is_hot)) <= 1


@settings(max_examples=30)
@given(st.floats(1, 1_000), st.integers(0, 2**32), st.booleans())
def test_noise_within_the_gap_of_the_thresholds_changes_an_attribute_at_most_once(
    level: float, seed: int, is_hot: bool
) -> None:
    """Scores that vary by less than a factor of promote_score / demote_score, which is 4."""
    noise = Random(seed)
    series = [round(level * 10 * noise.uniform(1, 3.9)) for _ in range(120)]
    assert len(changes(series, RULES, is_hot=is_hot)) <= 1


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0, 5_000]), min_size=60, max_size=120))
def test_whatever_comes_two_changes_are_a_dwelling_apart(series: list[int]) -> None:
    rules = replace(RULES, dwell_hours=10.0)
    changed = changes(series, rules)
    assert all(b - a >= 10 for a, b in pairwise(changed))


def test_a_change_waits_for_evaluations_in_a_row() -> None:
    one = candidate([1_000] * 24)
    for streak in (1, 2):
        verdict = judge(one)
        assert (verdict.action, verdict.wish, verdict.streak) == (Move.NONE, Move.PROMOTE, streak)
        one = replace(one, wish=verdict.wish, streak=verdict.streak)
    verdict = judge(one)
    assert (verdict.action, verdict.streak) == (Move.PROMOTE, 0)
    assert "1000 reads" in verdict.why
    broken = replace(one, wish=Move.DEMOTE, streak=9)
    assert judge(broken).streak == 1


def test_the_most_wanted_come_first_and_the_least_wanted_go_first() -> None:
    ripe = {"streak": 9, "wish": Move.PROMOTE}
    cold = [candidate([n * 1000] * 24, attribute_id=n, **ripe) for n in (1, 3, 2)]
    window = Window(HOURS, hot_count=0)
    verdicts = evaluate(cold, window, replace(RULES, changes_max=2))
    assert [v.candidate.attribute_id for v in verdicts if v.action is Move.PROMOTE] == [3, 2]
    full = evaluate(cold, Window(HOURS, hot_count=49), RULES)
    assert [v.candidate.attribute_id for v in full if v.action is Move.PROMOTE] == [3]
    assert "budget of 50" in full[0].why
    ripe = {"streak": 9, "wish": Move.DEMOTE, "is_hot": True}
    hot = [candidate([n] * 24, attribute_id=n, **ripe) for n in (5, 0, 7)]
    verdicts = evaluate(hot, Window(HOURS, hot_count=99), replace(RULES, changes_max=1))
    assert [v.candidate.attribute_id for v in verdicts if v.action is Move.DEMOTE] == [0]


def test_hours_nobody_counted_are_no_evidence() -> None:
    one = candidate(is_hot=True, streak=9, wish=Move.DEMOTE)
    (verdict,) = evaluate([one], Window(HOURS[:5]), RULES)
    assert (verdict.action, verdict.streak) == (Move.NONE, 0)
    assert "5 of 6 hours" in verdict.why
    (verdict,) = evaluate([one], Window(HOURS[:6]), RULES)
    assert verdict.action is Move.DEMOTE


def test_filters_count_more_and_reads_of_whatever_is_hot_count_for_what_is_hot() -> None:
    asked = Candidate(1, "a", is_hot=False, counts=counts([0] * 24, [6] * 24))
    assert judge(asked).wish is Move.PROMOTE, "6 filters an hour, 20 reads each, are 2 times 60"
    scope = counts([1_000] * 24)
    assert judge(candidate(is_hot=True), scope=scope).wish is Move.NONE
    assert judge(candidate(is_hot=True)).wish is Move.DEMOTE
    assert judge(candidate(), scope=scope).wish is Move.NONE


def test_what_is_filtered_by_is_not_demoted_however_seldom() -> None:
    unread = candidate(is_hot=True, streak=9, wish=Move.DEMOTE)
    assert judge(unread).action is Move.DEMOTE
    once = replace(unread, counts=counts([0] * 24, [0] * 23 + [1]))
    assert (judge(once).action, judge(once).wish) == (Move.NONE, Move.NONE)
    assert "filtered by" in judge(once).why


def test_a_burst_promotes_nothing_and_a_quiet_night_demotes_nothing() -> None:
    assert judge(candidate([100_000] * 11 + [0] * 13)).wish is Move.NONE
    working_day = [1_000] * 8 + [0] * 16
    assert judge(candidate(working_day, is_hot=True)).wish is Move.NONE


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1.0), (50, 2.0), (75, 3.0), (76, 4.0), (100, 4.0)]
)
def test_percentiles_are_values_that_were_there(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == expected
    assert percentile([], percent) == 0.0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"demote_score": 2.0}, "demote_score"),
        ({"demote_percentile": 40.0}, "demote_percentile"),
        ({"hours_min": 25}, "hours_min"),
        ({"mode": "maybe"}, "mode"),
    ],
)
def test_settings_that_would_flap_are_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        PromotionConfig.model_validate(fields)
    assert PromotionConfig().mode == "off"
    assert PromotionConfig().rules() == RULES
