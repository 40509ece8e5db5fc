"""Each service refuses what is beyond a tenant's quota, and only that tenant."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from atlas.reconciler.v1 import reconciler_service_pb2 as warehouse_pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc as warehouse_grpc
from atlas_client import AtlasError, Attribute, DataType, Point, Quotas
from atlas_common.errors import ServiceError, from_rpc_error

from .fortress import METHODS, SERVICES, Fortress, access, path

LEAST = 0.001
"""Of a rate: one call, and the next a quarter of an hour later, however slow the machine is."""


async def tenants(held: Fortress, quotas: Quotas) -> tuple[str, str]:
    """A tenant with these quotas from its beginning, and one without."""
    suffix = secrets.token_hex(4)
    noisy, quiet = f"noisy-{suffix}", f"quiet-{suffix}"
    async with held.client(held.token(scopes=["platform.admin"])) as operator:
        made = await operator.create_tenant(noisy, quotas=quotas)
        assert made.quotas == quotas
        await operator.create_tenant(quiet)
    return noisy, quiet


def outcome(call: Callable[[], object]) -> ServiceError | None:
    try:
        call()
    except grpc.RpcError as error:
        failed: grpc.aio.AioRpcError = error  # type: ignore[assignment]  # As one, but for the type.
        return from_rpc_error(failed)
    return None


def exceeded(error: ServiceError | None, quota: str) -> None:
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert error.metadata["quota"] == quota
    assert float(error.metadata["limit"]) >= 0
    assert error.retry_after is not None
    assert error.retry_after > 0
    assert "operator" in error.message


def read_of(service: str) -> MethodDescriptor:
    """A method of the service that works within a tenant."""
    return next(
        method
        for name, method in METHODS
        if name == service
        and not access(method).tenantless
        and not (method.client_streaming or method.server_streaming)
        and access(method).scope != "platform.internal"
    )


@pytest.mark.parametrize("service", SERVICES)
async def test_calls_beyond_the_quota_are_refused_by_every_service(
    held: Fortress, service: str
) -> None:
    noisy, quiet = await tenants(held, Quotas(calls_per_second=LEAST))
    method = read_of(service)
    with held.channel(service) as channel:

        def called(tenant: str) -> ServiceError | None:
            metadata = (("authorization", f"Bearer {held.token(tenant)}"),)
            unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path(method))
            return outcome(lambda: unary(b"", metadata=metadata, timeout=60))

        first = called(noisy)
        assert first is None or first.reason != "QUOTA_EXCEEDED"
        exceeded(called(noisy), "calls_per_second")
        for _ in range(3):
            theirs = called(quiet)
            assert theirs is None or theirs.reason != "QUOTA_EXCEEDED"


async def test_points_beyond_the_quota_are_refused_before_they_are_staged(held: Fortress) -> None:
    noisy, quiet = await tenants(held, Quotas(points_per_second=LEAST))
    points = [Point("pump-1", "rpm", n, datetime(2026, 1, 1, 0, n, tzinfo=UTC)) for n in range(5)]
    for tenant in (noisy, quiet):
        async with held.client(held.token(tenant)) as client:
            await client.upsert_attributes([Attribute("rpm", DataType.INT)])
            await client.write(points)  # Overdraws what the first one has.
            if tenant == quiet:
                await client.write(points)
                continue
            with pytest.raises(AtlasError) as caught:
                await client.write(points, timeout=5)
            assert caught.value.reason == "QUOTA_EXCEEDED"
            assert caught.value.metadata["quota"] == "points_per_second"
            assert caught.value.retry_after


async def test_the_warehouse_is_not_one_tenants_alone(held: Fortress) -> None:
    noisy, quiet = await tenants(held, Quotas(warehouse_seconds_per_minute=LEAST))
    request = warehouse_pb.AggregateRequest(
        attribute_ids=[1], aggregations=[warehouse_pb.AGGREGATION_COUNT]
    )
    with held.channel("cdc-reconciler") as channel:
        stub = warehouse_grpc.ReconcilerServiceStub(channel)

        def called(tenant: str) -> ServiceError | None:
            metadata = (("authorization", f"Bearer {held.token(tenant)}"),)
            return outcome(lambda: list(stub.Aggregate(request, metadata=metadata, timeout=60)))

        # Whether it has its first copy yet or not: to look took time, which counts.
        first = called(noisy)
        assert first is None or first.reason != "QUOTA_EXCEEDED"
        exceeded(called(noisy), "warehouse_seconds_per_minute")
        for _ in range(2):
            theirs = called(quiet)
            assert theirs is None or theirs.reason != "QUOTA_EXCEEDED"


async def test_a_tenant_does_not_raise_its_own(held: Fortress) -> None:
    noisy, _ = await tenants(held, Quotas(entities=1))
    everything = ["catalog.admin", "telemetry.write", "projection.admin"]
    async with held.client(held.token(noisy, everything)) as client:
        with pytest.raises(AtlasError) as caught:
            await client.update_tenant(noisy, quotas=Quotas(entities=10**6))
        assert caught.value.reason == "SCOPE_MISSING"
        with pytest.raises(AtlasError) as caught:
            await client.create_entities(["pump-1", "pump-2"], timeout=5)
        assert caught.value.reason == "QUOTA_EXCEEDED"
