"""The two ways to offer load.

Open loop: calls are sent when they are due, whether or not earlier ones have been answered, and
their latency counts from when they were due. A stall of the server then hurts every call that fell
into it, as it hurts users; a driver that waits for each answer would measure one slow call instead
("coordinated omission"). Closed loop: so many callers, each sending again when answered: it finds
the highest throughput, and its latencies mean little.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence

from atlas_bench.tally import Outcome, Tally

Call = Callable[[int], Awaitable[Outcome]]
"""Makes the n-th call of a run. Raises nothing that belongs to the call itself."""

SPIN_SECONDS = 0.001
"""asyncio's timers are a millisecond coarse: the last one is spent polling."""


def poisson_arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return when calls are due, in seconds from the start: `rate` per second on average.

    Independent arrivals, as from many clients; the same for the same seed, so that two systems are
    offered the same load.
    """
    return list(_poisson(rate, seconds, random.Random(seed)))  # noqa: S311 - no secret.


def _poisson(rate: float, seconds: float, rng: random.Random) -> Iterator[float]:
    due = rng.expovariate(rate)
    while due < seconds:
        yield due
        due += rng.expovariate(rate)


async def run_open(
    arrivals: Sequence[float],
    call: Call,
    *,
    in_flight_max: int = 2_000,
    spin_seconds: float = SPIN_SECONDS,
) -> Tally:
    """Make a call at each arrival. Beyond in_flight_max they wait; their latency counts on."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(in_flight_max)
    began = loop.time()

    async def one(index: int, due: float) -> None:
        try:
            outcome = await call(index)
            tally.record(_answered(outcome, loop) - due, outcome)
        finally:
            gate.release()

    async with asyncio.TaskGroup() as group:
        for index, arrival in enumerate(arrivals):
            due = began + arrival
            await _wait_until(due, spin_seconds)
            await gate.acquire()
            tally.record_send_lag(loop.time() - due)
            group.create_task(one(index, due))
    tally.elapsed_seconds = loop.time() - began
    return tally


async def run_closed(
    callers: int, call: Call, *, seconds: float, calls_max: int | None = None
) -> Tally:
    """Let `callers` call one after another for so many seconds, or so many calls in all."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    began = loop.time()
    sent = 0

    async def caller() -> None:
        nonlocal sent
        while loop.time() - began < seconds and (calls_max is None or sent < calls_max):
            index, sent = sent, sent + 1
            due = loop.time()
            outcome = await call(index)
            tally.record(_answered(outcome, loop) - due, outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    tally.elapsed_seconds = loop.time() - began
    return tally


def _answered(outcome: Outcome, loop: asyncio.AbstractEventLoop) -> float:
    return loop.time() if outcome.answered_at is None else outcome.answered_at


async def _wait_until(due: float, spin_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    early = due - loop.time() - spin_seconds
    if early > 0:
        await asyncio.sleep(early)
    while loop.time() < due:  # noqa: ASYNC110 - for time there is no Event.
        await asyncio.sleep(0)
