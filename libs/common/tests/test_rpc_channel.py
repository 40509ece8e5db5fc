"""Channels between services: what a call carries on, and when it is tried again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from atlas.catalog.v1 import catalog_service_pb2
from atlas.ingest.v1 import ingest_service_pb2
from atlas_common import telemetry
from atlas_common.call import request_context, work_until
from atlas_common.config import PeerConfig, TelemetryConfig
from atlas_common.rpc import open_channel
from atlas_common.rpc.channel import service_config
from atlas_common.rpc.scope import Call, Proceed
from atlas_common.tenant import Tenant, tenant_context
from atlas_common.testing import serving_at

from .echo_service import ARITIES, Echo, add, call, failure

CATALOG = catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"]
INGEST = ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"]


class Recorder:
    """Notes the metadata of each call and refuses the first few."""

    def __init__(self, refuse: int = 0) -> None:
        self.metadata: list[dict[str, Any]] = []
        self._refuse = refuse

    async def noted(self, call: Call, proceed: Proceed) -> Any:
        self.metadata.append(dict(call.metadata))
        if len(self.metadata) <= self._refuse:
            await call.context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return await proceed()


class AnyMethod(grpc.GenericRpcHandler):
    """Answers whatever is called."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def answer(request: bytes, _context: Any) -> bytes:
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


def add_any(handler: AnyMethod, server: grpc.aio.Server) -> None:
    server.add_generic_rpc_handlers((handler,))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def target(recorder: Recorder) -> AsyncIterator[str]:
    async with serving_at(Echo(), add=add, chain=[recorder.noted]) as target:
        yield target


@pytest.mark.parametrize("arity", ARITIES)
async def test_tenant_request_id_and_trace_go_along(
    recorder: Recorder, target: str, arity: str
) -> None:
    with telemetry.setup("caller", TelemetryConfig()):  # Nothing is exported, yet ids are made.
        pass
    async with open_channel(PeerConfig(target=target)) as channel:
        with tenant_context(Tenant(1, "acme")), request_context("r-1"):
            await call(channel, arity, b"x")
        with tenant_context(Tenant(2, "globex")):
            await call(channel, arity, b"x")
    first, second = recorder.metadata
    assert (first["x-atlas-tenant"], first["x-request-id"]) == ("acme", "r-1")
    assert len(first["traceparent"]) == 55
    assert second["x-atlas-tenant"] == "globex"
    assert "x-request-id" not in second


async def test_what_the_caller_sets_itself_is_left_alone(recorder: Recorder, target: str) -> None:
    async with open_channel(PeerConfig(target=target)) as channel:
        with tenant_context(Tenant(1, "acme")):
            await call(channel, "UnaryUnary", b"x", metadata=(("x-atlas-tenant", "globex"),))
    assert recorder.metadata[0]["x-atlas-tenant"] == "globex"


@pytest.mark.parametrize("arity", ARITIES)
async def test_a_call_has_no_more_time_than_the_running_call(target: str, arity: str) -> None:
    async with open_channel(PeerConfig(target=target, timeout_seconds=60)) as channel:
        with work_until(asyncio.get_running_loop().time() + 0.1):
            async with asyncio.timeout(20):
                error, _ = await failure(channel, arity, b"wait", timeout=60)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_unary_call_has_no_more_time_than_its_peer_may_take(target: str) -> None:
    async with open_channel(PeerConfig(target=target, timeout_seconds=0.1)) as channel:
        async with asyncio.timeout(20):
            error, _ = await failure(channel, "UnaryUnary", b"wait")
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_peer_that_is_away_is_unavailable_and_found_when_it_comes() -> None:
    echo = Echo()
    async with serving_at(echo, add=add) as target:
        pass
    async with open_channel(PeerConfig(target=target)) as channel:
        error, _ = await failure(channel, "UnaryUnary", b"x")
        assert error.reason == "DEPENDENCY_UNAVAILABLE"
        server = grpc.aio.server()
        add(echo, server)
        server.add_insecure_port(target)
        await server.start()
        answer = await call(channel, "UnaryUnary", b"x", wait_for_ready=True, timeout=10)
        assert answer == [b"x"]
        await server.stop(0)


def test_only_methods_that_declare_themselves_idempotent_are_retried() -> None:
    (rule,) = service_config([CATALOG, INGEST])["methodConfig"]
    names = {(name["service"], name["method"]) for name in rule["name"]}
    assert ("atlas.catalog.v1.CatalogService", "ListTenants") in names
    declared = {
        (service.full_name, method.name)
        for service in (CATALOG, INGEST)
        for method in service.methods
        if method.GetOptions().idempotency_level
    }
    assert names == declared
    assert service_config([]) == {"methodConfig": []}


@pytest.mark.parametrize(("idempotent", "attempts"), [(True, 3), (False, 1)])
async def test_an_idempotent_call_is_tried_three_times(idempotent: bool, attempts: int) -> None:
    recorder = Recorder(refuse=5)
    services = [CATALOG] if idempotent else []
    async with (
        serving_at(AnyMethod(), add=add_any, chain=[recorder.noted]) as target,
        open_channel(PeerConfig(target=target), services=services) as channel,
    ):
        calls: Any = channel
        with pytest.raises(grpc.aio.AioRpcError):
            await calls.unary_unary("/atlas.catalog.v1.CatalogService/ListTenants")(b"")
    assert len(recorder.metadata) == attempts


async def test_cancelling_reaches_the_peer() -> None:
    echo = Echo()
    async with (
        serving_at(echo, add=add) as target,
        open_channel(PeerConfig(target=target)) as channel,
    ):
        task = asyncio.create_task(call(channel, "UnaryUnary", b"wait"))
        await asyncio.wait_for(echo.started.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.wait_for(echo.ended.get(), 5) == "cancelled"
