"""The catalog over gRPC: tenants, entities, attributes, pages."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from atlas.catalog.v1 import catalog_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_devstack.database import Database

from .ingest_rig import ATTRIBUTES, Rig, as_tenant, point, refusal, start_rig

REGISTER = pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER
REJECT = pb.UNKNOWN_ATTRIBUTE_POLICY_REJECT


@pytest.fixture
async def rig(fresh_database: Database) -> AsyncIterator[Rig]:
    async with start_rig(fresh_database, interval_ms=5) as rig:
        yield rig


async def upsert(rig: Rig, tenant: str, *attributes: pb.Attribute) -> Any:
    request = pb.BatchUpsertAttributesRequest(attributes=attributes)
    return await rig.client.catalog.BatchUpsertAttributes(request, metadata=as_tenant(tenant))


async def attributes_of(rig: Rig, tenant: str) -> list[pb.Attribute]:
    answer = await rig.client.catalog.ListAttributes(
        pb.ListAttributesRequest(), metadata=as_tenant(tenant)
    )
    return list(answer.attributes)


async def test_a_tenant_is_made_once(rig: Rig) -> None:
    async def create(**fields: Any) -> pb.CreateTenantResponse:
        return await rig.client.catalog.CreateTenant(pb.CreateTenantRequest(**fields))

    first = await create(key="new", display_name="New", unknown_attribute_policy=REGISTER)
    again = await create(key="new")
    assert (first.created, again.created) == (True, False)
    assert again.tenant == first.tenant
    assert again.tenant.unknown_attribute_policy == REGISTER
    assert (await create(key="plain")).tenant.unknown_attribute_policy == REJECT
    error = await refusal(create(key="new", unknown_attribute_policy=REJECT))
    assert (error.code, error.field) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "unknown_attribute_policy",
    )
    error = await refusal(create(key="new", display_name="Other"))
    assert (error.code, error.field) == (grpc.StatusCode.ALREADY_EXISTS, "display_name")


@pytest.mark.parametrize("key", ["", "Acme", "a_b", "-a", "a-", "x" * 64, "ü", "a\n"])
async def test_a_bad_tenant_key_is_refused(rig: Rig, key: str) -> None:
    error = await refusal(rig.client.catalog.CreateTenant(pb.CreateTenantRequest(key=key)))
    assert (error.reason, error.field) == ("INVALID_FIELD", "key")


async def test_a_tenant_that_was_just_made_can_write_at_once(rig: Rig) -> None:
    error = await refusal(rig.client.write("fresh", [point()]))
    assert error.reason == "TENANT_UNKNOWN"
    await rig.client.catalog.CreateTenant(
        pb.CreateTenantRequest(key="fresh", unknown_attribute_policy=REGISTER)
    )
    assert (await rig.client.write("fresh", [point()])).accepted_count == 1


async def test_tenants_come_in_pages(rig: Rig) -> None:
    for n in range(5):
        await rig.client.catalog.CreateTenant(pb.CreateTenantRequest(key=f"t-{n}"))
    seen: list[str] = []
    token = ""
    for _ in range(10):
        page = await rig.client.catalog.ListTenants(
            pb.ListTenantsRequest(page_size=3, page_token=token)
        )
        seen += [tenant.key for tenant in page.tenants]
        token = page.next_page_token
        if not token:
            break
    assert seen == [*rig.client.tenants, *(f"t-{n}" for n in range(5))]


async def test_entities_are_made_once_per_tenant_and_answered_in_order(rig: Rig) -> None:
    keys = ["b", "a", "b", "ü" * 128]
    ids: dict[str, list[int]] = {}
    for tenant in rig.client.tenants:
        request = pb.BatchCreateEntitiesRequest(keys=keys)
        first = await rig.client.catalog.BatchCreateEntities(request, metadata=as_tenant(tenant))
        again = await rig.client.catalog.BatchCreateEntities(request, metadata=as_tenant(tenant))
        assert [entity.key for entity in first.entities] == keys
        assert (first.created_count, again.created_count) == (3, 0)
        assert list(again.entities) == list(first.entities)
        ids[tenant] = [entity.entity_id for entity in first.entities]
    assert not set(ids[rig.client.acme]) & set(ids[rig.client.globex])


@pytest.mark.parametrize("key", ["", "x" * 257, "a\0", "a\n"])
async def test_a_bad_entity_key_makes_none(rig: Rig, key: str) -> None:
    request = pb.BatchCreateEntitiesRequest(keys=["good", key])
    error = await refusal(
        rig.client.catalog.BatchCreateEntities(request, metadata=as_tenant(rig.client.acme))
    )
    assert (error.reason, error.field) == ("ENTITY_KEY_INVALID", "keys[1]")
    listed = await rig.client.catalog.ListEntities(
        pb.ListEntitiesRequest(), metadata=as_tenant(rig.client.acme)
    )
    assert list(listed.entities) == []


async def test_pages_belong_to_one_tenant_and_one_list(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        await rig.client.catalog.BatchCreateEntities(
            pb.BatchCreateEntitiesRequest(keys=[f"e-{n}" for n in range(5)]),
            metadata=as_tenant(tenant),
        )
    for tenant in rig.client.tenants:
        first = await rig.client.catalog.ListEntities(
            pb.ListEntitiesRequest(page_size=3), metadata=as_tenant(tenant)
        )
        rest = await rig.client.catalog.ListEntities(
            pb.ListEntitiesRequest(page_size=3, page_token=first.next_page_token),
            metadata=as_tenant(tenant),
        )
        keys = [entity.key for entity in (*first.entities, *rest.entities)]
        assert keys == [f"e-{n}" for n in range(5)]
        assert rest.next_page_token == ""
    token = first.next_page_token  # globex's.
    for call in (
        rig.client.catalog.ListEntities(
            pb.ListEntitiesRequest(page_token=token), metadata=as_tenant(rig.client.acme)
        ),
        rig.client.catalog.ListAttributes(
            pb.ListAttributesRequest(page_token=token), metadata=as_tenant(rig.client.globex)
        ),
        rig.client.catalog.ListTenants(pb.ListTenantsRequest(page_token=token)),
        rig.client.catalog.ListTenants(pb.ListTenantsRequest(page_token="abc")),
    ):
        error = await refusal(call)
        assert (error.reason, error.field) == ("PAGE_TOKEN_INVALID", "page_token")
    error = await refusal(rig.client.catalog.ListTenants(pb.ListTenantsRequest(page_size=-1)))
    assert error.field == "page_size"


async def test_attributes_read_back_as_they_were_defined(rig: Rig) -> None:
    definition = pb.Attribute(
        name="level",
        data_type=value_pb2.DATA_TYPE_DECIMAL,
        unit="kPa",
        min_value="-1.50",
        max_value="1e2",
        hot=True,
    )
    for tenant in rig.client.tenants:
        first = await upsert(rig, tenant, definition)
        assert first.created_count == 1
        (made,) = first.attributes
        assert (made.min_value, made.max_value, made.unit) == ("-1.5", "100", "kPa")
        definition.unit = "hPa"
        changed = await upsert(rig, tenant, definition)
        assert changed.created_count == 0
        assert changed.attributes[0].attribute_id == made.attribute_id
        assert [a for a in await attributes_of(rig, tenant) if a.name == "level"] == list(
            changed.attributes
        )
        definition.unit = "kPa"


@pytest.mark.parametrize(
    ("change", "field"),
    [({"data_type": value_pb2.DATA_TYPE_INT, "hot": True}, "data_type"), ({"hot": False}, "hot")],
)
async def test_type_and_heat_never_change_and_then_nothing_does(
    rig: Rig, change: dict[str, Any], field: str
) -> None:
    conflicting = {"name": "pressure", "data_type": value_pb2.DATA_TYPE_DOUBLE, **change}
    before = await attributes_of(rig, rig.client.acme)
    error = await refusal(
        upsert(
            rig,
            rig.client.acme,
            pb.Attribute(name="brand-new", data_type=value_pb2.DATA_TYPE_INT),
            pb.Attribute(name="name", data_type=value_pb2.DATA_TYPE_TEXT, unit="changed"),
            pb.Attribute(**conflicting),
        )
    )
    assert (error.code, error.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "ATTRIBUTE_CONFLICT",
    )
    assert error.field == f"attributes[2].{field}"
    assert await attributes_of(rig, rig.client.acme) == before
    assert len(await attributes_of(rig, rig.client.globex)) == len(ATTRIBUTES)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (pb.Attribute(data_type=value_pb2.DATA_TYPE_INT), "name"),
        (pb.Attribute(name="x"), "data_type"),
        (
            pb.Attribute(name="x", data_type=value_pb2.DATA_TYPE_TEXT, validation_regex="("),
            "validation_regex",
        ),
        (
            pb.Attribute(name="x", data_type=value_pb2.DATA_TYPE_INT, min_value="2", max_value="1"),
            "min_value",
        ),
        (pb.Attribute(name="good", data_type=value_pb2.DATA_TYPE_INT), "name"),
    ],
)
async def test_a_bad_definition_is_named_and_nothing_is_made(
    rig: Rig, bad: pb.Attribute, field: str
) -> None:
    good = pb.Attribute(name="good", data_type=value_pb2.DATA_TYPE_INT)
    error = await refusal(upsert(rig, rig.client.acme, good, bad))
    assert (error.reason, error.field) == ("INVALID_FIELD", f"attributes[1].{field}")
    assert len(await attributes_of(rig, rig.client.acme)) == len(ATTRIBUTES)


async def test_hot_attributes_that_could_outgrow_the_projection_are_refused(rig: Rig) -> None:
    def hot(count: int, data_type: Any) -> list[pb.Attribute]:
        return [
            pb.Attribute(name=f"{data_type}-{n}", data_type=data_type, hot=True)
            for n in range(count)
        ]

    for tenant in rig.client.tenants:
        error = await refusal(upsert(rig, tenant, *hot(1_000, value_pb2.DATA_TYPE_JSON)))
        assert (error.code, error.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "BATCH_TOO_LARGE",
        )
        assert len(await attributes_of(rig, tenant)) == len(ATTRIBUTES)
        await upsert(rig, tenant, *hot(100, value_pb2.DATA_TYPE_JSON))
        await upsert(rig, tenant, *hot(5_000, value_pb2.DATA_TYPE_DOUBLE))
        error = await refusal(upsert(rig, tenant, *hot(5_000, value_pb2.DATA_TYPE_INT)))
        assert error.reason == "QUOTA_EXCEEDED"  # More than 10,000 in all.


async def test_a_new_rule_holds_for_the_next_write(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        await rig.client.write(tenant, [point("ratio", double_value=5)])
    await upsert(
        rig,
        rig.client.acme,
        pb.Attribute(name="ratio", data_type=value_pb2.DATA_TYPE_DOUBLE, max_value="1"),
    )
    error = await refusal(rig.client.write(rig.client.acme, [point("ratio", double_value=5)]))
    assert error.reason == "VALUE_OUT_OF_RANGE"
    await rig.client.write(rig.client.globex, [point("ratio", double_value=5)])
