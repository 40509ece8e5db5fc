"""The schedule of the driver, on a virtual clock."""

import asyncio

import pytest

from atlas_bench.loops import poisson_arrivals, run_closed, run_open
from atlas_bench.tally import Outcome, Tally

from .virtual_time import run_in_virtual_time

EVERY_100_MS = [0.1 * number for number in range(1, 51)]


class Server:
    """Answers in 10 ms; from 1 s to 3 s it hangs."""

    async def call(self, _index: int) -> Outcome:
        now = asyncio.get_running_loop().time()
        if 1.0 <= now < 3.0:
            await asyncio.sleep(3.0 - now)
        await asyncio.sleep(0.01)
        return Outcome(source="primary")


def open_loop(arrivals: list[float], *, in_flight_max: int = 100) -> Tally:
    return run_in_virtual_time(
        run_open(arrivals, Server().call, in_flight_max=in_flight_max, spin_seconds=0)
    )


def milliseconds(tally: Tally, percentile: float) -> float:
    return float(tally.latency.get_value_at_percentile(percentile)) / 1_000


def test_open_loop_charges_a_stall_to_every_call_that_fell_into_it() -> None:
    tally = open_loop(EVERY_100_MS)
    assert tally.ok == 50
    # Of 50 calls 20 were due while the server hung, and waited 2.0, 1.9 ... 0.1 s for it.
    assert milliseconds(tally, 100) == pytest.approx(2_010, rel=0.01)
    assert milliseconds(tally, 80) == pytest.approx(1_010, rel=0.15)
    assert milliseconds(tally, 50) == pytest.approx(10, rel=0.01)
    assert tally.elapsed_seconds == pytest.approx(5.01)


def test_a_driver_that_waits_for_answers_would_hide_it() -> None:
    """The same stall, seen by one closed-loop caller: one slow call."""
    tally = run_in_virtual_time(run_closed(1, Server().call, seconds=5.0))
    assert milliseconds(tally, 100) == pytest.approx(2_000, rel=0.02)
    assert milliseconds(tally, 99) == pytest.approx(10, rel=0.01)


def test_calls_that_wait_for_a_slot_of_the_driver_are_charged_too() -> None:
    wide, narrow = open_loop(EVERY_100_MS), open_loop(EVERY_100_MS, in_flight_max=2)
    assert narrow.ok == wide.ok == 50
    assert milliseconds(narrow, 100) == pytest.approx(milliseconds(wide, 100), rel=0.02)
    # What the slots cost shows as the driver's own lag.
    assert narrow.send_lag.get_max_value() > 1_500_000
    assert wide.send_lag.get_max_value() <= 1_000


def test_failed_calls_are_counted_and_have_no_latency() -> None:
    async def call(index: int) -> Outcome:
        return Outcome(error="UNAVAILABLE: away") if index % 5 == 0 else Outcome()

    tally = run_in_virtual_time(run_open(EVERY_100_MS, call, spin_seconds=0))
    assert (tally.ok, tally.errors.total()) == (40, 10)
    assert tally.latency.get_total_count() == 40
    assert tally.summary()["errors"] == {"UNAVAILABLE: away": 10}


def test_closed_loop_keeps_its_callers_busy_and_ends_on_time() -> None:
    async def call(_index: int) -> Outcome:
        await asyncio.sleep(0.1)
        return Outcome()

    tally = run_in_virtual_time(run_closed(4, call, seconds=2.0))
    assert tally.ok == 80
    assert tally.summary()["calls_per_second"] == pytest.approx(40, rel=0.01)


def test_closed_loop_makes_no_more_calls_than_asked() -> None:
    seen: list[int] = []

    async def call(index: int) -> Outcome:
        seen.append(index)
        await asyncio.sleep(0.1)
        return Outcome()

    tally = run_in_virtual_time(run_closed(4, call, seconds=100.0, calls_max=10))
    assert tally.ok == 10
    assert seen == list(range(10))


def test_arrivals_keep_the_rate_and_are_the_same_for_the_same_seed() -> None:
    arrivals = poisson_arrivals(rate=200, seconds=50, seed=3)
    assert arrivals == poisson_arrivals(rate=200, seconds=50, seed=3)
    assert arrivals != poisson_arrivals(rate=200, seconds=50, seed=4)
    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0
    assert arrivals[-1] < 50
    assert len(arrivals) == pytest.approx(10_000, rel=0.05)
