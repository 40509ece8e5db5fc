"""Clients of two tenants under load, through every door, all ack levels mixed."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from .doors import ArrowWriter, NewBatch, StreamWriter
from .ledger import Level, SentBatch
from .load import DRAIN_SECONDS_MAX, LEVELS, Door

_BAD_EVERY = 17


class Load:
    """Writers that send their next batch after the answer, streams that keep a window full."""

    def __init__(
        self,
        door: Door,
        tenants: Sequence[str],
        *,
        writers: int = 4,
        points: int = 10,
        levels: Sequence[Level] = LEVELS,
        streams: bool = True,
        name: str = "",
    ) -> None:
        """`name` tells its keys from those of another load on the same platform."""
        self.door = door
        self.ledger = door.ledger
        self._tenants = tenants
        self._writers = writers
        self._points = points
        self._levels = levels
        self._streams = streams
        self._name = name
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Write until stop(); then until every outcome is known."""
        async with asyncio.TaskGroup() as tasks:
            for tenant in self._tenants:
                for number in range(self._writers):
                    new = self._batches(tenant, f"{self._name}writer-{number}")
                    tasks.create_task(self._write(new))
                for level in self._levels if self._streams else ():
                    name = f"{self._name}producer-{level.name}"
                    new = self._batches(tenant, name, [level])
                    writer = StreamWriter(self.door, tenant, name, level, new)
                    tasks.create_task(writer.run())
                arrow = ArrowWriter(self.door, tenant)
                tasks.create_task(arrow.run(self._batches(tenant, f"{self._name}arrow")))

    def stop(self) -> None:
        """Begin no further batch."""
        self._stopping.set()

    async def _write(self, new: NewBatch) -> None:
        while (batch := new()) is not None:
            await self.door.deliver(batch)

    def _batches(self, tenant: str, name: str, levels: Sequence[Level] = ()) -> NewBatch:
        """One after another, until stop(). Both tenants use the same keys."""
        numbers = itertools.count(1)
        levels = levels or self._levels

        def new() -> SentBatch | None:
            if self._stopping.is_set():
                return None
            number = next(numbers)
            return self.ledger.new_batch(
                tenant,
                f"{name}-{number}",
                levels[number % len(levels)],
                self._points,
                is_bad=number % _BAD_EVERY == 0,
            )

        return new


@asynccontextmanager
async def under_load(load: Load) -> AsyncIterator[Load]:
    """The load runs during the block; after it every outcome is known, or TimeoutError."""
    # One group: a load that fails ends the block, a block that fails ends the load.
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(load.run())
        yield load
        load.stop()
        async with asyncio.timeout(DRAIN_SECONDS_MAX):
            await asyncio.shield(task)
