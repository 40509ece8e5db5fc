"""What tests of services need: a server in this process, a clock that stands still."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from atlas_common import errors
from atlas_common.config import PeerConfig, RpcConfig
from atlas_common.rpc.channel import open_channel
from atlas_common.rpc.scope import Scope
from atlas_common.rpc.serve import new_server
from atlas_common.tenant import Tenant


class FakeClock:
    """A clock that is moved by hand; call it for the time, in seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class KnownTenants:
    """A TenantResolver that knows the tenants it is given."""

    def __init__(self, *tenants: Tenant) -> None:
        self._tenants = {tenant.key: tenant for tenant in tenants}

    async def resolve(self, key: str) -> Tenant:
        """As TenantResolver."""
        if key not in self._tenants:
            raise errors.not_found("TENANT_UNKNOWN", f"there is no tenant {key!r}")
        return self._tenants[key]


@asynccontextmanager
async def serving(
    servicer: Any,
    *,
    add: Callable[[Any, grpc.aio.Server], None],
    chain: Sequence[Scope] = (),
    config: RpcConfig | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """A real server on a free port of this host, and the platform's own channel to it."""
    async with (
        serving_at(servicer, add=add, chain=chain, config=config) as target,
        open_channel(PeerConfig(target=target)) as channel,
    ):
        yield channel


@asynccontextmanager
async def serving_at(
    servicer: Any,
    *,
    add: Callable[[Any, grpc.aio.Server], None],
    chain: Sequence[Scope] = (),
    config: RpcConfig | None = None,
) -> AsyncIterator[str]:
    """A real server on a free port of this host; its "host:port"."""
    server = new_server(config or RpcConfig(), chain)
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
