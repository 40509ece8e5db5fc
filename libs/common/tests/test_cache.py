"""TtlCache, SingleFlight and ReadThrough."""

import asyncio

import pytest

from atlas_common.cache import ReadThrough, SingleFlight, TtlCache
from atlas_common.testing import FakeClock


def test_a_value_lives_for_its_time() -> None:
    clock = FakeClock()
    cache: TtlCache[str, int] = TtlCache(10, ttl_seconds=5, clock=clock)
    cache.put("a", 1)
    cache.put("b", 2, ttl_seconds=1)
    clock.advance(1)
    assert (cache.get("a"), cache.get("b"), cache.peek("b")) == (1, None, 2)
    clock.advance(4)
    assert (cache.get("a"), cache.peek("a")) == (None, 1)


def test_the_least_recently_used_goes_first() -> None:
    cache: TtlCache[str, int] = TtlCache(2, ttl_seconds=5, clock=FakeClock())
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert len(cache) == 2


def test_a_value_is_forgotten_when_told() -> None:
    cache: TtlCache[str, int] = TtlCache(2, ttl_seconds=5)
    cache.put("a", 1)
    cache.drop("a")
    cache.drop("never was")
    assert cache.peek("a") is None
    cache.put("b", 1)
    cache.clear()
    assert len(cache) == 0


@pytest.mark.parametrize(("entries", "ttl"), [(0, 1), (1, 0)])
def test_a_cache_without_room_or_time_is_a_mistake(entries: int, ttl: float) -> None:
    with pytest.raises(ValueError, match="room and time"):
        TtlCache(entries, ttl)


class Source:
    def __init__(self) -> None:
        self.asked = 0
        self.release = asyncio.Event()
        self.cancelled = False

    async def answer(self) -> int:
        self.asked += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return self.asked


async def started(source: Source, *tasks: asyncio.Task[int]) -> None:
    while not source.asked:
        assert not any(task.done() for task in tasks)
        await asyncio.sleep(0)


async def test_callers_at_the_same_time_share_one_flight() -> None:
    source, flights = Source(), SingleFlight[str, int]()
    tasks = [asyncio.create_task(flights.run("k", source.answer)) for _ in range(5)]
    await started(source, *tasks)
    source.release.set()
    assert await asyncio.gather(*tasks) == [1] * 5
    assert await flights.run("k", source.answer) == 2  # A later caller gets a new answer.


async def test_keys_fly_apart() -> None:
    source, flights = Source(), SingleFlight[str, int]()
    source.release.set()
    assert await asyncio.gather(flights.run("a", source.answer), flights.run("b", source.answer))
    assert source.asked == 2


async def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    source, flights = Source(), SingleFlight[str, int]()
    first = asyncio.create_task(flights.run("k", source.answer))
    second = asyncio.create_task(flights.run("k", source.answer))
    await started(source, first, second)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.release.set()
    assert await second == 1


async def test_a_flight_that_nobody_awaits_any_more_is_cancelled() -> None:
    source, flights = Source(), SingleFlight[str, int]()
    task = asyncio.create_task(flights.run("k", source.answer))
    await started(source, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert source.cancelled


async def test_an_error_reaches_every_caller_and_is_not_remembered() -> None:
    flights = SingleFlight[str, int]()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise LookupError

    outcomes = await asyncio.gather(
        flights.run("k", fail), flights.run("k", fail), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [LookupError, LookupError]

    async def succeed() -> int:
        return 1

    assert await flights.run("k", succeed) == 1


def test_values_together_weigh_no_more_than_allowed() -> None:
    cache: TtlCache[str, str] = TtlCache(10, ttl_seconds=5, weigh=len, max_weight=5)
    cache.put("a", "xx")
    cache.put("b", "xx")
    cache.put("a", "xxx")  # Replaced: its old weight is gone.
    assert (cache.get("a"), cache.get("b")) == ("xxx", "xx")
    cache.put("c", "x")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, "xx", "x")
    cache.put("d", "x" * 100)  # Alone too heavy, and still of use.
    assert (len(cache), cache.get("d")) == (1, "x" * 100)
    cache.drop("d")
    cache.put("e", "xxxxx")
    cache.clear()
    cache.put("f", "xxxxx")
    assert len(cache) == 1


class Versions:
    """A source whose value rises; each read waits until it is let go."""

    def __init__(self) -> None:
        self.now = 1
        self.reads = 0
        self.read_begun = asyncio.Event()
        self.release = asyncio.Event()

    async def read(self, _key: str) -> int:
        self.reads += 1
        value = self.now
        self.read_begun.set()
        await self.release.wait()
        return value


async def test_what_is_dropped_while_it_is_read_is_read_again() -> None:
    source = Versions()
    cache = ReadThrough(source.read, TtlCache[str, int](10, 5))
    early = asyncio.ensure_future(cache.get("a"))
    await source.read_begun.wait()
    source.now = 2
    cache.drop("a")
    late = asyncio.ensure_future(cache.get("a"))
    source.release.set()
    assert (await early, await late, await cache.get("a")) == (2, 2, 2)
    assert source.reads == 2


async def test_what_changes_all_the_time_is_answered_and_not_kept() -> None:
    source = Versions()
    source.release.set()
    cache: ReadThrough[str, int]

    async def read(key: str) -> int:
        value = await source.read(key)
        cache.clear()
        return value

    cache = ReadThrough(read, TtlCache[str, int](10, 5))
    assert await cache.get("a") == 1
    assert cache.peek("a") is None
    reads = source.reads
    assert 1 < reads < 10
    await cache.get("a")
    assert source.reads == 2 * reads


async def test_a_value_put_while_an_older_one_is_read_wins() -> None:
    source = Versions()
    cache = ReadThrough(source.read, TtlCache[str, int](10, 5))
    reading = asyncio.ensure_future(cache.read("a"))
    await source.read_begun.wait()
    source.now = 2
    cache.put("a", 2)
    source.release.set()
    assert (await reading, await cache.get("a")) == (2, 2)


async def test_a_failed_read_is_nobodys_value() -> None:
    async def read(_key: str) -> int:
        raise LookupError

    cache = ReadThrough(read, TtlCache[str, int](10, 5))
    with pytest.raises(LookupError):
        await cache.get("a")
    cache.put("a", 1)
    assert await cache.get("a") == 1
