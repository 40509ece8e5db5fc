"""Reads of several keys at once, each key read once however many ask for it at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(eq=False, slots=True)
class _Flight(Generic[K, V]):
    keys: Sequence[K]
    started: float
    task: "asyncio.Task[Mapping[K, V]]"
    waiters: int = 0


class Flights(Generic[K, V]):
    """Joins callers to reads under way. Bounded by its callers: no flight outlives its last one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._flights: dict[K, _Flight[K, V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def waiter_count(self, key: K) -> int:
        """How many callers wait for the key's flight."""
        flight = self._flights.get(key)
        return 0 if flight is None else flight.waiters

    async def run(
        self,
        keys: Sequence[K],
        make: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        join_seconds_max: float,
    ) -> dict[K, V]:
        """The values of all keys: from flights that began at most so long ago, the rest by `make`.

        0 joins none: what is read must not be older than the question. A cancelled caller leaves
        the others alone; a flight is cancelled with its last caller. Raises what `make` raises, to
        every caller of that flight.
        """
        oldest = self._clock() - join_seconds_max
        needed: set[_Flight[K, V]] = set()
        own: list[K] = []
        for key in keys:
            flight = self._flights.get(key)
            if flight is None or flight.started <= oldest or flight.task.done():
                own.append(key)
            else:
                needed.add(flight)
        if own:
            needed.add(self._start(own, make))
        return await self._outcome(needed, keys)

    def _start(
        self, keys: Sequence[K], make: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]
    ) -> "_Flight[K, V]":
        async def fly() -> Mapping[K, V]:
            return await make(keys)

        flight = _Flight[K, V](keys, self._clock(), asyncio.create_task(fly()))
        for key in keys:
            self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._land(flight))
        return flight

    def _land(self, flight: "_Flight[K, V]") -> None:
        self._unlist(flight)
        if not flight.task.cancelled():
            flight.task.exception()  # Seen: nobody may be left to await it.

    def _unlist(self, flight: "_Flight[K, V]") -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _outcome(self, needed: "set[_Flight[K, V]]", keys: Sequence[K]) -> dict[K, V]:
        for flight in needed:
            flight.waiters += 1
        values: dict[K, V] = {}
        try:
            for flight in needed:
                # Shielded: this caller's cancellation is not the others'.
                values.update(await asyncio.shield(flight.task))
        finally:
            for flight in needed:
                self._leave(flight)
        return {key: values[key] for key in keys}

    def _leave(self, flight: "_Flight[K, V]") -> None:
        flight.waiters -= 1
        if flight.waiters == 0 and not flight.task.done():
            # Off the list at once: whoever joined before it has ended would be cancelled with it.
            self._unlist(flight)
            flight.task.cancel()
