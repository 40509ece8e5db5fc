"""Quotas of calls and streams, on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from atlas_common import telemetry
from atlas_common.caller import Caller, CallerKind
from atlas_common.config import QuotaConfig, RpcConfig, TelemetryConfig
from atlas_common.errors import ServiceError
from atlas_common.metering import QuotaMeters
from atlas_common.quotas import Quotas
from atlas_common.rpc import Access, Insecure, call_chain
from atlas_common.rpc.scope import Call
from atlas_common.tenant import Tenant
from atlas_common.testing import KnownTenants, serving

from .echo_service import ARITIES, NAME, Echo, add, call, failure

ACME, GLOBEX = (("x-atlas-tenant", "acme"),), (("x-atlas-tenant", "globex"),)
LEAST = 0.001  # A second call is one too many for a quarter of an hour.


class Peer(Insecure):
    """Everybody is another service."""

    async def authenticate(self, call: Call) -> Caller:
        return Caller("query.atlas", CallerKind.SERVICE, frozenset({"telemetry.read"}))


@asynccontextmanager
async def echoing(
    quotas: Quotas, authenticator: Insecure | None = None
) -> AsyncIterator[tuple[Echo, grpc.aio.Channel]]:
    """The quotas are acme's."""
    echo = Echo()
    chain = call_chain(
        RpcConfig(),
        authenticator=authenticator or Insecure("dev"),
        tenants=KnownTenants(Tenant(1, "acme", quotas), Tenant(2, "globex")),
        accesses={f"/{NAME}/{arity}": Access("telemetry.read") for arity in ARITIES},
        meters=QuotaMeters(QuotaConfig()),
    )
    with telemetry.setup("echo", TelemetryConfig()):
        async with serving(echo, add=add, chain=chain) as channel:
            yield echo, channel


def exceeded(error: ServiceError, quota: str) -> None:
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert error.metadata["quota"] == quota
    assert error.retry_after is not None
    assert error.retry_after > 0


@pytest.mark.parametrize("arity", ARITIES)
async def test_a_call_beyond_the_quota_is_refused_for_its_tenant_alone(arity: str) -> None:
    async with echoing(Quotas(calls_per_second=LEAST)) as (_, channel):
        for tenant in (ACME, GLOBEX):
            assert await call(channel, arity, b"hello", metadata=tenant)
        error, _trailers = await failure(channel, arity, b"hello", metadata=ACME)
        exceeded(error, "calls_per_second")
        assert await call(channel, arity, b"hello", metadata=GLOBEX)


@pytest.mark.parametrize("arity", ARITIES[1:])
async def test_a_stream_beyond_the_quota_is_refused_until_one_ends(arity: str) -> None:
    async with echoing(Quotas(concurrent_streams=1)) as (echo, channel):
        first = asyncio.ensure_future(call(channel, arity, b"wait", metadata=ACME))
        await echo.started.wait()
        error, _ = await failure(channel, arity, b"hello", metadata=ACME)
        exceeded(error, "concurrent_streams")
        assert await call(channel, arity, b"hello", metadata=GLOBEX)
        assert await call(channel, "UnaryUnary", b"hello", metadata=ACME)
        echo.release.set()
        await first
        assert await call(channel, arity, b"hello", metadata=ACME)


async def test_what_services_ask_for_a_tenant_was_counted_before() -> None:
    quotas = Quotas(calls_per_second=LEAST, concurrent_streams=0)
    async with echoing(quotas, Peer("dev")) as (_, channel):
        for arity in (*ARITIES, *ARITIES):
            assert await call(channel, arity, b"hello", metadata=ACME)
