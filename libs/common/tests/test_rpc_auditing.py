"""Administrative calls are entered before they begin and after they ended, however they ended."""
# ruff: noqa: N802 - names of gRPC.

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from atlas.catalog.v1 import catalog_service_pb2 as catalog
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.type.v1.value_pb2 import DATA_TYPE_DOUBLE
from atlas_common import errors, telemetry
from atlas_common.audit import REQUEST_BYTES_MAX, Act, told
from atlas_common.config import RpcConfig, TelemetryConfig
from atlas_common.errors import FatalError
from atlas_common.rpc import Insecure, call_chain, declared_access
from atlas_common.tenant import Tenant
from atlas_common.testing import KnownTenants, serving

SERVICE = catalog.DESCRIPTOR.services_by_name["CatalogService"]
ACCESSES = declared_access([SERVICE])
TENANTS = KnownTenants(Tenant(1, "acme"), Tenant(2, "globex"))


class Log:
    """An audit log in memory, which can be away."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.lines: list[tuple[str, Act, str]] = []
        self.away: set[str] = set()

    async def begin(self, act: Act) -> None:
        if "begin" in self.away:
            raise errors.unavailable("DEPENDENCY_UNAVAILABLE", "away", retry_after=1.0)
        self.lines.append(("begin", act, ""))

    async def end(self, act: Act, outcome: str) -> None:
        if "end" in self.away:
            raise errors.unavailable("DEPENDENCY_UNAVAILABLE", "away", retry_after=1.0)
        self.lines.append(("end", act, outcome))
        self.ended.set()


class Servicer(catalog_service_pb2_grpc.CatalogServiceServicer):
    """Does what the first key says."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.begun = asyncio.Event()
        self.done = 0

    async def BatchCreateEntities(self, request: Any, context: Any) -> Any:
        assert self.log.lines[-1][0] == "begin", "it is entered first"
        self.begun.set()
        match request.keys[0]:
            case "refuse":
                raise errors.not_found("ENTITY_UNKNOWN", "refused")
            case "break":
                raise ValueError("broken")
            case "abort":
                await context.abort(grpc.StatusCode.ABORTED, "aborted")
            case "wait":
                await asyncio.Event().wait()
        self.done += 1
        return catalog.BatchCreateEntitiesResponse()

    async def ListEntities(self, request: Any, context: Any) -> Any:
        return catalog.ListEntitiesResponse()

    async def CreateTenant(self, request: Any, context: Any) -> Any:
        return catalog.CreateTenantResponse()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def servicer(log: Log) -> Servicer:
    return Servicer(log)  # type: ignore[abstract]


@pytest.fixture
async def stub(log: Log, servicer: Servicer) -> AsyncIterator[Any]:
    chain = call_chain(
        RpcConfig(),
        authenticator=Insecure("dev"),
        tenants=TENANTS,
        accesses=ACCESSES,
        audit=log,
    )
    add = catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server
    with telemetry.setup("catalog", TelemetryConfig()):
        async with serving(servicer, add=add, chain=chain) as channel:
            yield catalog_service_pb2_grpc.CatalogServiceStub(channel)


def create(stub: Any, key: str, tenant: str = "acme", request_id: str = "r-1") -> Any:
    metadata = (("x-atlas-tenant", tenant), ("x-request-id", request_id))
    return stub.BatchCreateEntities(
        catalog.BatchCreateEntitiesRequest(keys=[key]), metadata=metadata
    )


async def test_an_act_is_entered_with_who_whose_and_by_which_request(log: Log, stub: Any) -> None:
    for tenant in ("acme", "globex"):
        call = create(stub, "pump-1", tenant, f"of-{tenant}")
        await call
        assert ("x-request-id", f"of-{tenant}") in tuple(await call.trailing_metadata())
    await stub.CreateTenant(catalog.CreateTenantRequest(key="initech"))
    await stub.ListEntities(
        catalog.ListEntitiesRequest(), metadata=(("x-atlas-tenant", "acme"),)
    )  # Only reads.
    assert [
        (event, act.tenant and act.tenant.key, act.caller.subject, outcome)
        for event, act, outcome in log.lines
    ] == [
        (event, tenant, "anybody", "OK" if event == "end" else "")
        for tenant in ("acme", "globex", None)
        for event in ("begin", "end")
    ]
    acts = [act for event, act, _ in log.lines if event == "begin"]
    assert [act.request_id for act in acts[:2]] == ["of-acme", "of-globex"]
    assert len(acts[2].request_id) == 32
    assert [act.request for act in acts] == ['{"keys":["pump-1"]}'] * 2 + ['{"key":"initech"}']
    assert acts[0].method == "/atlas.catalog.v1.CatalogService/BatchCreateEntities"


@pytest.mark.parametrize(
    ("key", "outcome"),
    [("refuse", "NOT_FOUND"), ("break", "INTERNAL"), ("abort", "ABORTED")],
)
async def test_what_failed_is_entered_as_it_failed(
    log: Log, stub: Any, key: str, outcome: str
) -> None:
    call = create(stub, key)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code().name == outcome
    async with asyncio.timeout(30):
        await log.ended.wait()  # abort() answers at once; what is raised is answered afterwards.
    assert [(event, how) for event, _, how in log.lines] == [("begin", ""), ("end", outcome)]
    if key != "abort":  # abort() of the handler's own replaces all trailers.
        assert ("x-request-id", "r-1") in tuple(caught.value.trailing_metadata())


async def test_a_caller_that_goes_away_does_not_take_the_end_along(
    log: Log, stub: Any, servicer: Servicer
) -> None:
    call = create(stub, "wait")
    async with asyncio.timeout(30):
        await servicer.begun.wait()
        call.cancel()
        await log.ended.wait()
    assert [(event, how) for event, _, how in log.lines] == [("begin", ""), ("end", "CANCELLED")]


async def test_what_cannot_be_entered_is_not_done(log: Log, stub: Any, servicer: Servicer) -> None:
    log.away = {"begin"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(stub, "pump-1")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert servicer.done == 0
    log.away = {"end"}
    await create(stub, "pump-1")  # Done, and its beginning entered.
    assert (servicer.done, len(log.lines)) == (1, 1)


def test_a_service_with_administrative_methods_needs_a_log() -> None:
    with pytest.raises(FatalError, match="is administrative, and there is no audit log"):
        call_chain(RpcConfig(), authenticator=Insecure("dev"), tenants=TENANTS, accesses=ACCESSES)


def test_requests_are_told_in_bounded_ascii() -> None:
    attributes = [
        catalog.Attribute(
            name="n\0é" + "x" * 300, allowed_values=["v" * 500] * 900, data_type=DATA_TYPE_DOUBLE
        )
        for _ in range(1000)
    ]
    for request in (
        catalog.BatchUpsertAttributesRequest(attributes=attributes),
        catalog.BatchUpsertAttributesRequest(attributes=attributes[:1]),
    ):
        text = told(request)
        assert text.isascii()
        assert len(text) <= REQUEST_BYTES_MAX
        assert "\0" not in text
        assert "DATA_TYPE_" in text
    assert "... and 997 more" in told(catalog.BatchUpsertAttributesRequest(attributes=attributes))
    assert told(catalog.CreateTenantRequest()) == "{}"
    assert told(b"no message") == ""
