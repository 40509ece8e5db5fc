"""The catalog under numbers: many new keys at once, 10,000 attributes, costly patterns."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from pydantic import SecretStr

from atlas.catalog.v1 import catalog_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_common.config import DatabaseConfig, QuotaConfig
from atlas_common.db import Database
from atlas_common.metering import QuotaMeters
from atlas_common.tenant import Tenant
from atlas_common.values import DataType
from atlas_devstack.database import Database as Devstack
from atlas_ingest.catalog.resolver import Resolver
from atlas_ingest.matching import INLINE_STEPS_MAX
from atlas_ingest.rules import regex_of
from atlas_ingest.store import EntityColumns, Store

from .ingest_rig import Rig, as_tenant, client_on, ingest_process, point, refusal, start_rig
from .waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
REGISTER = pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER
ATTRIBUTES_MAX = 10_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(database: Devstack) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: Rig) -> Rig:
    """With two tenants of this test alone."""
    suffix = secrets.token_hex(4)
    client = replace(shared.client, acme=f"acme-{suffix}", globex=f"globex-{suffix}")
    await client.set_up()
    return replace(shared, client=client)


async def tenant_of(rig: Rig, key: str) -> Tenant:
    ((tenant_id,),) = await rig.query("SELECT tenant_id FROM tenants WHERE key = %s", key)
    return Tenant(tenant_id, key)


async def entities_of(rig: Rig, key: str) -> dict[str, int]:
    rows = await rig.query(
        "SELECT e.key, entity_id FROM entities AS e JOIN tenants AS t USING (tenant_id)"
        " WHERE t.key = %s",
        key,
    )
    return dict(rows)


def meters(**quotas: int) -> QuotaMeters:
    return QuotaMeters(QuotaConfig(**quotas))


class CountingStore(Store):
    """The real one; takes note of its questions, and holds the first until it is let go."""

    def __init__(self, primary: Database) -> None:
        super().__init__(primary)
        self.made: list[int] = []
        self.registered: list[int] = []
        self.release = asyncio.Event()

    async def create_entities(self, tenant: Tenant, keys: Any, entities_max: int) -> EntityColumns:
        self.made.append(len(keys))
        await self.release.wait()
        return await super().create_entities(tenant, keys, entities_max)

    async def register_attributes(
        self, tenant: Tenant, types: Any, attributes_max: int
    ) -> list[Any]:
        self.registered.append(len(types))
        await self.release.wait()
        return await super().register_attributes(tenant, types, attributes_max)


@pytest_asyncio.fixture(loop_scope="module")
async def counted(database: Devstack) -> AsyncIterator[tuple[CountingStore, Resolver]]:
    config = DatabaseConfig(dsn=SecretStr(database.dsn("atlas_ingest")), pool_size_max=4)
    async with Database.open(config, name="primary") as primary:
        store = CountingStore(primary)
        yield store, Resolver(primary, store, meters=meters(attributes=ATTRIBUTES_MAX))


async def test_a_thousand_calls_with_new_keys_are_a_few_statements(
    rig: Rig, counted: tuple[CountingStore, Resolver]
) -> None:
    store, resolver = counted
    acme, globex = [await tenant_of(rig, key) for key in rig.client.tenants]
    calls = [
        asyncio.ensure_future(resolver.entity_ids(tenant, {f"e-{n}", f"e-{n + 1}"}))
        for n in range(500)
        for tenant in (acme, globex)
    ]
    await eventually(lambda: len(store.made) == 2)
    store.release.set()
    answers = await asyncio.gather(*calls)
    made = {key: await entities_of(rig, key) for key in rig.client.tenants}
    assert [len(ids) for ids in made.values()] == [501, 501]
    for n, answer in enumerate(answers):
        ids = made[rig.client.tenants[n % 2]]
        assert answer == {key: ids[key] for key in (f"e-{n // 2}", f"e-{n // 2 + 1}")}
    # The first ones' keys each, then all the others' together.
    assert len(store.made) <= 4
    # What is known costs no statement.
    questions = len(store.made)
    await resolver.entity_ids(acme, {f"e-{n}" for n in range(501)})
    assert len(store.made) == questions


async def test_new_attributes_of_concurrent_calls_are_made_together(
    rig: Rig, counted: tuple[CountingStore, Resolver]
) -> None:
    store, resolver = counted
    acme, globex = [await tenant_of(rig, key) for key in rig.client.tenants]
    types = {f"new-{n}": DataType.INT for n in range(50)}
    disputed = "new-0"
    calls = [
        asyncio.ensure_future(resolver.register(tenant, {name: type_}))
        for name, type_ in types.items()
        for tenant in (acme, globex)
    ]
    conflicting = asyncio.ensure_future(resolver.register(acme, {disputed: DataType.TEXT}))
    await eventually(lambda: len(store.registered) == 2)
    store.release.set()
    for made in await asyncio.gather(*calls):
        ((name, definition),) = made.items()
        assert definition.name == name
        assert definition.data_type is DataType.INT or name == disputed
    assert len(store.registered) <= 4
    # Whoever asked for another type is told which one it is.
    ((stored_type,),) = await rig.query(
        "SELECT data_type FROM attributes WHERE tenant_id = %s AND name = %s", acme.id, disputed
    )
    assert (await conflicting)[disputed].data_type == stored_type
    rules = await resolver.rules(acme, set(types))
    assert {name: rule.data_type for name, rule in rules.items()} == {
        **types,
        disputed: DataType(stored_type),
    }


async def test_what_is_forgotten_is_not_joined_by_later_calls(
    rig: Rig, counted: tuple[CountingStore, Resolver]
) -> None:
    store, resolver = counted
    acme = await tenant_of(rig, rig.client.acme)
    early = asyncio.ensure_future(resolver.entity_ids(acme, {"a"}))
    await eventually(lambda: store.made)
    resolver.forget_all()  # Whatever that question brings may be lost.
    late = asyncio.ensure_future(resolver.entity_ids(acme, {"a"}))
    await eventually(lambda: len(store.made) == 2)
    store.release.set()
    assert await early == await late
    assert store.made == [1, 1]


async def test_the_bound_on_remembered_keys_costs_look_ups_and_no_answers(
    rig: Rig, database: Devstack
) -> None:
    config = DatabaseConfig(dsn=SecretStr(database.dsn("atlas_ingest")), pool_size_max=4)
    async with Database.open(config, name="primary") as primary:
        store = CountingStore(primary)
        store.release.set()
        resolver = Resolver(
            primary, store, meters=meters(attributes=ATTRIBUTES_MAX), entities_bytes_max=100_000
        )
        tenants = [await tenant_of(rig, key) for key in rig.client.tenants]
        keys = [f"pump-{n}" for n in range(3_000)]
        first = {tenant.key: await resolver.entity_ids(tenant, keys) for tenant in tenants}
        questions = len(store.made)
        for tenant in tenants:
            assert await resolver.entity_ids(tenant, keys) == first[tenant.key]
            assert await entities_of(rig, tenant.key) == first[tenant.key]
        assert len(store.made) > questions  # They had been forgotten.


async def test_two_processes_make_the_same_new_keys_without_a_deadlock(
    rig: Rig, database: Devstack, tmp_path: Path
) -> None:
    before = await rig.query(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    keys = [f"e-{n}" for n in range(2_000)]
    async with (
        ingest_process(database, tmp_path) as process,
        grpc.aio.insecure_channel(process.target) as channel,
    ):
        other = replace(client_on(channel), acme=rig.client.acme, globex=rig.client.globex)

        async def create(client: Any, tenant: str, some: list[str]) -> int:
            request = pb.BatchCreateEntitiesRequest(keys=some)
            answer = await client.catalog.BatchCreateEntities(request, metadata=as_tenant(tenant))
            assert [entity.key for entity in answer.entities] == some
            return int(answer.created_count)

        calls = []
        for n in range(8):
            some = keys[n * 200 :] + keys[: n * 200]
            for tenant in rig.client.tenants:
                for client in (rig.client, other):
                    calls.append(create(client, tenant, some[:: 1 if n % 2 else -1]))
                    writes = [point(key=key) for key in some[::7]]
                    calls.append(client.write(tenant, writes))  # type: ignore[arg-type]
        outcomes = await asyncio.gather(*calls)
    created = sum(outcome for outcome in outcomes if isinstance(outcome, int))
    assert 0 < created <= 2 * len(keys)
    for tenant in rig.client.tenants:
        assert sorted(await entities_of(rig, tenant)) == sorted(keys)
    after = await rig.query(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    assert after == before


async def test_ten_thousand_attributes_of_one_entity_work_end_to_end(rig: Rig) -> None:
    keys = [f"{tenant}-wide" for tenant in rig.client.tenants]
    for key in keys:
        await rig.client.catalog.CreateTenant(
            pb.CreateTenantRequest(key=key, unknown_attribute_policy=REGISTER)
        )
    hot = [
        pb.Attribute(name=f"a-{n:05}", data_type=value_pb2.DATA_TYPE_DOUBLE, hot=True)
        for n in range(2_000)
    ]
    await rig.client.catalog.BatchUpsertAttributes(
        pb.BatchUpsertAttributesRequest(attributes=hot), metadata=as_tenant(keys[0])
    )
    for round_ in range(2):  # The second time all of them are known.
        points = [
            point(f"a-{n:05}", "wide", double_value=n + round_) for n in range(ATTRIBUTES_MAX)
        ]
        for key in keys:
            assert (await rig.client.write(key, points)).accepted_count == ATTRIBUTES_MAX
    for key in keys:
        rows = await rig.query(
            "SELECT count(*), count(DISTINCT v.attribute_id), count(DISTINCT v.entity_id),"
            " sum(v.value_double) FROM entity_values_ts AS v JOIN tenants AS t USING (tenant_id)"
            " WHERE t.key = %s",
            key,
        )
        total = 2 * sum(range(ATTRIBUTES_MAX)) + ATTRIBUTES_MAX
        assert rows == [(2 * ATTRIBUTES_MAX, ATTRIBUTES_MAX, 1, total)]
    ((attrs,),) = await rig.query(
        "SELECT attrs FROM entity_jsonb JOIN tenants AS t USING (tenant_id) WHERE t.key = %s",
        keys[0],
    )
    assert sorted(attrs.values()) == [n + 1 for n in range(2_000)]
    # One more is one too many, for points as for definitions.
    answer = await rig.client.write(
        keys[0], [point("one-more", "wide"), point("a-00000", "wide")], partial_success=True
    )
    assert (answer.accepted_count, answer.rejected_count) == (1, 1)
    assert "not in the catalog" in answer.errors[0].message
    listed = await rig.client.catalog.ListAttributes(
        pb.ListAttributesRequest(page_size=ATTRIBUTES_MAX), metadata=as_tenant(keys[0])
    )
    assert len(listed.attributes) == ATTRIBUTES_MAX
    assert listed.next_page_token == ""


async def test_calls_in_competition_never_register_more_than_fits(
    rig: Rig, database: Devstack
) -> None:
    config = DatabaseConfig(dsn=SecretStr(database.dsn("atlas_ingest")), pool_size_max=8)
    async with Database.open(config, name="primary") as primary:
        tenant = await tenant_of(rig, rig.client.acme)
        before = await rig.query("SELECT count(*) FROM attributes WHERE tenant_id = %s", tenant.id)
        room = 20
        made = await asyncio.gather(
            *(
                Resolver(
                    primary, Store(primary), meters=meters(attributes=before[0][0] + room)
                ).register(tenant, {f"new-{n}-{m}": DataType.INT for m in range(15)})
                for n in range(6)
            )
        )
        after = await rig.query("SELECT count(*) FROM attributes WHERE tenant_id = %s", tenant.id)
        assert after[0][0] - before[0][0] == room == sum(map(len, made))


async def test_definitions_too_long_to_be_held_are_refused(rig: Rig) -> None:
    value = "x" * 60_000

    async def upsert(name: str, count: int) -> None:
        attribute = pb.Attribute(
            name=name,
            data_type=value_pb2.DATA_TYPE_TEXT,
            allowed_values=[f"{n}{value}" for n in range(count)],
        )
        await rig.client.catalog.BatchUpsertAttributes(
            pb.BatchUpsertAttributesRequest(attributes=[attribute]),
            metadata=as_tenant(rig.client.acme),
        )

    await upsert("first", 200)
    error = await refusal(upsert("second", 200))
    assert (error.code, error.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "BATCH_TOO_LARGE",
    )
    assert "allowed_values" in error.message
    await upsert("first", 1)  # Made shorter, there is room.
    await upsert("second", 200)


async def test_a_pattern_that_backtracking_would_die_of_slows_nobody(rig: Rig) -> None:
    pattern, text = "(a+)+$", "a" * 50_000 + "b"
    costly = f"(.*a.{{{200}}})"
    for tenant in rig.client.tenants:
        await rig.client.catalog.BatchUpsertAttributes(
            pb.BatchUpsertAttributesRequest(
                attributes=[
                    pb.Attribute(
                        name=name, data_type=value_pb2.DATA_TYPE_TEXT, validation_regex=expression
                    )
                    for name, expression in (("evil", pattern), ("costly", costly))
                ]
            ),
            metadata=as_tenant(tenant),
        )
    acme, globex = rig.client.tenants
    evil = [point("evil", text_value=text) for _ in range(40)]
    heavy = [point("costly", text_value="b" * 50_000) for _ in range(10)]
    # The second would take long: it must be one of those that are matched beside the loop.
    assert regex_of(costly).programsize * 10 * 50_000 > INLINE_STEPS_MAX
    hostile = [
        asyncio.ensure_future(rig.client.write(acme, batch, partial_success=True, timeout=60))
        for batch in (evil, heavy, evil, heavy)
    ]
    # Others' writes begun after it need not wait for its end.
    for _ in range(5):
        assert (await rig.client.write(globex, [point()])).accepted_count == 1
    for answer in await asyncio.gather(*hostile):
        assert answer.accepted_count == 0
        assert answer.errors[0].message.endswith("as a whole")
    good = [point("evil", text_value="a" * 50_000), point("costly", text_value="a" + "b" * 200)]
    for tenant in rig.client.tenants:
        assert (await rig.client.write(tenant, good)).accepted_count == 2
    # Beyond its share of work a batch is refused as a whole, and told how to go on.
    endless = [point("costly", text_value="b" * 65_000) for _ in range(40)]
    error = await refusal(rig.client.write(acme, endless))
    assert (error.reason, error.field) == ("BATCH_TOO_LARGE", "points")
    assert "split it" in error.message
