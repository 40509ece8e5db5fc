"""Each key is read once, however many ask; whoever gives up harms nobody."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from atlas_common.testing import FakeClock
from atlas_hotcache.flights import Flights


class Source:
    """Answers key -> key * 10 once it is let go."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, ...]] = []
        self.go = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, keys: Sequence[int]) -> Mapping[int, int]:
        self.reads.append(tuple(keys))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {key: key * 10 for key in keys}


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


async def until(flights: Flights[int, int], key: int, waiters: int) -> None:
    await eventually(lambda: flights.waiter_count(key) == waiters)


async def test_only_what_is_not_under_way_is_read() -> None:
    flights, source = Flights[int, int](FakeClock()), Source()
    first = asyncio.create_task(flights.run([1, 2], source, join_seconds_max=1))
    await until(flights, 1, 1)
    second = asyncio.create_task(flights.run([2, 3], source, join_seconds_max=1))
    await until(flights, 3, 1)
    source.go.set()
    assert await first == {1: 10, 2: 20}
    assert await second == {2: 20, 3: 30}
    assert source.reads == [(1, 2), (3,)]
    assert len(flights) == 0


async def test_a_flight_older_than_the_question_allows_is_not_joined() -> None:
    clock = FakeClock()
    flights, source = Flights[int, int](clock), Source()
    tasks = [asyncio.create_task(flights.run([1], source, join_seconds_max=0))]
    await until(flights, 1, 1)
    tasks.append(asyncio.create_task(flights.run([1], source, join_seconds_max=0)))
    await asyncio.sleep(0)
    clock.advance(2)
    tasks.append(asyncio.create_task(flights.run([1], source, join_seconds_max=1)))
    await asyncio.sleep(0)
    source.go.set()
    assert await asyncio.gather(*tasks) == [{1: 10}] * 3
    assert len(source.reads) == 3


async def test_a_flight_lands_with_its_last_caller() -> None:
    flights, source = Flights[int, int](FakeClock()), Source()
    tasks = [asyncio.create_task(flights.run([1], source, join_seconds_max=1)) for _ in range(2)]
    await until(flights, 1, 2)
    tasks[0].cancel()
    await until(flights, 1, 1)
    assert source.cancelled == 0
    tasks[1].cancel()
    await asyncio.wait(tasks)
    await eventually(lambda: source.cancelled == 1)
    assert len(flights) == 0


async def test_a_failure_is_everybodys_and_is_not_kept() -> None:
    flights = Flights[int, int](FakeClock())

    async def fail(_: Sequence[int]) -> Mapping[int, int]:
        await asyncio.sleep(0)
        raise OSError

    tasks = [asyncio.create_task(flights.run([1], fail, join_seconds_max=1)) for _ in range(2)]
    assert [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == [
        OSError,
        OSError,
    ]
    source = Source()
    source.go.set()
    assert await flights.run([1], source, join_seconds_max=1) == {1: 10}


async def test_a_new_caller_does_not_join_a_flight_that_is_being_cancelled() -> None:
    flights, source = Flights[int, int](FakeClock()), Source()
    first = asyncio.create_task(flights.run([1], source, join_seconds_max=1))
    await until(flights, 1, 1)
    first.cancel()
    await asyncio.sleep(0)  # The flight has been told to end, and has not ended yet.
    source.go.set()
    assert await flights.run([1], source, join_seconds_max=1) == {1: 10}
    with pytest.raises(asyncio.CancelledError):
        await first
