"""The breaker against a model, and its promises one by one."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from atlas_common.breaker import Breaker, BreakerOpenError, BreakerState, Permit

FAILURES_MAX = 3
OPEN_SECONDS = 2.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None) -> Breaker:
    return Breaker(failures_max=FAILURES_MAX, open_seconds=OPEN_SECONDS, clock=clock or Clock())


def permit_of(breaker: Breaker) -> Permit:
    permit = breaker.allow()
    assert permit is not None
    return permit


def state(breaker: Breaker) -> BreakerState:
    return breaker.state  # A call, so that mypy does not take the state for constant.


def trip(breaker: Breaker) -> None:
    for _ in range(FAILURES_MAX):
        breaker.failure(permit_of(breaker))


def test_opens_only_after_consecutive_failures() -> None:
    breaker = make()
    for _ in range(5):
        breaker.failure(permit_of(breaker))
        breaker.failure(permit_of(breaker))
        breaker.success(permit_of(breaker))
    assert state(breaker) is BreakerState.CLOSED
    trip(breaker)
    assert state(breaker) is BreakerState.OPEN
    assert breaker.allow() is None
    assert breaker.retry_after == OPEN_SECONDS


def test_a_cancelled_call_neither_counts_nor_breaks_the_row_of_failures() -> None:
    breaker = make()
    for _ in range(FAILURES_MAX - 1):
        breaker.failure(permit_of(breaker))
    for _ in range(100):
        breaker.cancelled(permit_of(breaker))
    assert state(breaker) is BreakerState.CLOSED
    breaker.failure(permit_of(breaker))
    assert state(breaker) is BreakerState.OPEN


def test_half_open_lets_one_probe_through_and_its_outcome_decides() -> None:
    clock = Clock()
    breaker = make(clock)
    trip(breaker)
    clock.now += OPEN_SECONDS
    assert state(breaker) is BreakerState.HALF_OPEN
    probe = permit_of(breaker)
    assert breaker.allow() is None
    breaker.failure(probe)
    assert state(breaker) is BreakerState.OPEN
    clock.now += OPEN_SECONDS
    breaker.success(permit_of(breaker))
    assert state(breaker) is BreakerState.CLOSED
    assert breaker.allow() is not None
    assert breaker.allow() is not None


def test_a_cancelled_probe_makes_room_for_the_next() -> None:
    clock = Clock()
    breaker = make(clock)
    trip(breaker)
    clock.now += OPEN_SECONDS
    breaker.cancelled(permit_of(breaker))
    assert state(breaker) is BreakerState.HALF_OPEN
    breaker.success(permit_of(breaker))
    assert state(breaker) is BreakerState.CLOSED


def test_outcomes_of_calls_from_before_a_change_of_state_are_ignored() -> None:
    clock = Clock()
    breaker = make(clock)
    late = [permit_of(breaker) for _ in range(2 * FAILURES_MAX)]
    trip(breaker)
    clock.now += OPEN_SECONDS
    breaker.success(late.pop())  # No probe: it must not close the breaker.
    assert state(breaker) is BreakerState.HALF_OPEN
    breaker.success(permit_of(breaker))
    for permit in late:
        breaker.failure(permit)  # They failed while it was open.
    assert state(breaker) is BreakerState.CLOSED


def test_an_outcome_counts_once() -> None:
    breaker = make()
    permit = permit_of(breaker)
    for _ in range(FAILURES_MAX):
        breaker.failure(permit)
    assert state(breaker) is BreakerState.CLOSED


def test_call_tells_failures_from_other_errors() -> None:
    breaker = make()
    for error in [KeyError] * 10 + [asyncio.CancelledError] * 10:
        with pytest.raises(error), breaker.call(OSError):
            raise error
    assert state(breaker) is BreakerState.CLOSED
    for _ in range(FAILURES_MAX):
        with pytest.raises(ConnectionResetError), breaker.call(OSError):
            raise ConnectionResetError
    with pytest.raises(BreakerOpenError), breaker.call(OSError):
        pytest.fail("the block ran")


class AgainstModel(RuleBasedStateMachine):
    """Random calls, outcomes and times against the rules written in the plainest way."""

    calls: Bundle[Permit] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = make(self.clock)
        self.failures_in_row = 0
        self.opened_at: float | None = None
        self.change_count = 0
        self.born: dict[int, int] = {}
        self.probe: Permit | None = None

    @rule(target=calls)
    def ask(self) -> Permit | MultipleResults[Permit]:
        permit = self.breaker.allow()
        if self.opened_at is None:
            assert permit is not None
        elif self.clock.now < self.opened_at + OPEN_SECONDS or self.probe is not None:
            assert permit is None
        else:
            assert permit is not None
            self.probe = permit
        if permit is None:
            return multiple()
        self.born[id(permit)] = self.change_count
        return permit

    @rule(permit=consumes(calls), outcome=st.sampled_from(["success", "failure", "cancelled"]))
    def report(self, permit: Permit, outcome: str) -> None:
        getattr(self.breaker, outcome)(permit)
        if self.born[id(permit)] != self.change_count:
            return
        is_probe = permit is self.probe
        if is_probe:
            self.probe = None
        if outcome == "success":
            self.failures_in_row = 0
            if is_probe:
                self.opened_at = None
                self.change_count += 1
        elif outcome == "failure":
            self.failures_in_row += 1
            if is_probe or self.failures_in_row >= FAILURES_MAX:
                self.opened_at = self.clock.now
                self.change_count += 1

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def state_is_the_models(self) -> None:
        if self.opened_at is None:
            expected = BreakerState.CLOSED
        elif self.clock.now < self.opened_at + OPEN_SECONDS:
            expected = BreakerState.OPEN
        else:
            expected = BreakerState.HALF_OPEN
        assert state(self.breaker) is expected


AgainstModel.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, derandomize=True
)
TestAgainstModel = AgainstModel.TestCase
