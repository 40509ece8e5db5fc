"""From a URL to a client, for each kind of deployment. Scripts are all that is ever called."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis import asyncio as redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError

from atlas_common.secrets import LoginSource, login_source
from atlas_hotcache.config import ValkeyConfig
from atlas_hotcache.valkey_url import Deployment, Login, ValkeyUrl

_NAME = "atlas-hotcache"
_TOPOLOGY_SECONDS_MAX = 2.0
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Client:
    """What all deployments offer."""

    execute: Callable[..., Awaitable[Any]]
    """One command, on the server that has its keys."""
    suspect: Callable[[], None] = lambda: None
    """To be told when a command took too long: then another server may have its keys by now."""


@asynccontextmanager
async def open_client(url: ValkeyUrl, config: ValkeyConfig) -> AsyncIterator[Client]:
    """A client of the deployment, which need not be there yet."""
    match url.deployment:
        case Deployment.STANDALONE:
            host, port = url.nodes[0]
            options = _options(url, config) | {"db": url.database, "retry": _once_more()}
            async with redis.Redis(host=host, port=port, **options) as client:
                yield Client(client.execute_command)
        case Deployment.SENTINEL:
            async with _sentinels(url, config) as sentinels:
                options = _options(url, config) | {"db": url.database, "retry": _once_more()}
                master: redis.Redis = sentinels.master_for(url.service, **options)
                async with master:
                    yield Client(master.execute_command)
        case Deployment.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in url.nodes]
            cluster = _Cluster(startup_nodes=nodes, **_options(url, config))
            try:
                # redis-py looks for itself after an error. But our time limit cancels the call,
                # from which it concludes nothing: it would go on asking a stalled node.
                yield Client(cluster.execute_command, cluster.learn_anew)
            finally:
                await cluster.end()


class _Sentinels(Sentinel):
    """Asks all sentinels at once, and each of them one question at a time.

    One after another, as redis-py does, a sentinel that does not answer would take all the time
    that a call has, and every call would find it first again. Nor does a call end what it does not
    wait for any more: a question that is given up waits for its connection, which another may be
    making, for as long as a sentinel that does not answer lets it.
    """

    def __init__(self, nodes: Sequence[Address], **options: Any) -> None:
        super().__init__(nodes, **options)  # type: ignore[no-untyped-call]
        self._asking: dict[redis.Redis, asyncio.Task[Address | None]] = {}

    async def discover_master(self, service_name: str) -> Address:
        """The address of the master, by the first sentinel that knows one."""
        for answer in asyncio.as_completed(
            [self._ask(one, service_name) for one in self.sentinels]
        ):
            address = await answer
            if address is not None:
                return address
        raise MasterNotFoundError("no sentinel knows a master")

    async def end(self) -> None:
        """End all questions and connections."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        await self.aclose()

    def _ask(self, sentinel: "redis.Redis", service: str) -> "asyncio.Task[Address | None]":
        task = self._asking.get(sentinel)
        if task is None or task.done():
            task = self._asking[sentinel] = asyncio.create_task(_master(sentinel, service))
        return task


async def _master(sentinel: "redis.Redis", service: str) -> Address | None:
    try:
        masters: Any = await sentinel.sentinel_masters()
    except (RedisError, OSError):
        return None
    state = masters.get(service)
    if state is None or state["is_sdown"] or state["is_odown"] or not state["is_master"]:
        return None
    return str(state["ip"]), int(state["port"])


class _Cluster(RedisCluster):
    """Learns which node has which slots in a task of its own.

    Within the time of a call it would be cancelled where a node does not answer, by call after
    call, and never get to the nodes that do.
    """

    def __init__(self, **options: Any) -> None:
        # Once more after the slots were learned anew. Every command of ours may be repeated.
        super().__init__(require_full_coverage=False, retry=_once_more(), **options)
        parser: Any = _NoCommands()
        self.commands_parser = parser
        self._learning: asyncio.Task[None] | None = None

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """As redis-py's. Raises RedisError, RedisClusterException, OSError."""
        try:
            return await super().execute_command(*arguments, **options)
        except AttributeError as error:
            # After a node's error redis-py closes the connections that nobody uses. If a call has
            # taken one since it looked, the call writes to None.
            raise RedisConnectionError("the connection was closed beneath the call") from error

    async def initialize(self, *arguments: Any, **options: Any) -> "_Cluster":
        """Learn the slots if that is needed; shared by all who need it."""
        if self._initialize:
            if self._learning is None or self._learning.done():
                self._learning = asyncio.create_task(self._learn(*arguments, **options))
                self._learning.add_done_callback(_see)
            await asyncio.shield(self._learning)
        return self

    def learn_anew(self) -> None:
        """Learn the slots at the next call."""
        self._initialize = True

    async def aclose(self) -> None:
        """What redis-py calls where it finds the slots changed.

        It would also close all connections, under the calls to nodes on which nothing has changed.
        """
        self.learn_anew()

    async def end(self) -> None:
        """Close all connections."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
        self._initialize = True
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")

    async def _learn(self, *arguments: Any, **options: Any) -> None:
        try:
            async with asyncio.timeout(_TOPOLOGY_SECONDS_MAX):
                await super().initialize(*arguments, **options)
        except (TimeoutError, RedisClusterException) as error:
            raise RedisConnectionError("no node tells who has which slots") from error


class _NoCommands:
    """In place of redis-py's table of commands, large and fetched anew each time: scripts, which
    are all we call, name their keys."""

    async def initialize(self, node: Any = None) -> None:
        """Nothing to fetch."""


@asynccontextmanager
async def _sentinels(url: ValkeyUrl, config: ValkeyConfig) -> AsyncIterator[_Sentinels]:
    # Fewer of their own: each call that needs a connection may ask.
    asking = _connection(url, _who(url.sentinel_login), config) | {"retry": _once_more()}
    sentinels = _Sentinels(url.nodes, sentinel_kwargs=asking)
    try:
        yield sentinels
    finally:
        await sentinels.end()


def _options(url: ValkeyUrl, config: ValkeyConfig) -> dict[str, Any]:
    """What is asked of connections to Valkey itself. In a cluster the bound is for each node."""
    return {
        **_connection(url, _who(url.login, config.password_source), config),
        "max_connections": config.connections_max,
        "client_name": _NAME,
    }


def _connection(url: ValkeyUrl, who: dict[str, Any], config: ValkeyConfig) -> dict[str, Any]:
    return {
        "protocol": 2,
        **who,
        "socket_timeout": config.call_timeout_seconds,
        "socket_connect_timeout": config.connect_timeout_seconds,
        "ssl": url.is_tls,
        **dict(url.tls_files),
    }


class _NewestLogin(CredentialProvider):
    """Asked for each new connection. A refused login is tried once more, as a broken connection."""

    def __init__(self, login: Login, source: LoginSource) -> None:
        self._login = login
        self._source = source

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        newest = self._source.read()
        username = newest.username or self._login.username
        password = newest.password.get_secret_value()
        return (username, password) if username else (password,)


def _who(login: Login, source: str | None = None) -> dict[str, Any]:
    if source is not None:
        return {"credential_provider": _NewestLogin(login, login_source(source))}
    return {"username": login.username or None, "password": login.password or None}


def _once_more() -> Retry:
    """At once, on a broken connection (after a restart of the server all pooled ones are), not on
    a timeout. Every command of ours may be repeated."""
    return Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))


def _see(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()  # Seen: nobody may be left to await it.
