"""Bad input, one by one: a clear status, and the rest of a partial_success batch is stored."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import error_pb2, value_pb2
from atlas_common.values import DataType
from atlas_devstack.database import Database
from atlas_ingest import encode

from .ingest_rig import Rig, as_tenant, point, refusal, start_rig

YEAR_US = 365 * 86_400_000_000
NAN = float("nan")
NEXT_YEAR_US = time.time_ns() // 1_000 + YEAR_US
YEAR_10000 = Timestamp(seconds=253_402_300_800)
DEEP = "[" * 9_999 + "]" * 9_999


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


pytestmark = pytest.mark.asyncio(loop_scope="module")

BAD: list[tuple[str, value_pb2.Point, str, str]] = [
    ("key missing", point(key=""), "ENTITY_KEY_INVALID", "entity_key"),
    ("key too long", point(key="x" * 257), "ENTITY_KEY_INVALID", "entity_key"),
    ("key with NUL", point(key="a\0b"), "ENTITY_KEY_INVALID", "entity_key"),
    ("attribute missing", point(""), "INVALID_FIELD", "attribute"),
    ("attribute too long", point("x" * 129), "INVALID_FIELD", "attribute"),
    ("attribute unknown", point("temprature"), "ATTRIBUTE_UNKNOWN", "attribute"),
    ("no value", value_pb2.Point(entity_key="e", attribute="ratio"), "VALUE_MISSING", "value"),
    ("wrong type", point("count", text_value="12"), "TYPE_MISMATCH", "text_value"),
    ("above max", point("pressure", double_value=101), "VALUE_OUT_OF_RANGE", "double_value"),
    ("NaN in a range", point("pressure", double_value=NAN), "VALUE_OUT_OF_RANGE", "double_value"),
    ("not allowed", point("state", text_value="runing"), "VALUE_NOT_ALLOWED", "text_value"),
    ("regex", point("serial", text_value="x"), "REGEX_MISMATCH", "text_value"),
    ("NaN in a decimal", point("price", decimal_value="NaN"), "VALUE_NOT_FINITE", "decimal_value"),
    ("no decimal", point("price", decimal_value="12,5"), "DECIMAL_INVALID", "decimal_value"),
    ("huge decimal", point("price", decimal_value="1e999999"), "DECIMAL_INVALID", "decimal_value"),
    ("long decimal", point("price", decimal_value="0" * 65), "DECIMAL_INVALID", "decimal_value"),
    ("NUL in text", point("name", text_value="a\0b"), "TEXT_HAS_NUL", "text_value"),
    ("text too long", point("name", text_value="x" * 65_537), "VALUE_OUT_OF_RANGE", "text_value"),
    ("no json", point("doc", json_value="{"), "JSON_INVALID", "json_value"),
    ("NUL in json", point("doc", json_value='["\\u0000"]'), "TEXT_HAS_NUL", "json_value"),
    ("NaN in json", point("doc", json_value="NaN"), "VALUE_NOT_FINITE", "json_value"),
    (
        "huge number in json",
        point("doc", json_value="1e400000"),
        "VALUE_OUT_OF_RANGE",
        "json_value",
    ),
    ("half a pair in json", point("doc", json_value='"\\ud800"'), "JSON_INVALID", "json_value"),
    ("deep json", point("doc", json_value=DEEP), "JSON_INVALID", "json_value"),
    ("bad nanos", point("when", time_value=Timestamp(nanos=-1)), "INVALID_FIELD", "time_value"),
    ("year 10000", point("when", time_value=YEAR_10000), "VALUE_OUT_OF_RANGE", "time_value"),
    ("future", point(event_time_us=NEXT_YEAR_US), "EVENT_TIME_OUT_OF_WINDOW", "event_time_us"),
    ("past", point(event_time_us=-(2**63)), "EVENT_TIME_OUT_OF_WINDOW", "event_time_us"),
    ("quality", point(quality=256), "INVALID_FIELD", "quality"),
]
CASES = [pytest.param(bad, reason, field, id=name) for name, bad, reason, field in BAD]


@pytest.mark.parametrize(("bad", "reason", "field"), CASES)
async def test_the_rest_of_a_partial_batch_is_stored(
    rig: Rig, bad: value_pb2.Point, reason: str, field: str
) -> None:
    key = f"{reason}-{field}-{time.monotonic_ns()}"
    for tenant in rig.client.tenants:
        answer = await rig.client.write(
            tenant, [point(key=key), bad, point("count", key, int_value=2)], partial_success=True
        )
        assert (answer.accepted_count, answer.rejected_count) == (2, 1)
        (error,) = answer.errors
        assert error.index == 1
        assert error_pb2.ErrorReason.Name(error.reason) == f"ERROR_REASON_{reason}"
        assert error.field == field
        assert 10 < len(error.message) < 300
    for tenant in rig.client.tenants:
        rows = [row for row in await rig.stored(tenant) if row[0] == key]
        assert sorted(rows, key=str) == [(key, "count", 0, "2"), (key, "ratio", 0, "1.5")]


@pytest.mark.parametrize(("bad", "reason", "field"), CASES)
async def test_one_bad_point_refuses_a_whole_batch(
    rig: Rig, bad: value_pb2.Point, reason: str, field: str
) -> None:
    before = await rig.count(rig.client.acme)
    error = await refusal(rig.client.write(rig.client.acme, [point(), bad]))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert error.field == f"points[1].{field}"
    assert error.metadata["index"] == "1"
    assert error.metadata["rejected_count"] == "1"
    assert await rig.count(rig.client.acme) == before


async def test_all_violations_are_in_the_status_as_far_as_they_fit(rig: Rig) -> None:
    points = [point("nope"), point(), *[point("count")] * 500]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rig.client.write(rig.client.acme, points)
    trailers = dict(failed.value.trailing_metadata() or ())
    packed = trailers["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    bad_request = error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(packed).details:
        detail.Unpack(bad_request)
    fields = [violation.field for violation in bad_request.field_violations]
    assert fields[:2] == ["points[0].attribute", "points[2].double_value"]
    assert len(fields) > 10


def request(**fields: Any) -> pb.WriteRequest:
    return pb.WriteRequest(**{"points": [point()], **fields})


@pytest.mark.parametrize(
    ("bad", "reason", "field"),
    [
        (request(points=[point()] * 10_001), "BATCH_TOO_LARGE", "points"),
        (request(points=[]), "INVALID_FIELD", "points"),
        (request(request_id="x" * 65), "INVALID_FIELD", "request_id"),
        (request(request_id="a\0"), "INVALID_FIELD", "request_id"),
        (request(default_entity_key="x" * 257), "ENTITY_KEY_INVALID", "default_entity_key"),
        (request(ack=99), "INVALID_FIELD", "ack"),
    ],
)
async def test_a_bad_call_is_refused(
    rig: Rig, bad: pb.WriteRequest, reason: str, field: str
) -> None:
    error = await refusal(rig.client.ingest.Write(bad, metadata=as_tenant(rig.client.acme)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert error.field == field


async def test_unknown_and_missing_tenants(rig: Rig) -> None:
    error = await refusal(rig.client.write("no-such", [point()]))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "TENANT_UNKNOWN")
    error = await refusal(rig.client.ingest.Write(request()))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TENANT_MISSING")
    error = await refusal(rig.client.write("No Key!", [point()]))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_deadline_too_short_to_work_with(rig: Rig) -> None:
    error = await refusal(rig.client.write(rig.client.acme, [point()], timeout=0.004))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_value_that_only_postgres_refuses_fails_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What validation lets through by mistake must not take other callers' writes with it."""
    good = encode._ENCODERS[DataType.JSON]

    def sometimes_bad(text: str) -> bytes:
        encoded: bytes = good(text)
        return b"\x01{" if text == '"poison"' else encoded

    monkeypatch.setitem(encode._ENCODERS, DataType.JSON, sometimes_bad)
    async with asyncio.TaskGroup() as calls:
        writes = [
            calls.create_task(rig.client.write(tenant, [point("doc", json_value='"fine"')]))
            for tenant in rig.client.tenants * 5
        ]
        poison = [point("doc", json_value='"poison"')]
        refused = calls.create_task(refusal(rig.client.write(rig.client.acme, poison)))
    assert all(write.result().accepted_count == 1 for write in writes)
    assert refused.result().code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await rig.client.write(rig.client.acme, [point()])).accepted_count == 1
