"""One run of the demo, from an empty catalog to the proof."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

from rich.console import Console

from atlas_client import AtlasClient, AtlasError, Endpoints
from atlas_devstack.demo.feed import Feed
from atlas_devstack.demo.host import HOST_ATTRIBUTES
from atlas_devstack.demo.isolation import ISOLATION_ATTRIBUTES, Isolation
from atlas_devstack.demo.probe import PROBE_ATTRIBUTES, Prober
from atlas_devstack.demo.proof import patiently, prove, reconcile_all
from atlas_devstack.demo.summary import Outcome
from atlas_devstack.demo.tally import TIERS, Tally
from atlas_devstack.demo.view import View
from atlas_devstack.demo.watch import Watch
from atlas_devstack.demo.writer import Writer

_CALL_SECONDS = 30.0


async def run_demo(
    endpoints: Endpoints, tenants: tuple[str, ...], seconds: float, console: Console
) -> Outcome:
    """Feed the platform for so long, then wait for every tier and compare.

    Raises AtlasError when the platform is not there at the beginning, or does not come back.
    """
    async with AsyncExitStack() as stack:
        connecting = AtlasClient.connect(endpoints, timeout=_CALL_SECONDS)
        anyone = await stack.enter_async_context(connecting)
        clients = {tenant: anyone.for_tenant(tenant) for tenant in tenants}
        return await _Run(anyone, clients, seconds, console).run()


class _Run:
    def __init__(
        self,
        anyone: AtlasClient,
        clients: Mapping[str, AtlasClient],
        seconds: float,
        console: Console,
    ) -> None:
        self._anyone = anyone
        self._clients = clients
        self._seconds = seconds
        self._console = console
        self._tally = Tally()
        self._writers = {
            tenant: Writer(client, tenant, self._tally) for tenant, client in clients.items()
        }
        self._isolation = Isolation(clients, secrets.token_hex(4), self._tally)
        self._watch = Watch(clients)

    async def run(self) -> Outcome:
        await self._prepare()
        before = await reconcile_all(self._clients)
        # Their writes count, too: everything that this run acknowledges is compared.
        await self._isolation.plant(self._writers)
        shown = asyncio.Event()
        view = View(self._console, self._tally, self._watch.figures, self._seconds)
        beside = asyncio.gather(view.run(shown), self._watch.run(shown))
        try:
            began = time.monotonic()
            await self._feed()
            fed_seconds = time.monotonic() - began
            view.step = "checking isolation"
            await self._check_isolation()
            view.step = "comparing the copies"
            after = await reconcile_all(self._clients)
        finally:
            shown.set()
            await beside
        proofs = prove(self._tally.acknowledged, before, after)
        return Outcome(
            fed_seconds, self._tally, self._isolation.counts, proofs, self._watch.figures
        )

    async def _prepare(self) -> None:
        attributes = (*HOST_ATTRIBUTES, *PROBE_ATTRIBUTES, *ISOLATION_ATTRIBUTES)
        for tenant, client in self._clients.items():
            await self._anyone.create_tenant(tenant)
            await client.upsert_attributes(attributes)

    async def _feed(self) -> None:
        """Feed and probe for the time; return when everything is acknowledged or given up."""
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Feed(self._writers, self._tally).run(stopping))
            for tenant, client in self._clients.items():
                for tier in TIERS:
                    prober = Prober(tier, client, self._writers[tenant], self._tally)
                    tasks.create_task(prober.run(stopping))
            await asyncio.sleep(self._seconds)
            stopping.set()

    async def _check_isolation(self) -> None:
        try:
            await patiently(self._isolation.check)
        except AtlasError as error:
            self._tally.problem(f"isolation could not be checked: {error}")
