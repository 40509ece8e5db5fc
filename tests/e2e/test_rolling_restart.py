"""Each service is replaced under load, by SIGTERM and a new process: no repeatable call fails.

There is one process of each, so for a while there is none: harder on callers than a deployment. The
client repeats what may be repeated, within the call's deadline.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from atlas_client import (
    AggregateFunction,
    AtlasClient,
    AtlasError,
    Attribute,
    DataType,
    Endpoints,
    Point,
    analytics,
    at_least_as_fresh,
    strong,
)
from atlas_devstack.stack import Stack
from tests.integration.waiting import eventually

SERVICES = ("ingest", "hotcache", "query", "cdc-reconciler")
KINDS = ("write", "read_primary", "read_near", "read_warehouse")
CALL_SECONDS_MAX = 60.0
TRAFFIC_SECONDS_MAX = 60.0

pytestmark = pytest.mark.timeout(240)


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
async def loaded(stack: Stack) -> AsyncIterator[list[Load]]:
    """Two tenants whose calls of every kind run until the block ends; raises what one raised."""
    run = secrets.token_hex(4)
    endpoints = Endpoints.from_json(stack.endpoints.to_json())
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


@pytest.mark.parametrize("service", SERVICES)
async def test_no_repeatable_call_fails_while_a_service_is_replaced(
    stack: Stack, service: str
) -> None:
    async with loaded(stack) as loads:
        await more(loads)
        before = stack.services[service].pid
        await asyncio.to_thread(stack.services[service].restart)
        assert stack.services[service].pid != before
        await more(loads)


async def test_a_call_that_fails_is_not_overlooked(stack: Stack) -> None:
    """The load itself: what one call raises ends the test."""

    async def one_goes_astray() -> None:
        async with loaded(stack) as loads:
            loads[1].client = loads[1].client.for_tenant("nobody-there")
            await more(loads)

    with pytest.raises(ExceptionGroup) as caught:
        await one_goes_astray()
    assert all(
        isinstance(error, AtlasError) and error.reason == "TENANT_UNKNOWN"
        for error in caught.value.exceptions
    )
