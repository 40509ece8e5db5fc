"""GetEntities reads through the cache: per tenant, in the order asked, all types."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from psycopg.types.json import Jsonb

from atlas.hotcache.v1 import hotcache_service_pb2 as pb
from atlas.type.v1 import consistency_pb2
from atlas_common import errors
from atlas_devstack.database import Database

from .hotcache_rig import ACME, GLOBEX, STATE, T0, Rig, pressure, start_rig
from .lane_writer import RawPoint
from .waiting import eventually

HOT_VALUES: dict[str, tuple[str, Any, str, Any]] = {
    "flag": ("bool", False, "bool_value", False),
    "count": ("int", 2**63 - 1, "int_value", 2**63 - 1),
    "ratio": ("double", float("-inf"), "double_value", float("-inf")),
    "price": ("decimal", Decimal("12345678901234567890.5"), "decimal_value", None),
    "name": ("text", 'say "ü"', "text_value", 'say "ü"'),
    "when": ("time", T0 + timedelta(microseconds=1), "time_value", None),
    "object": ("json", Jsonb({"b": [1, None]}), "json_value", '{"b": [1, null]}'),
    "string": ("json", Jsonb("text"), "json_value", '"text"'),
    "nothing": ("json", Jsonb(None), "json_value", "null"),
}


@pytest.fixture
async def rig(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with start_rig(fresh_database, tmp_path) as rig:
        yield rig


async def refusal(call: Any) -> errors.ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return errors.from_rpc_error(caught.value)


async def test_a_miss_is_read_from_the_primary_and_the_next_call_hits(rig: Rig) -> None:
    await rig.write_through(rig.lane(), 1.5, [1, 2])
    first = await rig.get(ACME, [1, 2])
    assert (first.hit_count, first.miss_count, first.bypass_reason) == (0, 2, "")
    assert [entity.source for entity in first.entities] == [consistency_pb2.SOURCE_PRIMARY] * 2
    assert first.lag.ToNanoseconds() == 0
    second = await rig.get(ACME, [1, 2])
    assert (second.hit_count, second.miss_count, second.bypass_reason) == (2, 0, "")
    assert [entity.source for entity in second.entities] == [consistency_pb2.SOURCE_CACHE] * 2
    assert [pressure(second, at) for at in (0, 1)] == [1.5, 1.5]
    assert second.entities[0].version == first.entities[0].version > 0
    assert second.lag.ToNanoseconds() > 0
    assert second.as_of.ToNanoseconds() < first.as_of.ToNanoseconds()
    assert rig.store.read_count == 1
    assert pressure(await rig.get(GLOBEX, [2])) == -1.5


async def test_another_tenants_entities_of_the_same_id_are_never_seen(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.5)
    for _ in range(2):  # From the primary, then from the cache.
        assert pressure(await rig.get(ACME)) == 1.5
        assert pressure(await rig.get(GLOBEX)) == -1.5
    # A change of one tenant's entity does not touch the other's.
    lane.stage([RawPoint(1, 1, STATE, T0, "running", column="value_text")])
    await rig.invalidate(lane, lane.flush())
    assert (await rig.get(ACME)).miss_count == 1
    assert (await rig.get(GLOBEX)).hit_count == 1


async def test_answers_are_in_the_order_asked_with_repetitions(rig: Rig) -> None:
    await rig.write_through(rig.lane(), 1.5, [1, 3])
    await rig.get(ACME, [3])
    response = await rig.get(ACME, [3, 1, 99, 3])
    assert [entity.entity_id for entity in response.entities] == [3, 1, 99, 3]
    assert [entity.version > 0 for entity in response.entities] == [True, True, False, True]
    assert (response.hit_count, response.miss_count) == (1, 2)
    assert list((await rig.get(GLOBEX, [])).entities) == []


async def test_an_entity_without_hot_values_is_known_to_be_empty_until_it_changes(rig: Rig) -> None:
    lane = rig.lane()
    for expected_hits in (0, 1):
        response = await rig.get(ACME, [2])
        assert (response.hit_count, response.entities[0].version) == (expected_hits, 0)
        assert pressure(response) is None
    await rig.write_through(lane, 4.0, [2])
    assert pressure(await rig.get(ACME, [2])) == 4.0
    assert pressure(await rig.get(GLOBEX, [2])) == -4.0


async def test_values_of_every_type_survive_the_cache(rig: Rig) -> None:
    lane = rig.lane()
    points = []
    for number, (name, (data_type, value, _, _)) in enumerate(HOT_VALUES.items(), start=10):
        rig.admin.execute(
            "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, is_hot)"
            " VALUES (1, %(n)s, %(name)s, %(type)s, true), (2, %(n)s, %(name)s, 'text', true)",
            {"n": number, "name": name, "type": data_type},
        )
        points.append(RawPoint(1, 1, number, T0, value, column=f"value_{data_type}"))
        points.append(RawPoint(2, 1, number, T0, "globex", column="value_text"))
    await rig.invalidate(lane, lane.write(points))
    for hits in (0, 1):
        response = await rig.get(ACME)
        assert response.hit_count == hits
        values = {value.attribute: value for value in response.entities[0].values}
        assert set(values) == set(HOT_VALUES)
        for name, (_, _, field, expected) in HOT_VALUES.items():
            assert values[name].value.WhichOneof("kind") == field
            assert expected is None or getattr(values[name].value, field) == expected
            assert values[name].event_time_us == T0.timestamp() * 1e6
        assert values["price"].value.decimal_value == "12345678901234567890.5"
        assert values["when"].value.time_value.ToMicroseconds() == T0.timestamp() * 1e6 + 1
        others = (await rig.get(GLOBEX)).entities[0].values
        assert {value.value.text_value for value in others} == {"globex"}


async def test_only_the_attributes_asked_for_are_answered(rig: Rig) -> None:
    lane = rig.lane()
    lane.stage([RawPoint(1, 1, STATE, T0, "running", column="value_text")])
    await rig.write_through(lane, 1.5)
    for _ in range(2):
        response = await rig.get(ACME, attributes=["state"])
        assert [value.attribute for value in response.entities[0].values] == ["state"]
    response = await rig.get(ACME)  # The entry holds all, whatever was asked first.
    assert {value.attribute for value in response.entities[0].values} == {"pressure", "state"}
    assert list((await rig.get(GLOBEX, attributes=["state"])).entities[0].values) == []


async def test_an_attribute_that_is_hot_no_more_is_not_answered(rig: Rig) -> None:
    await rig.write_through(rig.lane(), 1.5)
    rig.admin.execute(
        "UPDATE attributes SET is_hot = false WHERE (tenant_id, name) = (1, 'pressure')"
    )
    assert pressure(await rig.get(ACME)) is None
    refused = await refusal(rig.get(ACME, attributes=["pressure"]))
    assert (refused.code.name, refused.reason) == ("FAILED_PRECONDITION", "ATTRIBUTE_NOT_HOT")
    assert pressure(await rig.get(GLOBEX)) == -1.5


async def test_bad_requests_name_their_field(rig: Rig) -> None:
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        ({"entity_ids": range(1001)}, "BATCH_TOO_LARGE", "entity_ids"),
        ({"attributes": ["no-such"]}, "ATTRIBUTE_UNKNOWN", "attributes"),
        ({"staleness": -1}, "INVALID_FIELD", "max_staleness"),
        ({"token": b"abc"}, "TOKEN_MALFORMED", "token"),
    ]
    for fields, reason, field in cases:
        refused = await refusal(rig.get(ACME, **fields))
        assert (refused.reason, refused.field) == (reason, field)
    refused = await refusal(rig.stub.GetEntities(pb.GetEntitiesRequest(entity_ids=[1])))
    assert refused.reason == "TENANT_MISSING"
    broken = pb.InvalidateEntitiesRequest(lane=0, epoch=1, sequence=1)
    broken.changes.add(tenant_id=1, entity_ids=[1], versions=[])
    assert (await refusal(rig.stub.InvalidateEntities(broken))).field == "changes.versions"
    lane_less = pb.InvalidateEntitiesRequest(lane=-1, epoch=1, sequence=1)
    assert (await refusal(rig.stub.InvalidateEntities(lane_less))).field == "lane"


async def test_a_slow_look_up_keeps_nobody_from_joining_a_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read under way knows the catalog just as well, however long the cache took to answer."""
    await rig.write_through(rig.lane(), 1.5)
    await rig.get(ACME, [9])  # The catalog is read just before the read that is to be joined.
    reads = rig.store.read_count
    arrived, go = asyncio.Event(), asyncio.Event()
    look_up = rig.cache.lookup

    async def hold() -> None:
        arrived.set()
        await go.wait()

    async def slow(*arguments: Any) -> Any:
        found = await look_up(*arguments)
        rig.clock.offset += 1.0
        return found

    rig.store.after_read = hold
    first = asyncio.create_task(rig.get(ACME, staleness=60))
    await arrived.wait()
    monkeypatch.setattr(rig.cache, "lookup", slow)
    second = asyncio.create_task(rig.get(ACME, staleness=60))
    await eventually(lambda: rig.flights.waiter_count((1, 1)) == 2)
    go.set()
    assert [pressure(answer) for answer in await asyncio.gather(first, second)] == [1.5, 1.5]
    assert rig.store.read_count == reads + 1


async def test_concurrent_misses_of_an_entity_are_one_read(rig: Rig) -> None:
    await rig.write_through(rig.lane(), 1.5)
    await rig.get(ACME, [9])  # The catalog is known from here on.
    reads = rig.store.read_count
    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await go.wait()

    rig.store.after_read = hold
    first = asyncio.create_task(rig.get(ACME))
    await arrived.wait()
    others = [asyncio.create_task(rig.get(ACME)) for _ in range(20)]
    other_tenant = asyncio.create_task(rig.get(GLOBEX))
    await eventually(lambda: rig.flights.waiter_count((1, 1)) == 21)
    go.set()
    answers = await asyncio.gather(first, *others)
    assert {pressure(answer) for answer in answers} == {1.5}
    assert pressure(await other_tenant) == -1.5
    assert rig.store.read_count == reads + 2


async def test_a_look_up_is_one_script_with_one_mget_however_many_are_asked(rig: Rig) -> None:
    ids = list(range(1, 1001))
    await rig.write_through(rig.lane(), 1.5, ids)
    await rig.settle()
    await rig.get(ACME, ids)
    before = calls(rig)
    response = await rig.get(ACME, ids, staleness=60)
    assert response.hit_count == 1000
    assert pressure(await rig.get(GLOBEX, [1000], staleness=60)) == -1.5  # Look-up and fill.
    assert calls(rig) - before == Counter(evalsha=3, mget=2)


def calls(rig: Rig) -> "Counter[str]":
    """How often Valkey was called with scripts, and within them with MGET and GET."""
    with rig.direct as direct:
        stats = direct.info("commandstats")
    names = ("evalsha", "mget", "get")
    return Counter({name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names})
