"""The estimate of the primary's clock, without any clock."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_common.db.clock import PrimaryClock, PrimarySample
from atlas_common.db.tenancy import NO_BEAT, Beat

START = datetime(2030, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def sample(
    primary_now: float, *, sent: float, took: float = 0.0, beat_id: int = 1, beat_at: float = 0.0
) -> PrimarySample:
    return PrimarySample(sent, sent + took, at(primary_now), Beat(beat_id, at(beat_at)))


def test_nothing_known_is_infinite_lag() -> None:
    clock = PrimaryClock()
    assert clock.primary_now(5.0) is None
    assert clock.newest_beat is None
    assert clock.lag_seconds(Beat(1, START), 5.0) == math.inf


def test_a_copy_without_any_heartbeat_is_infinitely_behind() -> None:
    clock = PrimaryClock()
    clock.observe(sample(1.0, sent=100.0, beat_at=0.9))
    assert clock.lag_seconds(NO_BEAT, 100.0) == math.inf


def test_the_newest_heartbeat_is_as_old_as_any_copy_can_be_behind() -> None:
    clock = PrimaryClock()
    clock.observe(sample(1.0, sent=100.0, beat_id=7, beat_at=0.8))
    # A flush of 0.1 s ago may be missing there: nothing has been heard of the primary since.
    assert clock.lag_seconds(Beat(7, at(0.8)), 100.1) == pytest.approx(0.3, abs=0.001)
    assert clock.lag_seconds(Beat(8, at(1.05)), 100.1) == pytest.approx(0.05, abs=0.001)


def test_what_was_the_newest_long_ago_is_not_called_current() -> None:
    clock = PrimaryClock()
    clock.observe(sample(1.0, sent=100.0, beat_id=7, beat_at=0.8))
    assert clock.lag_seconds(Beat(7, at(0.8)), 104.0) == pytest.approx(4.2, abs=0.01)


def test_an_older_heartbeat_is_as_old_as_the_primary_says() -> None:
    clock = PrimaryClock()
    clock.observe(sample(10.0, sent=100.0, beat_id=7, beat_at=9.9))
    lag = clock.lag_seconds(Beat(5, at(7.0)), 100.5)
    assert 3.5 <= lag <= 3.51


def test_a_dead_writer_is_infinite_lag() -> None:
    clock = PrimaryClock()
    clock.observe(sample(10.0, sent=100.0, beat_id=7, beat_at=8.1))
    assert clock.lag_seconds(Beat(7, at(8.1)), 100.0) == pytest.approx(1.9)
    clock.observe(sample(10.2, sent=100.2, beat_id=7, beat_at=8.1))
    assert clock.lag_seconds(Beat(7, at(8.1)), 100.2) == math.inf


def test_a_clock_that_jumps_starts_the_estimate_anew() -> None:
    for jump in (-3600.0, 3600.0):
        clock = PrimaryClock()
        clock.observe(sample(10.0, sent=100.0))
        clock.observe(sample(11.0 + jump, sent=101.0))
        assert clock.primary_now(101.0) == at(11.0 + jump)


def test_a_clock_that_is_set_back_makes_no_copy_fresher() -> None:
    clock = PrimaryClock()
    clock.observe(sample(3600.0, sent=100.0, beat_id=7, beat_at=3599.9))
    clock.observe(sample(1.0, sent=101.0, beat_id=7, beat_at=3599.9))  # Nobody has beaten since.
    assert clock.lag_seconds(Beat(7, at(3599.9)), 101.0) == pytest.approx(1.1, abs=0.01)
    clock.observe(sample(1.2, sent=101.2, beat_id=8, beat_at=1.15))
    assert clock.lag_seconds(Beat(8, at(1.15)), 101.2) == pytest.approx(0.05, abs=0.01)
    for later in (101.2, 101.2 + 3600, 101.2 + 7200):
        # A stalled copy, when the clock shows again what its stamp says, and after that.
        clock.observe(sample(later - 100, sent=later, beat_id=9, beat_at=later - 100.1))
        lag = clock.lag_seconds(Beat(7, at(3599.9)), later)
        assert lag == pytest.approx(later - 99.9, rel=0.01)


def test_a_clock_that_was_set_back_twice_makes_no_copy_fresher_either() -> None:
    clock = PrimaryClock()
    clock.observe(sample(100.0, sent=100.0, beat_id=7, beat_at=99.9))
    clock.observe(sample(51.0, sent=101.0, beat_id=8, beat_at=50.9))
    clock.observe(sample(2.0, sent=102.0, beat_id=9, beat_at=1.9))
    assert clock.lag_seconds(Beat(7, at(99.9)), 102.0) >= 2.1 - 0.01
    assert clock.lag_seconds(Beat(8, at(50.9)), 102.0) >= 1.1 - 0.01


def test_a_beat_of_another_time_tells_nothing_to_who_has_not_seen_the_clock_being_set() -> None:
    clock = PrimaryClock()
    clock.observe(sample(10.0, sent=100.0, beat_id=7, beat_at=9.9))
    assert clock.lag_seconds(Beat(6, at(3600.0)), 100.0) == math.inf
    assert clock.lag_seconds(Beat(6, at(9.95)), 100.0) == math.inf
    assert clock.lag_seconds(Beat(8, at(3600.0)), 100.0) == math.inf


def test_a_clock_that_is_set_forward_is_followed_with_the_next_beat() -> None:
    clock = PrimaryClock()
    clock.observe(sample(10.0, sent=100.0, beat_id=7, beat_at=9.9))
    clock.observe(sample(3611.0, sent=101.0, beat_id=8, beat_at=3610.9))
    assert clock.lag_seconds(Beat(7, at(9.9)), 101.0) > 3600
    assert clock.lag_seconds(Beat(8, at(3610.9)), 101.0) == pytest.approx(0.1, abs=0.01)


delays = st.floats(0.0, 0.5)


@given(
    offset=st.floats(-1e5, 1e5),
    polls=st.lists(st.tuples(st.floats(0.05, 2.0), delays, delays), min_size=1, max_size=80),
    rest=st.floats(0.0, 5.0),
    drift=st.floats(-400e-6, 400e-6),
)
def test_the_estimate_is_never_earlier_than_the_primarys_clock(
    offset: float, polls: list[tuple[float, float, float]], rest: float, drift: float
) -> None:
    def primary(now: float) -> float:
        return offset + now * (1 + drift)

    clock, now = PrimaryClock(), 0.0
    for pause, there, back in polls:
        now += pause
        answered = PrimarySample(now, now + there + back, at(primary(now + there)), Beat(1, START))
        now += there + back
        clock.observe(answered)
    now += rest
    estimate = clock.primary_now(now)
    assert estimate is not None
    error = (estimate - at(primary(now))).total_seconds()
    best = min(there + back for _, there, back in polls[-1:])
    # At least the truth (but for rounding), and not far above the last poll's width.
    assert -1e-4 <= error <= best + rest * 2e-3 + 1e-3
