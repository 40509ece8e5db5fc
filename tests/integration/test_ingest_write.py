"""Write: what is acknowledged is stored, exactly, for its tenant, and projected."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_devstack.database import Database

from .ingest_rig import Rig, as_tenant, point, refusal, start_rig

_DAY_US = 86_400_000_000


@pytest.fixture
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


# Field of the point, attribute, value sent, text of the value stored.
VALUES: list[tuple[str, str, Any, str]] = [
    ("bool_value", "flag", False, "false"),
    ("bool_value", "flag", True, "true"),
    ("int_value", "count", 0, "0"),
    ("int_value", "count", 2**63 - 1, "9223372036854775807"),
    ("int_value", "count", -(2**63), "-9223372036854775808"),
    ("double_value", "ratio", 0.1, "0.1"),
    ("double_value", "ratio", -0.0, "-0"),
    ("double_value", "ratio", 5e-324, "5e-324"),
    ("double_value", "ratio", 1.7976931348623157e308, "1.7976931348623157e+308"),
    ("double_value", "ratio", float("nan"), "NaN"),
    ("double_value", "ratio", float("-inf"), "-Infinity"),
    ("decimal_value", "price", "0", "0.000000000000000000"),
    ("decimal_value", "price", "-12.50", "-12.500000000000000000"),
    ("decimal_value", "price", "1e19", "10000000000000000000.000000000000000000"),
    ("decimal_value", "price", "9" * 20 + "." + "9" * 18, "9" * 20 + "." + "9" * 18),
    ("decimal_value", "price", "-1e-18", "-0.000000000000000001"),
    ("decimal_value", "price", "10000.0001", "10000.000100000000000000"),
    ("text_value", "name", "", ""),
    ("text_value", "name", 'say "ü"\t\n\x01 \U0001f600', 'say "ü"\t\n\x01 \U0001f600'),
    ("text_value", "name", "x" * 65_536, "x" * 65_536),
    ("time_value", "when", Timestamp(seconds=0, nanos=1_999), "1970-01-01 00:00:00.000001+00"),
    ("time_value", "when", Timestamp(seconds=-62_135_596_800), "0001-01-01 00:00:00+00"),
    (
        "time_value",
        "when",
        Timestamp(seconds=253_402_300_799, nanos=999_999_999),
        "9999-12-31 23:59:59.999999+00",
    ),
    (
        "json_value",
        "doc",
        '{"b": [1, 2.50, null], "a": "\\u00fc"}',
        '{"a": "ü", "b": [1, 2.50, null]}',
    ),
    ("json_value", "doc", '"text"', '"text"'),
    ("json_value", "doc", "null", "null"),
    ("json_value", "doc", "[1e400]", "[1" + "0" * 400 + "]"),
]


async def test_all_types_are_stored_exactly_for_both_tenants(rig: Rig) -> None:
    await rig.admin.execute("SET timezone = 'UTC'")
    start_us = time.time_ns() // 1_000 - 1_000_000
    for tenant, quality in ((rig.client.acme, 0), (rig.client.globex, 255)):
        points = [
            point(attribute, event_time_us=start_us + index, quality=quality, **{field: value})
            for index, (field, attribute, value, _) in enumerate(VALUES)
        ]
        answer = await rig.client.write(tenant, points)
        assert (answer.accepted_count, answer.rejected_count) == (len(VALUES), 0)
    for tenant, quality in ((rig.client.acme, 0), (rig.client.globex, 255)):
        assert await rig.stored(tenant) == [
            ("pump-1", attribute, quality, stored) for _, attribute, _, stored in VALUES
        ]


async def test_ten_thousand_points_in_one_call_keep_their_order(rig: Rig) -> None:
    at_us = time.time_ns() // 1_000
    for tenant, offset in ((rig.client.acme, 0), (rig.client.globex, 0.5)):
        points = [
            point("pressure", f"pump-{n % 500}", event_time_us=at_us, double_value=n % 97 + offset)
            for n in range(9_000)
        ]
        points += [
            point("state", f"pump-{n}", event_time_us=at_us, text_value="running")
            for n in range(1_000)
        ]
        answer = await rig.client.write(tenant, points)
        assert answer.accepted_count == 10_000
    for tenant, offset in ((rig.client.acme, 0), (rig.client.globex, 0.5)):
        rows = await rig.query(
            "SELECT e.key, attrs FROM entity_jsonb JOIN entities AS e USING (tenant_id, entity_id)"
            " JOIN tenants AS t USING (tenant_id) WHERE t.key = %s",
            tenant,
        )
        assert len(rows) == 1_000
        # Of points at one event time the last one sent is the latest.
        for key, attrs in rows:
            number = int(key.removeprefix("pump-"))
            expected: list[object] = ["running"]
            if number < 500:
                expected.append((8_500 + number) % 97 + offset)
            assert sorted(map(str, attrs.values())) == sorted(
                str(int(v) if isinstance(v, float) and v.is_integer() else v) for v in expected
            )


@pytest.mark.parametrize("ack", [pb.ACK_LEVEL_UNSPECIFIED, pb.ACK_LEVEL_COMMITTED])
async def test_an_acknowledged_write_is_reached_by_its_token(
    rig: Rig, ack: pb.AckLevel, database: Database
) -> None:
    tokens = {}
    for tenant in rig.client.tenants:
        answer = await rig.client.write(tenant, [point()], ack=ack)
        assert answer.ack == (ack or pb.ACK_LEVEL_DURABLE)
        tokens[tenant] = answer.token
    for tenant, token in tokens.items():
        ((tenant_id,),) = await rig.query("SELECT tenant_id FROM tenants WHERE key = %s", tenant)
        (position,) = rig.signer.open(token, tenant_id)
        reached = await rig.query(
            "SELECT position_state(%s::smallint, %s, %s)",
            position.lane,
            position.epoch,
            position.sequence,
        )
        assert reached == [("reached",)]
        assert await rig.count(tenant) == 1


async def test_defaults_of_the_request_fill_the_points(rig: Rig) -> None:
    at_us = time.time_ns() // 1_000 - _DAY_US
    for tenant in rig.client.tenants:
        await rig.client.write(
            tenant,
            [point(key=""), point(key="own")],
            default_entity_key="shared",
            default_event_time_us=at_us,
        )
    for tenant in rig.client.tenants:
        assert [row[0] for row in await rig.stored(tenant)] == ["own", "shared"]
        rows = await rig.query(
            "SELECT DISTINCT (extract(epoch FROM event_time) * 1000000)::bigint"
            " FROM entity_values_ts JOIN tenants AS t USING (tenant_id) WHERE t.key = %s",
            tenant,
        )
        assert rows == [(at_us,)]


async def test_validate_only_stores_nothing_at_all(rig: Rig) -> None:
    answer = await rig.client.write(
        rig.client.acme,
        [point(), point("nope")],
        validate_only=True,
        partial_success=True,
        request_id="v1",
    )
    assert (answer.accepted_count, answer.rejected_count, answer.token) == (1, 1, b"")
    error = await refusal(rig.client.write(rig.client.acme, [point("nope")], validate_only=True))
    assert error.reason == "ATTRIBUTE_UNKNOWN"
    assert await rig.count(rig.client.acme) == 0
    made = await rig.query(
        "SELECT count(*) FROM entities JOIN tenants AS t USING (tenant_id) WHERE t.key = %s",
        rig.client.acme,
    )
    assert made == [(0,)]
    # And the request_id is still free.
    assert not (await rig.client.write(rig.client.acme, [point()], request_id="v1")).duplicate


async def test_a_registering_tenant_gets_unknown_attributes_cold_and_typed(rig: Rig) -> None:
    key = f"{rig.client.acme}-open"
    await rig.client.catalog.CreateTenant(
        catalog_pb.CreateTenantRequest(
            key=key, unknown_attribute_policy=catalog_pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER
        )
    )
    answer = await rig.client.write(
        key,
        [
            point("new", int_value=1),
            point("new", text_value="x"),
            point("other", json_value="{}"),
            point("bad\n"),
            point("unused", "bad\nkey"),
        ],
        partial_success=True,
    )
    assert answer.accepted_count == 2
    assert [(error.index, error.field) for error in answer.errors] == [
        (1, "text_value"),
        (3, "attribute"),
        (4, "entity_key"),
    ]
    listed = await rig.client.catalog.ListAttributes(
        catalog_pb.ListAttributesRequest(), metadata=as_tenant(key)
    )
    assert {(a.name, a.data_type, a.hot) for a in listed.attributes} == {
        ("new", 2, False),
        ("other", 7, False),
    }
    # A refused batch registers nothing.
    error = await refusal(rig.client.write(key, [point("third"), point("new")]))
    assert error.reason == "TYPE_MISMATCH"
    listed = await rig.client.catalog.ListAttributes(
        catalog_pb.ListAttributesRequest(), metadata=as_tenant(key)
    )
    assert len(listed.attributes) == 2


async def test_concurrent_calls_with_the_same_new_keys_make_each_once(rig: Rig) -> None:
    keys = [f"e-{n}" for n in range(300)]
    await asyncio.gather(
        *(
            rig.client.write(tenant, [point(key=key) for key in (keys, keys[::-1])[n % 2]])
            for tenant in rig.client.tenants
            for n in range(6)
        )
    )
    for tenant in rig.client.tenants:
        made = await rig.query(
            "SELECT count(*), count(DISTINCT e.key) FROM entities AS e"
            " JOIN tenants AS t USING (tenant_id) WHERE t.key = %s",
            tenant,
        )
        assert made == [(300, 300)]
        rows = await rig.stored(tenant)
        assert len(rows) == 1_800
        assert {row[0] for row in rows} == set(keys)


async def test_the_flush_is_the_only_way_to_telemetry(database: Database) -> None:
    with (
        psycopg.connect(database.dsn("atlas_ingest"), autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("INSERT INTO entity_values_ts (tenant_id) VALUES (1)")


async def test_staging_status_tells_of_this_process_and_its_lane(rig: Rig) -> None:
    before = await rig.client.ingest.GetStagingStatus(pb.GetStagingStatusRequest())
    await rig.client.write(rig.client.acme, [point(), point("nope")], partial_success=True)
    await rig.client.write(rig.client.globex, [point()])
    after = await rig.client.ingest.GetStagingStatus(pb.GetStagingStatusRequest())
    assert after.flushed_points_total - before.flushed_points_total == 2
    assert after.rejected_points_total - before.rejected_points_total == 1
    assert (after.pending_points, after.pending_points_max) == (0, 600_000)
    (ours,) = [lane for lane in after.lanes if lane.owned]
    assert (ours.epoch, ours.sequence) == await rig.position()
    assert ours.staged_points == 0
    assert ours.reason == ""
