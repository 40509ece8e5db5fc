"""Repeatable calls of every kind, of two tenants, that go on while something is done to it all.

The client repeats what may be repeated, within the call's deadline.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from atlas_client import (
    AggregateFunction,
    AtlasClient,
    Attribute,
    DataType,
    Endpoints,
    Point,
    analytics,
    at_least_as_fresh,
    strong,
)
from tests.integration.waiting import eventually

KINDS = ("write", "read_primary", "read_near", "read_warehouse")
CALL_SECONDS_MAX = 60.0
TRAFFIC_SECONDS_MAX = 60.0


@dataclass
class Load:
    """One tenant's calls: each read has to show what was written before it."""

    client: AtlasClient
    sign: int
    done: Counter[str] = field(default_factory=Counter)
    token: bytes = b""
    number: int = 0

    async def write(self) -> None:
        """The next number, as a point."""
        number = self.number + 1
        written = await self.client.write([Point("pump-1", "rpm", self.sign * number)])
        self.token, self.number = written.token, number

    async def read_primary(self) -> None:
        """At the primary."""
        least = self.number
        found = await self.client.get_entities(["pump-1"], consistency=strong())
        self._check(found["pump-1"].values["rpm"], least)

    async def read_near(self) -> None:
        """From the cache, a replica, or whoever is fresh enough."""
        least, token = self.number, self.token
        found = await self.client.get_entities(["pump-1"], consistency=at_least_as_fresh(token))
        self._check(found["pump-1"].values["rpm"], least)

    async def read_warehouse(self) -> None:
        """Where the copy is."""
        least = self.number
        consistency = analytics(
            token=self.token, wait_timeout=timedelta(seconds=CALL_SECONDS_MAX - 10)
        )
        counting = self.client.aggregate(
            ["rpm"], [AggregateFunction.COUNT], consistency=consistency
        )
        rows = [row.results[AggregateFunction.COUNT] async for row in counting]
        assert rows[0] >= least

    def _check(self, shown: object, least: int) -> None:
        assert isinstance(shown, int)
        assert self.sign * shown >= least


async def _repeated(load: Load, kind: str) -> None:
    while True:
        await getattr(load, kind)()
        load.done[kind] += 1


@asynccontextmanager
async def loaded(endpoints: Endpoints) -> AsyncIterator[list[Load]]:
    """Two tenants whose calls of every kind run until the block ends; raises what one raised."""
    run = secrets.token_hex(4)
    async with AtlasClient.connect(endpoints, timeout=CALL_SECONDS_MAX) as client:
        loads = []
        for name, sign in (("acme", 1), ("globex", -1)):
            await client.create_tenant(f"{name}-{run}")
            load = Load(client.for_tenant(f"{name}-{run}"), sign)
            await load.client.upsert_attributes([Attribute("rpm", DataType.INT, hot=True)])
            await load.write()
            loads.append(load)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_repeated(load, kind)) for load in loads for kind in KINDS]
            yield loads
            for task in running:
                task.cancel()


async def more(loads: list[Load]) -> None:
    """Wait until calls of every kind succeeded again, twice: the first may have begun before."""
    before = [Counter(load.done) for load in loads]

    def done() -> bool:
        pairs = zip(loads, before, strict=True)
        return all(load.done[kind] >= then[kind] + 2 for load, then in pairs for kind in KINDS)

    await eventually(done, TRAFFIC_SECONDS_MAX)
