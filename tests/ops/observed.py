"""A platform whose metrics go where tests look at them, and work for two tenants."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from atlas_client import (
    AtlasClient,
    AtlasError,
    Attribute,
    DataType,
    Endpoints,
    Point,
    eventual,
    strong,
)
from atlas_devstack.platform import SERVICES
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

from .scrape import Scrape, scraping

_PAUSE_SECONDS = 0.3
"""Between rounds of work: as often as there is something new to be seen."""


@dataclass(frozen=True)
class Observed:
    """The platform, and what it exports."""

    stack: Stack
    scrape: Scrape
    tenants: tuple[str, ...]

    def work_until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Write and read until it holds; False: not in time."""
        return asyncio.run(self._work_until(condition, timeout_seconds))

    async def _work_until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        async with AtlasClient.connect(self._endpoints) as client:
            while not await asyncio.to_thread(condition):
                if time.monotonic() > deadline:
                    return False
                for tenant in self.tenants:
                    await _work(client.for_tenant(tenant))
                with suppress(AtlasError):  # Failures are counted, too.
                    await client.for_tenant("nobody").get_entities(["pump-1"])
                await asyncio.sleep(_PAUSE_SECONDS)
        return True

    async def make_tenants(self) -> None:
        """And what they measure."""
        async with AtlasClient.connect(self._endpoints) as client:
            for tenant in self.tenants:
                await client.create_tenant(tenant)
                await client.for_tenant(tenant).upsert_attributes(
                    [Attribute("pressure", DataType.DOUBLE, hot=True)]
                )

    @property
    def _endpoints(self) -> Endpoints:
        return Endpoints.from_json(self.stack.endpoints.to_json())


async def _work(atlas: AtlasClient) -> None:
    await atlas.write([Point("pump-1", "pressure", 4.2)])
    for consistency in (strong(), eventual(timedelta(seconds=60))):
        await atlas.get_entities(["pump-1"], consistency=consistency)


@contextmanager
def observed(state: Path, servers: ServerOptions) -> Iterator[Observed]:
    """Start it; nothing was asked of it yet."""
    with scraping() as scrape:
        environment = {
            name: {
                "ATLAS_TELEMETRY__OTLP_ENDPOINT": scrape.endpoint,
                "ATLAS_TELEMETRY__METRICS_INTERVAL_SECONDS": "0.5",
            }
            for name in SERVICES
        }
        environment["cdc-reconciler"] |= {"ATLAS_RECONCILE__INTERVAL_SECONDS": "0.5"}
        options = StackOptions(servers=servers, environment=environment)
        with Stack.start(state, options) as stack:
            tenants = tuple(f"observed-{secrets.token_hex(4)}" for _ in range(2))
            found = Observed(stack, scrape, tenants)
            asyncio.run(found.make_tenants())
            yield found
