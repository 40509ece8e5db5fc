"""Quotas of ingest: what is beyond one is refused or held up, for one tenant and no other."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from atlas.catalog.v1 import catalog_service_pb2 as pb
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb
from atlas.type.v1 import value_pb2
from atlas_common.errors import ServiceError
from atlas_devstack.database import Database

from .ingest_rig import Rig, as_tenant, point, refusal, start_rig
from .stream_rig import stream_of
from .waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
LEAST = 0.001
"""Of a rate: what is one too many is so for a quarter of an hour, however slow the machine is."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: Rig) -> Rig:
    """With two tenants of this test alone."""
    suffix = secrets.token_hex(4)
    client = replace(shared.client, acme=f"acme-{suffix}", globex=f"globex-{suffix}")
    await client.set_up()
    return replace(shared, client=client)


async def limit(rig: Rig, key: str, **quotas: float) -> pb.Tenant:
    """Give a tenant these quotas, and no others."""
    tenant = pb.Tenant(key=key, quotas=pb.Quotas(**quotas))  # type: ignore[arg-type]
    request = pb.UpdateTenantRequest(tenant=tenant)
    request.update_mask.paths.append("quotas")
    return (await rig.client.catalog.UpdateTenant(request)).tenant


def exceeded(error: ServiceError, quota: str, most: str) -> None:
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert (error.metadata["quota"], error.metadata["limit"]) == (quota, most)
    assert error.retry_after is not None
    assert error.retry_after > 0


async def make(rig: Rig, tenant: str, *keys: str) -> pb.BatchCreateEntitiesResponse:
    request = pb.BatchCreateEntitiesRequest(keys=keys)
    return await rig.client.catalog.BatchCreateEntities(request, metadata=as_tenant(tenant))


async def define(rig: Rig, tenant: str, *names: str) -> None:
    attributes = [pb.Attribute(name=name, data_type=value_pb2.DATA_TYPE_INT) for name in names]
    request = pb.BatchUpsertAttributesRequest(attributes=attributes)
    await rig.client.catalog.BatchUpsertAttributes(request, metadata=as_tenant(tenant))


async def test_quotas_are_set_told_and_taken_back(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    wanted = pb.Quotas(
        points_per_second=1.5,
        calls_per_second=1e6,
        entities=0,
        attributes=7,
        concurrent_streams=3,
        warehouse_seconds_per_minute=0.5,
    )
    given = {field.name: value for field, value in wanted.ListFields()}
    assert (await limit(rig, acme, **given)).quotas == wanted
    listed = await rig.client.catalog.ListTenants(pb.ListTenantsRequest())
    assert {t.key: t.quotas for t in listed.tenants if t.HasField("quotas")}[acme] == wanted
    assert globex not in {t.key for t in listed.tenants if t.HasField("quotas")}
    assert not (await limit(rig, acme)).HasField("quotas")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points_per_second", 0.0),
        ("calls_per_second", -1.0),
        ("calls_per_second", float("nan")),
        ("calls_per_second", float("inf")),
        ("warehouse_seconds_per_minute", 0.0),
        ("entities", -1),
        ("attributes", 100_001),
        ("concurrent_streams", -1),
    ],
)
async def test_a_quota_that_cannot_be_is_named_with_its_bounds(
    rig: Rig, name: str, value: float
) -> None:
    error = await refusal(limit(rig, rig.client.acme, **{name: value}))
    assert (error.code, error.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        f"tenant.quotas.{name}",
    )
    assert "between" in error.message


async def test_points_beyond_the_quota_are_refused_before_anything_is_staged(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    await limit(rig, acme, points_per_second=LEAST)
    batch = [point(double_value=n) for n in range(3)]
    for tenant in (acme, globex):  # One batch is larger than the bucket: it goes, and is repaid.
        assert (await rig.client.write(tenant, batch)).accepted_count == 3
    exceeded(await refusal(rig.client.write(acme, batch)), "points_per_second", "0.001")
    assert await rig.count(acme) == await rig.count(globex) > 0
    assert (await rig.client.write(globex, batch)).accepted_count == 3
    await limit(rig, acme)
    assert (await rig.client.write(acme, batch)).accepted_count == 3


async def test_a_stream_is_held_up_and_goes_on_when_the_quota_is_raised(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    await limit(rig, acme, points_per_second=LEAST)
    async with stream_of(rig.client, acme) as slow, stream_of(rig.client, globex) as fast:
        for stream in (slow, fast):
            await stream.send(1, [point()])
            await stream.acks(1)
            await stream.send(2, [point()])
        await fast.acks(1)
        waiting = asyncio.ensure_future(slow.acks(1))
        # Held up, not refused: what comes after it through another door is.
        exceeded(await refusal(rig.client.write(acme, [point()])), "points_per_second", "0.001")
        assert not waiting.done()
        await limit(rig, acme)
        await rig.client.write(acme, [point()])  # With a call the new quota is there.
        assert (await waiting)[0].accepted_count == 1


async def test_streams_beyond_the_quota_are_refused(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    await limit(rig, acme, concurrent_streams=1)
    async with stream_of(rig.client, acme), stream_of(rig.client, globex):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with stream_of(rig.client, acme):
                pass
        async with stream_of(rig.client, globex):
            pass
        exceeded(await refusal(_raised(caught.value)), "concurrent_streams", "1")
        assert (await rig.client.write(acme, [point()])).accepted_count == 1


async def _raised(error: grpc.aio.AioRpcError) -> None:
    raise error


async def test_entities_beyond_the_quota_are_not_made(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    for tenant in rig.client.tenants:
        await make(rig, tenant, "pump-1")
    await limit(rig, acme, entities=2)
    exceeded(await refusal(make(rig, acme, "pump-1", "pump-2", "pump-3")), "entities", "2")
    counts = "SELECT count(*) FROM entities JOIN tenants AS t USING (tenant_id) WHERE t.key = %s"
    assert await rig.query(counts, acme) == [(2,)]
    # Neither are those that points bring; what there is, is written to.
    exceeded(await refusal(rig.client.write(acme, [point(key="new")])), "entities", "2")
    assert (await rig.client.write(acme, [point(key="pump-1")])).accepted_count == 1
    assert (await make(rig, acme, "pump-1", "pump-2")).created_count == 0
    assert (await make(rig, globex, "pump-1", "pump-2", "pump-3")).created_count == 2
    assert (await rig.client.write(globex, [point(key="new")])).accepted_count == 1
    await limit(rig, acme, entities=3)

    async def fits() -> bool:
        try:
            return bool((await make(rig, acme, "pump-3")).created_count)
        except grpc.aio.AioRpcError:
            return False

    await eventually(fits)


async def test_attributes_beyond_the_quota_are_not_made(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    before = len(await _attributes(rig, acme))
    await limit(rig, acme, attributes=before + 1)
    exceeded(await refusal(define(rig, acme, "one", "two")), "attributes", str(before + 1))
    assert len(await _attributes(rig, acme)) == before
    await define(rig, acme, "one")
    await define(rig, globex, "one", "two")


async def test_attributes_that_points_bring_are_counted_as_well(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    before = len(await _attributes(rig, acme))
    for tenant in rig.client.tenants:
        request = pb.UpdateTenantRequest(
            tenant=pb.Tenant(
                key=tenant, unknown_attribute_policy=pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER
            )
        )
        request.update_mask.paths.append("unknown_attribute_policy")
        await rig.client.catalog.UpdateTenant(request)
    await limit(rig, acme, attributes=before)
    new = [point("brought", double_value=1)]
    exceeded(await refusal(rig.client.write(acme, new)), "attributes", str(before))
    assert (await rig.client.write(globex, new)).accepted_count == 1


async def _attributes(rig: Rig, tenant: str) -> list[Any]:
    request = pb.ListAttributesRequest(page_size=1_000)
    listed = await rig.client.catalog.ListAttributes(request, metadata=as_tenant(tenant))
    return list(listed.attributes)


async def test_calls_beyond_the_quota_are_refused(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    await limit(rig, acme, calls_per_second=LEAST)

    async def ask(tenant: str) -> None:
        request = ingest_pb.GetProducerPositionRequest(producer_id="p")
        await rig.client.ingest.GetProducerPosition(request, metadata=as_tenant(tenant))

    async def refused() -> bool:
        try:
            await ask(acme)
        except grpc.aio.AioRpcError:
            return True
        return False

    await eventually(refused)  # What was saved up goes first.
    exceeded(await refusal(ask(acme)), "calls_per_second", "0.001")
    await ask(globex)
    await limit(rig, acme)  # The operator's own calls are no tenant's.
    await ask(acme)
