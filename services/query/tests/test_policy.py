"""The policy sends a read where its consistency says, and gives the reason."""

import math

from atlas_common.testing import FakeClock
from atlas_query.consistency import (
    AtLeastAsFresh,
    Consistency,
    Eventual,
    OnUnmet,
    Requirement,
    Strong,
)
from atlas_query.policy import (
    PRIMARY,
    Miss,
    Read,
    Refusal,
    Refuse,
    ReplicaState,
    Route,
    Wait,
)

TOKEN = AtLeastAsFresh((), b"token")


def replica(
    name: str, lag: float, *, is_available: bool = True, progress: int = 0, running: int = 0
) -> ReplicaState:
    return ReplicaState(name, lag, is_available, progress, running)


def route(
    requirement: Requirement,
    clock: FakeClock,
    on_unmet: OnUnmet = OnUnmet.PRIMARY,
    wait_seconds: float = 2.0,
) -> Route:
    return Route(Consistency(requirement, on_unmet), clock(), wait_seconds)


def test_strong_reads_the_primary_without_admission_and_nothing_else() -> None:
    clock = FakeClock()
    way = route(Strong(), clock)
    step = way.next([replica("r1", 0.0)], clock())
    assert step == Read(PRIMARY, "STRONG reads the primary", is_admitted=True)
    way.missed(step, Miss.AWAY)
    assert way.next([replica("r1", 0.0)], clock()) == Refuse(
        Refusal.LAST_MISS, "the primary is away"
    )


def test_eventual_reads_the_least_lagged_replica_under_the_bound() -> None:
    clock = FakeClock()
    states = [replica("r1", 2.9), replica("r2", 1.1), replica("r3", 3.1)]
    step = route(Eventual(3.0), clock).next(states, clock())
    assert step == Read("r2", "least lagged of 2 replicas under 3.0 s")


def test_of_replicas_equally_fresh_the_less_busy_is_read() -> None:
    clock = FakeClock()
    states = [replica("r1", 0.0, running=3), replica("r2", 0.3, running=1)]
    step = route(Eventual(3.0), clock).next(states, clock())
    assert isinstance(step, Read)
    assert step.endpoint == "r2"


def test_an_unavailable_replica_and_one_of_unknown_lag_are_passed_over() -> None:
    clock = FakeClock()
    states = [replica("r1", 0.0, is_available=False), replica("r2", math.inf)]
    step = route(Eventual(3.0), clock).next(states, clock())
    assert step == Read(
        PRIMARY,
        "no replica is under 3.0 s (r1 is away, r2 lag unknown): the primary",
        is_admitted=False,
    )


def test_a_replica_that_turns_out_behind_makes_way_for_the_next() -> None:
    clock = FakeClock()
    states = [replica("r1", 0.1), replica("r2", 1.0)]
    way = route(Eventual(3.0), clock)
    first = way.next(states, clock())
    assert isinstance(first, Read)
    way.missed(first, Miss.BEHIND)
    assert way.next(states, clock()) == Read(
        "r2", "least lagged of 2 replicas under 3.0 s; r1 was behind"
    )


def test_a_token_is_asked_of_every_available_replica_whatever_its_lag() -> None:
    clock = FakeClock()
    states = [replica("r1", math.inf), replica("r2", 90.0)]
    way = route(TOKEN, clock)
    for name in ("r2", "r1", PRIMARY):
        step = way.next(states, clock())
        assert isinstance(step, Read)
        assert step.endpoint == name
        way.missed(step, Miss.BEHIND)
    assert isinstance(way.next(states, clock()), Refuse)


def test_fail_refuses_at_once() -> None:
    clock = FakeClock()
    step = route(Eventual(1.0), clock, OnUnmet.FAIL).next([replica("r1", 5.0)], clock())
    assert step == Refuse(Refusal.UNMET, "no replica is under 1.0 s (r1 lag 5.0 s)")


def test_without_replicas_the_reason_says_so() -> None:
    clock = FakeClock()
    step = route(Eventual(), clock).next([], clock())
    assert isinstance(step, Read)
    assert step.reason == "there are no replicas: the primary"


def test_wait_asks_again_only_what_has_moved_and_ends_in_time() -> None:
    clock = FakeClock()
    way = route(TOKEN, clock, OnUnmet.WAIT, wait_seconds=2.0)
    step = way.next([replica("r1", 0.0, progress=4)], clock())
    assert isinstance(step, Read)
    way.missed(step, Miss.BEHIND)
    assert way.next([replica("r1", 0.0, progress=4)], clock()) == Wait(2.0)
    clock.advance(0.5)
    assert way.next([replica("r1", 0.0, progress=4)], clock()) == Wait(1.5)
    moved = way.next([replica("r1", 0.0, progress=5)], clock())
    assert isinstance(moved, Read)
    assert moved.reason.endswith("waited 0.50 s")
    way.missed(moved, Miss.BEHIND)
    clock.advance(1.5)
    refused = way.next([replica("r1", 0.0, progress=5)], clock())
    assert refused == Refuse(
        Refusal.UNMET, "no replica holds the token's positions (r1 was behind)"
    )


def test_who_does_not_wait_goes_on_from_busy_replicas_however_often_they_move() -> None:
    clock = FakeClock()
    way = route(Eventual(3.0), clock)
    for progress, name in enumerate(("r1", "r2", PRIMARY)):
        states = [replica("r1", 0.1, progress=progress), replica("r2", 0.2, progress=progress)]
        step = way.next(states, clock())
        assert isinstance(step, Read)
        assert step.endpoint == name
        way.missed(step, Miss.BUSY)


def test_a_replica_in_conflict_makes_way_for_the_next_although_it_has_moved() -> None:
    clock = FakeClock()
    way = route(Eventual(3.0), clock)
    first = way.next([replica("r1", 0.1, progress=1), replica("r2", 1.0, progress=1)], clock())
    assert isinstance(first, Read)
    way.missed(first, Miss.CONFLICT)
    moved = [replica("r1", 0.1, progress=2), replica("r2", 1.0, progress=2)]
    second = way.next(moved, clock())
    assert isinstance(second, Read)
    assert second.endpoint == "r2"
    assert second.reason.endswith("r1 was in conflict with recovery")


def test_who_waits_for_a_busy_replica_goes_on_no_longer_than_he_wanted_to() -> None:
    clock = FakeClock()
    way = route(Eventual(3.0), clock, OnUnmet.WAIT, wait_seconds=2.0)
    step = way.next([replica("r1", 0.1, progress=1)], clock())
    assert isinstance(step, Read)
    way.missed(step, Miss.BUSY)
    clock.advance(2.0)
    assert isinstance(way.next([replica("r1", 0.1, progress=2)], clock()), Refuse)


def test_waiting_never_ends_on_the_primary() -> None:
    clock = FakeClock()
    way = route(Eventual(1.0), clock, OnUnmet.WAIT, wait_seconds=0.0)
    assert isinstance(way.next([replica("r1", 9.0)], clock()), Refuse)
