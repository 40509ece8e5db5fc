"""Lag is the age of the newest poll that the marks reach."""

import math

from atlas_common.token import Position
from atlas_hotcache.lag import NO_PROOF, PollHistory, PrimaryView
from atlas_hotcache.marks import Claims

CLAIMS = Claims({0: {10: 1}, 1: {10: 1}})


def position(sequence: int, lane: int = 0) -> Position:
    return Position(lane, 10, sequence)


def view(sent: float, *positions: Position, source: str = "s") -> PrimaryView:
    return PrimaryView(sent, int(sent * 1e6), source, {one.lane: one for one in positions}, CLAIMS)


def history(*views: PrimaryView) -> PollHistory:
    polls = PollHistory()
    for one in views:
        polls.observe(one)
    return polls


def test_nothing_is_proven_before_the_first_poll() -> None:
    assert PollHistory().proof({}, 5.0) == NO_PROOF
    assert math.isinf(NO_PROOF.lag_seconds)


def test_marks_that_reach_the_last_poll_are_as_stale_as_it_is_old() -> None:
    polls = history(view(1.0, position(1)), view(2.0, position(2)))
    proof = polls.proof({0: position(2)}, 2.5)
    assert (proof.lag_seconds, proof.as_of_us) == (0.5, 2_000_000)


def test_marks_behind_prove_an_older_poll() -> None:
    polls = history(view(1.0, position(1)), view(2.0, position(2)), view(3.0, position(3)))
    assert polls.proof({0: position(1)}, 3.5).as_of_us == 1_000_000
    assert polls.proof({0: position(0)}, 3.5) == NO_PROOF


def test_every_lane_counts() -> None:
    polls = history(
        view(1.0, position(1), position(0, lane=1)), view(2.0, position(1), position(4, 1))
    )
    assert polls.proof({0: position(1)}, 3.0).as_of_us == 1_000_000
    assert polls.proof({0: position(1), 1: position(4, 1)}, 3.0).as_of_us == 2_000_000


def test_an_idle_primary_does_not_age_the_cache() -> None:
    polls = history(*(view(float(second), position(1)) for second in range(1, 1000)))
    assert polls.proof({0: position(1)}, 999.5).lag_seconds == 0.5


def test_overdue_counts_from_when_the_flush_was_seen_first() -> None:
    polls = history(view(1.0, position(1)), view(2.0, position(2)), view(5.0, position(2)))
    assert polls.overdue_seconds({0: position(1)}, 5.5) == 3.5
    assert polls.overdue_seconds({0: position(2)}, 5.5) == 0.0


def test_another_history_makes_earlier_polls_worthless() -> None:
    polls = history(view(1.0, position(1)), view(2.0, position(2), source="other"))
    assert polls.proof({0: position(1)}, 3.0) == NO_PROOF
    assert polls.source == "other"


def test_a_poll_that_was_overtaken_is_dropped() -> None:
    polls = history(view(2.0, position(2)), view(1.0, position(1)))
    assert polls.proof({0: position(2)}, 3.0).as_of_us == 2_000_000
    assert polls.proof({0: position(1)}, 3.0) == NO_PROOF
