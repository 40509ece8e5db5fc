"""Joins what concurrent calls ask of the catalog into one question at a time per tenant."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from atlas_common.tenant import Tenant

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class MergedCalls(Generic[K, V]):
    """Asks for items by the set: for a tenant one question is under way, and the next gathers.

    While a question is out, whatever other calls need waits together and goes out as the next one,
    of at most `items_max` items; who needs what is being asked for already shares that answer. So
    a thousand calls with new keys are a few statements, and two of this process never meet in the
    same index pages. The number of items that wait is bounded by the calls that brought them.
    """

    def __init__(
        self,
        ask: Callable[[Tenant, list[K]], Awaitable[Mapping[K, V]]],
        *,
        items_max: int,
        at_once: asyncio.Semaphore,
    ) -> None:
        """`ask` must answer every item; `at_once` bounds the questions of all tenants."""
        self._ask = ask
        self._items_max = items_max
        self._at_once = at_once
        self._rounds: dict[int, deque[_Round[K, V]]] = {}
        self._workers: dict[int, asyncio.Task[None]] = {}

    async def get(self, tenant: Tenant, items: Iterable[K]) -> dict[K, V]:
        """Item -> value of all items. Raises what `ask` raises.

        A cancelled caller leaves its question to the others who share it.
        """
        found: dict[K, V] = {}
        wanted = set(items)
        if not wanted:
            return found
        # Joined all at once, then awaited: the rounds run whether or not somebody looks.
        for joined, shared in [*self._join(tenant, wanted)]:
            answer = await asyncio.shield(joined.answer)
            found.update({item: answer[item] for item in shared})
        return found

    def _join(self, tenant: Tenant, items: set[K]) -> Iterable[tuple["_Round[K, V]", set[K]]]:
        rounds = self._rounds.setdefault(tenant.id, deque())
        for earlier in rounds:
            shared = items & earlier.items
            if shared:
                items -= shared
                yield earlier, shared
        rest = list(items)
        while rest:
            if not rounds or rounds[-1].is_asked or len(rounds[-1].items) >= self._items_max:
                rounds.append(_Round())
            room = self._items_max - len(rounds[-1].items)
            added, rest = set(rest[:room]), rest[room:]
            rounds[-1].items |= added
            yield rounds[-1], added
        if tenant.id not in self._workers:
            self._workers[tenant.id] = asyncio.create_task(self._work(tenant, rounds))

    async def _work(self, tenant: Tenant, rounds: "deque[_Round[K, V]]") -> None:
        try:
            while rounds:
                async with self._at_once:
                    await self._run(tenant, rounds[0])
                rounds.popleft()
        finally:
            for left in rounds:  # Cancelled: the process ends.
                left.answer.cancel()
            del self._workers[tenant.id], self._rounds[tenant.id]

    async def _run(self, tenant: Tenant, asked: "_Round[K, V]") -> None:
        asked.is_asked = True
        try:
            asked.answer.set_result(await self._ask(tenant, list(asked.items)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it.
            asked.answer.set_exception(error)
            asked.answer.exception()  # Seen: perhaps all of them were cancelled.


class _Round(Generic[K, V]):
    """One question: what it asks for, and its answer, which several callers await."""

    def __init__(self) -> None:
        self.items: set[K] = set()
        self.is_asked = False
        self.answer: asyncio.Future[Mapping[K, V]] = asyncio.get_running_loop().create_future()
