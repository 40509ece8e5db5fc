"""Bounded memory of answers, and one flight per question."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_READS_MAX = 3  # Of one key in a row, while it changes under the reader.


class TtlCache(Generic[K, V]):
    """At most `max_entries` values, each for `ttl_seconds`; the least recently used goes first.

    With `weigh`, values together weigh at most `max_weight` too; a heavier one is kept alone.
    """

    def __init__(
        self,
        max_entries: int,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        weigh: Callable[[V], int] | None = None,
        max_weight: int = 0,
    ) -> None:
        if max_entries < 1 or ttl_seconds <= 0:
            raise ValueError("a cache needs room and time: max_entries >= 1, ttl_seconds > 0")
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._max_entries = max_entries
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._weigh = weigh or _nothing
        self._max_weight = max_weight
        self._weights: dict[K, int] = {}
        self._weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value if it is present and its time has not passed."""
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._clock():
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def peek(self, key: K) -> V | None:
        """The value even if its time has passed: better than nothing while the source is away."""
        entry = self._entries.get(key)
        return None if entry is None else entry[1]

    def put(self, key: K, value: V, ttl_seconds: float | None = None) -> None:
        """Keep the value, for the cache's time or its own."""
        ttl = self._ttl_seconds if ttl_seconds is None else ttl_seconds
        self.drop(key)
        self._entries[key] = (self._clock() + ttl, value)
        weight = self._weigh(value)
        if weight:
            self._weights[key] = weight
            self._weight += weight
        while len(self._entries) > self._max_entries or (
            self._weight > self._max_weight and len(self._entries) > 1
        ):
            self.drop(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        """Forget the key, if it is known."""
        if self._entries.pop(key, None) is not None:
            self._weight -= self._weights.pop(key, 0)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._weights.clear()
        self._weight = 0


class SingleFlight(Generic[K, V]):
    """Runs the maker of a key once, however many ask at the same time; all get its outcome."""

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Task[V]] = {}
        self._waiters: dict[K, int] = {}

    async def run(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """The outcome of the key's running flight, or of a new one made by `make`.

        A cancelled caller leaves the others alone; the flight is cancelled with its last caller.
        Raises what `make` raises, to every caller.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(_awaited(make))
            self._flights[key] = flight
            # Gone at completion, not when the first caller wakes: a later caller must not get an
            # outcome that was already old when it asked.
            flight.add_done_callback(lambda done: self._landed(key, done))
        self._waiters[key] = self._waiters.get(key, 0) + 1
        try:
            return await asyncio.shield(flight)
        finally:
            self._leave(key, flight)

    def _leave(self, key: K, flight: "asyncio.Task[V]") -> None:
        if self._flights.get(key) is not flight:
            return
        self._waiters[key] -= 1
        if self._waiters[key] == 0:
            self._landed(key, flight)
            flight.cancel()

    def _landed(self, key: K, flight: "asyncio.Task[V]") -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
            del self._waiters[key]
        if flight.done() and not flight.cancelled():
            flight.exception()  # Seen: nobody may be left to await it.


async def _awaited(make: Callable[[], Awaitable[V]]) -> V:
    return await make()


class ReadThrough(Generic[K, V]):
    """Remembers what `read` answers, and reads each key once however many ask.

    An answer that may be older than the key's last `drop` is never kept and never given to who
    asked after it: what is dropped while it is being read is read again.
    """

    def __init__(self, read: Callable[[K], Awaitable[V]], kept: TtlCache[K, V]) -> None:
        self._read = read
        self._kept = kept
        self._flights: SingleFlight[K, V] = SingleFlight()
        self._reading: set[K] = set()
        self._outdated: set[K] = set()

    async def get(self, key: K) -> V:
        """The value. Raises what `read` raises."""
        value = self._kept.get(key)
        return await self.read(key) if value is None else value

    async def read(self, key: K) -> V:
        """The value as it is now, remembered or not. Raises what `read` raises."""
        return await self._flights.run(key, lambda: self._fly(key))

    def peek(self, key: K) -> V | None:
        """What is remembered, even if its time has passed."""
        return self._kept.peek(key)

    def put(self, key: K, value: V) -> None:
        """Remember a value that the caller knows to be newer than any that was read."""
        self.drop(key)
        self._kept.put(key, value)

    def drop(self, key: K) -> None:
        """Forget the key: it was changed."""
        self._kept.drop(key)
        if key in self._reading:
            self._outdated.add(key)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._outdated |= self._reading

    async def _fly(self, key: K) -> V:
        self._reading.add(key)
        try:
            for _ in range(_READS_MAX):
                self._outdated.discard(key)
                value = await self._read(key)
                if key not in self._outdated:
                    self._kept.put(key, value)
                    break
            return value  # If it never stands still, then the last one, not kept.
        finally:
            self._reading.discard(key)
            self._outdated.discard(key)


def _nothing(_value: object) -> int:
    return 0
