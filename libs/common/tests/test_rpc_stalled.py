"""Readers that do not read and peers that do not answer: they are ended, what they held is free."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from atlas_common import telemetry
from atlas_common.config import RpcConfig, TelemetryConfig
from atlas_common.errors import ServiceError, from_rpc_error
from atlas_common.rpc import Access, Insecure, call_chain
from atlas_common.tenant import Tenant
from atlas_common.testing import KnownTenants, serving, serving_at

from .echo_service import ARITIES, NAME, Echo, add, call

ACME = (("x-atlas-tenant", "acme"),)
GLOBEX = (("x-atlas-tenant", "globex"),)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING = 4, 6


def chain(config: RpcConfig) -> Any:
    return call_chain(
        config,
        authenticator=Insecure("dev"),
        tenants=KnownTenants(Tenant(1, "acme"), Tenant(2, "globex")),
        accesses={f"/{NAME}/{arity}": Access("telemetry.read") for arity in ARITIES},
    )


async def refusal_of(call_: Any) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in call_:
            pass
    return from_rpc_error(refused.value)


@pytest.mark.parametrize("request_", [b"flood", b"flood at once"])
async def test_a_reader_that_does_not_read_is_ended(request_: bytes) -> None:
    echo, config = Echo(), RpcConfig(stalled_reader_seconds=0.2, max_concurrent_rpcs=2)
    with telemetry.setup("echo", TelemetryConfig()):
        async with (
            asyncio.timeout(60),
            serving(echo, add=add, chain=chain(config), config=config) as channel,
        ):
            flooded: Any = channel.unary_stream(f"/{NAME}/UnaryStream")
            stalled = [flooded(request_, metadata=ACME) for _ in range(2)]
            # What makes the stream is closed, in its tenant, ...
            for _ in stalled:
                assert await echo.ended.get() == "closed as acme"
            # ... and what it made is in memory until somebody takes it: its call still counts.
            with pytest.raises(grpc.aio.AioRpcError) as full:
                await call(channel, "UnaryUnary", b"hello", metadata=GLOBEX)
            assert from_rpc_error(full.value).reason == "OVERLOADED"
            told = await refusal_of(stalled[0])
            assert (told.code, told.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
            )
            assert told.message.startswith("nothing was read for 0.2 s")
            stalled[1].cancel()
            while not await is_answered(channel):
                pass


async def is_answered(channel: grpc.aio.Channel) -> bool:
    try:
        return await call(channel, "UnaryUnary", b"hello", metadata=GLOBEX) == [b"hello"]
    except grpc.aio.AioRpcError:
        return False


async def test_a_peer_that_answers_nothing_is_cut_off() -> None:
    config = RpcConfig(keepalive_seconds=1, keepalive_timeout_seconds=0.5)
    with telemetry.setup("echo", TelemetryConfig()):
        async with (
            asyncio.timeout(60),
            serving_at(Echo(), add=add, chain=chain(config), config=config) as target,
        ):
            host, port = target.rsplit(":", 1)
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(_PREFACE + _frame(_SETTINGS) + _frame(_SETTINGS, flags=1))
            kinds = []
            try:
                while True:
                    head = await reader.readexactly(9)
                    await reader.readexactly(int.from_bytes(head[:3]))
                    kinds.append(head[3])
            except asyncio.IncompleteReadError:
                pass
            writer.close()
    assert _PING in kinds


def _frame(kind: int, flags: int = 0) -> bytes:
    return bytes([0, 0, 0, kind, flags, 0, 0, 0, 0])
