"""A request_id makes a write repeatable: the same body is stored once, another is refused."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_devstack.database import Database

from .ingest_rig import Rig, as_tenant, point, refusal, start_rig


@pytest.fixture
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


async def test_a_repeated_request_gets_the_answer_of_the_first(rig: Rig) -> None:
    points = [point(), point("nope"), point("count", int_value=1)]
    for tenant in rig.client.tenants:  # The same id in two tenants is two requests.
        first = await rig.client.write(tenant, points, request_id="r1", partial_success=True)
        again = await rig.client.write(
            tenant,
            points,
            request_id="r1",
            partial_success=True,
            ack=pb.ACK_LEVEL_COMMITTED,
        )
        assert not first.duplicate
        assert again.duplicate
        assert (again.accepted_count, again.rejected_count) == (2, 1)
        assert list(again.errors) == list(first.errors)
        assert again.token == first.token  # Of the flush that stored it.
    for tenant in rig.client.tenants:
        assert await rig.count(tenant) == 2


async def test_another_body_is_refused_and_stores_nothing(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        await rig.client.write(tenant, [point()], request_id="r1")
    error = await refusal(rig.client.write(rig.client.acme, [point(), point()], request_id="r1"))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert error.field == "request_id"
    for tenant in rig.client.tenants:
        assert await rig.count(tenant) == 1


async def test_of_concurrent_repetitions_one_is_stored(rig: Rig, database: Database) -> None:
    """In one flush, in flushes of one lane, and in flushes of two processes' lanes."""
    async with start_rig(database, interval_ms=5) as other:
        lanes = {r.lane for r in (rig, other)}
        assert len(lanes) == 2
        other.client.acme, other.client.globex = rig.client.acme, rig.client.globex
        answers = await asyncio.gather(
            *(
                r.client.write(tenant, [point(), point("count", int_value=n)], request_id=f"r{n}")
                for n in range(20)
                for tenant in rig.client.tenants
                for r in (rig, other, rig, other)
            )
        )
    assert sum(not answer.duplicate for answer in answers) == 40
    assert all(answer.accepted_count == 2 for answer in answers)
    assert len({answer.token for answer in answers}) <= 40
    for tenant in rig.client.tenants:
        assert await rig.count(tenant) == 40


async def test_of_concurrent_bodies_under_one_id_one_wins(rig: Rig) -> None:
    async def write(tenant: str, count: int) -> str:
        try:
            await rig.client.write(tenant, [point()] * count, request_id="same")
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "stored"

    for tenant in rig.client.tenants:
        outcomes = await asyncio.gather(*(write(tenant, count) for count in range(1, 9)))
        assert sorted(outcomes) == ["ALREADY_EXISTS"] * 7 + ["stored"]


async def test_a_good_batch_stays_good_after_the_rules_have_changed(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        first = await rig.client.write(
            tenant, [point("pressure", double_value=99)], request_id="r1"
        )
        await rig.client.catalog.BatchUpsertAttributes(
            catalog_pb.BatchUpsertAttributesRequest(
                attributes=[
                    catalog_pb.Attribute(
                        name="pressure",
                        data_type=value_pb2.DATA_TYPE_DOUBLE,
                        max_value="50",
                        hot=True,
                    )
                ]
            ),
            metadata=as_tenant(tenant),
        )
        error = await refusal(
            rig.client.write(tenant, [point("pressure", double_value=99)], request_id="r2")
        )
        assert error.reason == "VALUE_OUT_OF_RANGE"
        again = await rig.client.write(
            tenant, [point("pressure", double_value=99)], request_id="r1"
        )
        assert again.duplicate
        assert again.token == first.token
        error = await refusal(
            rig.client.write(tenant, [point("pressure", double_value=98)], request_id="r1")
        )
        assert error.reason == "REQUEST_ID_REUSED"
        assert await rig.count(tenant) == 1


async def test_a_batch_of_which_nothing_was_accepted_is_remembered_too(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        points = [point("later")]
        first = await rig.client.write(tenant, points, request_id="r1", partial_success=True)
        assert (first.accepted_count, first.rejected_count) == (0, 1)
        await rig.client.catalog.BatchUpsertAttributes(
            catalog_pb.BatchUpsertAttributesRequest(
                attributes=[
                    catalog_pb.Attribute(name="later", data_type=value_pb2.DATA_TYPE_DOUBLE)
                ]
            ),
            metadata=as_tenant(tenant),
        )
        again = await rig.client.write(tenant, points, request_id="r1", partial_success=True)
        assert again.duplicate
        assert list(again.errors) == list(first.errors)
        assert await rig.count(tenant) == 0


async def test_now_does_not_change_the_request(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        assert not (await rig.client.write(tenant, [point()], request_id="r")).duplicate
        assert (await rig.client.write(tenant, [point()], request_id="r")).duplicate
        assert await rig.count(tenant) == 1
