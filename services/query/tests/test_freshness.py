"""The tracker measures in the primary's time, and wakes who waits."""

import asyncio
import math
from datetime import UTC, datetime, timedelta

import pytest

from atlas.type.freshness import Position
from atlas_common.db import Beat, PrimaryClock, PrimarySample
from atlas_common.testing import FakeClock
from atlas_query.freshness import FreshnessTracker
from atlas_query.standings import Standing

T0 = datetime(2026, 3, 1, tzinfo=UTC)


class World:
    """A primary whose clock and heart are moved by hand, and a tracker that looks at it."""

    def __init__(self) -> None:
        self.monotonic = FakeClock()
        self.clock = PrimaryClock()
        self.tracker = FreshnessTracker(self.clock, self.monotonic)

    def primary_says(self, now: datetime, beat: Beat) -> None:
        at = self.monotonic()
        self.clock.observe(PrimarySample(at, at, now, beat))


def beat(number: int) -> Beat:
    return Beat(number, T0 + timedelta(seconds=0.2 * number))


def test_lag_is_the_age_of_the_newest_beat_seen_and_nothing_for_who_has_them_all() -> None:
    world = World()
    world.primary_says(beat(10).beaten_at, beat(10))
    world.tracker.seen("r1", beat(10), ())
    world.tracker.seen("r2", beat(5), ())
    assert world.tracker.lag_seconds("r1") == 0.0
    assert world.tracker.lag_seconds("r2") == pytest.approx(1.0, abs=0.01)


def test_without_the_primarys_clock_nothing_is_fresh() -> None:
    world = World()
    world.tracker.seen("r1", beat(10), ())
    assert math.isinf(world.tracker.lag_seconds("r1"))
    assert world.tracker.not_before(3.0) is None


def test_a_dead_heart_means_infinite_lag() -> None:
    world = World()
    world.primary_says(beat(10).beaten_at + timedelta(seconds=5), beat(10))
    world.tracker.seen("r1", beat(10), ())
    assert math.isinf(world.tracker.lag_seconds("r1"))
    assert world.tracker.not_before(3.0) is None


def test_the_guard_asks_for_a_beat_within_the_bound_but_not_for_one_that_never_was() -> None:
    world = World()
    world.primary_says(beat(10).beaten_at + timedelta(seconds=0.15), beat(10))
    assert world.tracker.not_before(1.0) == pytest.approx(
        beat(10).beaten_at - timedelta(seconds=0.85), abs=timedelta(milliseconds=1)
    )
    # The heart beats every 0.2 s: no copy has a beat of the last 0.05 s, and none is stale for it.
    assert world.tracker.not_before(0.05) == beat(10).beaten_at


async def test_a_waiting_read_is_woken_by_progress() -> None:
    world = World()
    world.tracker.seen("r1", beat(1), ())
    waiting = asyncio.ensure_future(world.tracker.wait_progress(60))
    await asyncio.sleep(0)
    assert world.tracker.is_awaited
    world.tracker.seen("r1", beat(1), ())  # Nothing new.
    await asyncio.sleep(0)
    assert not waiting.done()
    world.tracker.seen("r1", beat(2), ())
    async with asyncio.timeout(5):
        await waiting
    assert not world.tracker.is_awaited


async def test_a_wait_ends_in_time_when_nothing_moves() -> None:
    world = World()
    async with asyncio.timeout(5):
        await world.tracker.wait_progress(0.01)
    assert not world.tracker.is_awaited


async def test_pollers_hurry_while_a_read_waits() -> None:
    world = World()
    pause = asyncio.ensure_future(world.tracker.pause(60, 0.001))
    waiting = asyncio.ensure_future(world.tracker.wait_progress(60))
    async with asyncio.timeout(5):
        await pause
    waiting.cancel()


def test_a_lost_replica_counts_as_progress_and_is_no_longer_reachable() -> None:
    world = World()
    world.tracker.seen("r1", beat(1), ())
    before = world.tracker.sighting("r1").progress
    world.tracker.lost("r1")
    world.tracker.lost("r1")
    sighting = world.tracker.sighting("r1")
    assert (sighting.progress, sighting.is_reachable) == (before + 1, False)


def test_a_copy_that_catches_up_says_when_it_will_be_fresh_enough() -> None:
    world = World()
    wanted = Position(0, 1, 7)
    for step in range(20):
        # Five seconds behind at first; it replays two seconds a second.
        now = T0 + timedelta(seconds=10 + step * 0.2)
        world.primary_says(now, Beat(100 + step, now))
        world.tracker.stood(Standing(now, (), (wanted,)))
        replayed = T0 + timedelta(seconds=5 + step * 0.4)
        world.tracker.seen("r1", Beat(50 + step, replayed), ())
        world.tracker.seen("r2", Beat(50, T0 + timedelta(seconds=5)), ())
        world.monotonic.advance(0.2)
    # The position was there at 10 s, r1 holds everything before 12.6 s by now.
    assert world.tracker.fresh_in("r1", [wanted], None) == 0.0
    assert world.tracker.fresh_in("r1", [Position(0, 1, 8)], None) is None
    lag = world.tracker.lag_seconds("r1")
    assert world.tracker.fresh_in("r1", [], 0.4) == pytest.approx(lag - 0.4, abs=0.05)
    assert world.tracker.fresh_in("r2", [wanted], None) is None
    world.tracker.lost("r1")
    assert world.tracker.fresh_in("r1", [], 0.4) is None


def test_beats_of_a_lost_tail_are_behind_those_of_the_next_timeline() -> None:
    """However many were lost: their copy was once the newest there was."""
    world = World()
    lost, first = Beat((1 << 32) + 1_000, T0), Beat((2 << 32), T0 + timedelta(seconds=5))
    world.primary_says(first.beaten_at, first)
    assert world.tracker.lag_of(lost) == pytest.approx(5.0, abs=0.01)
    assert world.tracker.lag_of(first) == 0.0


def test_another_primary_begins_with_nothing_known() -> None:
    world = World()
    world.primary_says(beat(10).beaten_at, beat(10))
    world.tracker.stood(Standing(T0, (), (Position(0, 1, 5),)))
    world.tracker.seen("r1", beat(10), ())
    world.tracker.begin_anew()
    assert world.tracker.newest_beat is None
    assert math.isinf(world.tracker.lag_seconds("r1"))
    assert not world.tracker.sighting("primary").is_reachable
    assert not world.tracker.standings.is_known


def test_a_replica_that_left_and_came_back_is_further_than_it_was() -> None:
    """Reads that have tried it wait until it has moved."""
    world = World()
    world.tracker.seen("r1", beat(10), ())
    tried = world.tracker.sighting("r1").progress
    world.tracker.forget("r1")
    assert world.tracker.sighting("r1").beat.beat_id == 0
    world.tracker.seen("r1", beat(11), ())
    assert world.tracker.sighting("r1").progress > tried


async def test_who_waits_is_woken_when_a_replica_leaves() -> None:
    world = World()
    world.tracker.seen("r1", beat(10), ())
    async with asyncio.timeout(5):
        waiting = asyncio.create_task(world.tracker.wait_progress(60))
        await asyncio.sleep(0)
        world.tracker.forget("r1")
        await waiting
