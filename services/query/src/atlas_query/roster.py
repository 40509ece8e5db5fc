"""Takes servers in and lets them go: pools are opened, polled, drained and closed."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass

from atlas_common.config import DatabaseConfig, ReplicaConfig
from atlas_common.errors import FatalError
from atlas_common.telemetry import logger
from atlas_query import metrics
from atlas_query.config import DiscoveryConfig
from atlas_query.discovery import Discovery, DiscoveryError
from atlas_query.endpoint import Endpoint
from atlas_query.policy import PRIMARY
from atlas_query.polling import Pollers

log = logger(__name__)
_DRAIN_LOOK_SECONDS = 0.05
OpenEndpoint = Callable[[DatabaseConfig, str], AbstractAsyncContextManager[Endpoint]]


@dataclass(frozen=True, slots=True)
class _Member:
    config: DatabaseConfig
    endpoint: Endpoint
    stack: AsyncExitStack
    """Closes its pool."""


class Roster:
    """The servers of this process.

    `open_endpoint`: a pool and a breaker for a server, under a name. `discovery`: which replicas
    there are; None: always those of the beginning.
    """

    def __init__(
        self, open_endpoint: OpenEndpoint, discovery: Discovery | None, config: DiscoveryConfig
    ) -> None:
        self._open_endpoint = open_endpoint
        self._discovery = discovery
        self._config = config
        self._members: dict[str, _Member] = {}
        self._polling: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._problem = ""

    @asynccontextmanager
    async def opened(
        self, primary: DatabaseConfig, replicas: Sequence[ReplicaConfig]
    ) -> AsyncIterator[list[Endpoint]]:
        """The servers of the beginning, the primary first; all pools are closed with the block.

        Raises FatalError if discovery does not work: what begins with a mistake is not begun.
        """
        if self._discovery is not None:
            found = await _looked(self._discovery)
            if isinstance(found, str):
                raise FatalError(f"the replicas cannot be discovered: {found}")
            replicas = found
        try:
            endpoints = [await self._open(PRIMARY, primary)]
            endpoints += [await self._open(replica.name, replica) for replica in replicas]
            yield endpoints
        finally:
            for task in self._leaving:
                task.cancel()
            await asyncio.gather(*self._leaving, return_exceptions=True)
            for member in self._members.values():
                await member.stack.aclose()

    async def run(self, pollers: Pollers) -> None:
        """Poll all servers, and follow the list of replicas, until cancelled."""
        try:
            for member in self._members.values():
                self._poll(member, pollers)
            with self._woken_by_hangup():
                while True:
                    await self._rest()
                    await self.follow(pollers)
        finally:
            for task in self._polling.values():
                task.cancel()
            await asyncio.gather(*self._polling.values(), return_exceptions=True)
            self._polling.clear()

    async def follow(self, pollers: Pollers) -> None:
        """Look at the list once, and do what it says; what is no list changes nothing, loudly."""
        if self._discovery is None:
            return
        wanted = await _looked(self._discovery)
        metrics.discovered(self._discovery.name, ok=not isinstance(wanted, str))
        if isinstance(wanted, str):
            if wanted != self._problem:
                known = sorted(self._members.keys() - {PRIMARY})
                log.error("the list of replicas cannot be used", why=wanted, kept=known)
            self._problem = wanted
            return
        if self._problem:
            log.info("the list of replicas can be used again")
        self._problem = ""
        await self._change(wanted, pollers)

    async def _change(self, wanted: Sequence[ReplicaConfig], pollers: Pollers) -> None:
        by_name = {replica.name: replica for replica in wanted}
        for name, member in tuple(self._members.items()):
            # With other settings it is another server, under the same name.
            if name != PRIMARY and by_name.get(name) != member.config:
                self._let_go(name, pollers)
        for name, replica in by_name.items():
            if name not in self._members:
                pollers.servers.join(await self._open(name, replica))
                self._poll(self._members[name], pollers)
                metrics.server_changed("joined")
                log.info("replica joined", replica=name)

    async def _open(self, name: str, config: DatabaseConfig) -> Endpoint:
        async with AsyncExitStack() as stack:
            endpoint = await stack.enter_async_context(self._open_endpoint(config, name))
            self._members[name] = _Member(config, endpoint, stack.pop_all())
        return endpoint

    def _poll(self, member: _Member, pollers: Pollers) -> None:
        name = member.endpoint.name
        work = pollers.of(member.endpoint).run()
        self._polling[name] = asyncio.create_task(work, name=f"poll {name}")

    def _let_go(self, name: str, pollers: Pollers) -> None:
        """From here on no read begins there; those under way have their time."""
        pollers.servers.leave(name)
        polling = self._polling.pop(name, None)
        if polling is not None:
            polling.cancel()
        leaving = asyncio.create_task(self._drain(self._members.pop(name)), name=f"drain {name}")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        metrics.server_changed("left")
        log.info("replica left", replica=name)

    async def _drain(self, member: _Member) -> None:
        endpoint = member.endpoint
        async with member.stack:
            try:
                async with asyncio.timeout(self._config.drain_seconds):
                    while endpoint.reads_running:  # noqa: ASYNC110 - seldom, and soon over.
                        await asyncio.sleep(_DRAIN_LOOK_SECONDS)
            except TimeoutError:
                reads = endpoint.reads_running
                log.warning("reads are cut off", replica=endpoint.name, reads=reads)
                await endpoint.cut_off()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(
                None if self._discovery is None else self._config.interval_seconds
            ):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    @contextmanager
    def _woken_by_hangup(self) -> Iterator[None]:
        """SIGHUP: look at once."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._wake.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)


async def _looked(discovery: Discovery) -> tuple[ReplicaConfig, ...] | str:
    """The list, or what is wrong with it."""
    try:
        return await discovery.replicas()
    except DiscoveryError as error:
        return str(error)
    except TimeoutError:
        return "no answer in time"
