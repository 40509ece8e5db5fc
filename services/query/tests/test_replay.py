"""A copy's speed is measured, and says when it will be where it is wanted."""

from datetime import UTC, datetime, timedelta

import pytest

from atlas_query.replay import ReplaySpeed

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def replaying(speed: float, seconds: float = 5.0) -> ReplaySpeed:
    replay = ReplaySpeed()
    for step in range(int(seconds / 0.2) + 1):
        replay.observe(step * 0.2, at(step * 0.2 * speed))
    return replay


def test_nothing_is_told_before_two_looks() -> None:
    replay = ReplaySpeed()
    assert replay.speed() is None
    replay.observe(0.0, at(0))
    assert replay.until(at(0), at(1)) is None
    assert replay.until(at(2), at(1)) == 0.0


def test_a_copy_that_catches_up_at_three_times_the_speed_needs_a_third_of_the_time() -> None:
    replay = replaying(3.0)
    assert replay.speed() == pytest.approx(3.0)
    assert replay.until(at(0), at(6)) == pytest.approx(2.0)
    # The lag shrinks by two seconds a second: what is wanted moves on.
    assert replay.until_within(7.0, 3.0) == pytest.approx(2.0)
    assert replay.until_within(2.0, 3.0) == 0.0


def test_of_a_copy_that_stands_still_or_only_keeps_up_nothing_can_be_hoped() -> None:
    assert replaying(0.0).until(at(0), at(1)) is None
    assert replaying(1.0).until_within(7.0, 3.0) is None
    assert replaying(3.0).until_within(float("inf"), 3.0) is None


def test_only_the_last_seconds_count() -> None:
    replay = ReplaySpeed()
    for step in range(100):
        replay.observe(step * 0.2, at(0))
    for step in range(100, 140):
        replay.observe(step * 0.2, at((step - 100) * 0.4))
    assert replay.speed() == pytest.approx(2.0, rel=0.1)


def test_an_outage_is_no_speed() -> None:
    replay = replaying(1.0)
    replay.forget()
    assert replay.speed() is None
