import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from opentelemetry import trace

from atlas.query.v1 import query_service_pb2
from atlas.type.v1 import value_pb2
from atlas_client import (
    AckLevel,
    AtlasClient,
    AtlasError,
    Endpoints,
    Level,
    Point,
    Source,
    strong,
)

from .client_rig import Platform, Refusal, serving

POINT = Point("pump-1", "rpm", 1480, datetime(2024, 1, 1, tzinfo=UTC))
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_write_carries_tenant_and_request_id(
    client: AtlasClient, platform: Platform
) -> None:
    result = await client.write([POINT])
    assert result.accepted_count == 1
    assert result.ack is AckLevel.DURABLE
    (request,) = platform.requests
    assert request.points[0] == value_pb2.Point(
        entity_key="pump-1", attribute="rpm", int_value=1480, event_time_us=1704067200000000
    )
    assert request.request_id == result.request_id
    assert platform.metadata[0]["x-atlas-tenant"] == "acme"
    assert platform.metadata[0]["x-request-id"] == result.request_id
    await client.for_tenant("globex").write([POINT])
    assert platform.metadata[1]["x-atlas-tenant"] == "globex"


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"),
        Refusal(UNAVAILABLE),
        Refusal(grpc.StatusCode.ABORTED),
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=0.01),
    ],
    ids=str,
)
async def test_a_transient_error_is_tried_again_with_the_same_request_id(
    client: AtlasClient, platform: Platform, refusal: Refusal
) -> None:
    platform.refusals = [refusal, refusal]
    await client.write([POINT])
    assert len(platform.requests) == 3
    assert len({request.request_id for request in platform.requests}) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "TYPE_MISMATCH"),
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED),  # What gRPC says of a message too large.
        Refusal(UNAVAILABLE, "FRESHNESS_UNMET"),
        Refusal(grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
    ids=str,
)
async def test_other_errors_are_told_at_once(
    client: AtlasClient, platform: Platform, refusal: Refusal
) -> None:
    platform.refusals = [refusal]
    with pytest.raises(AtlasError) as caught:
        await client.write([POINT])
    assert caught.value.code is refusal.code
    assert caught.value.reason == refusal.reason
    assert len(platform.requests) == 1


async def test_an_error_tells_reason_field_particulars_and_retry_time(
    client: AtlasClient, platform: Platform
) -> None:
    platform.refusals = [
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "VALUE_OUT_OF_RANGE", "101 > 100", "x", 1.5)
    ]
    with pytest.raises(AtlasError) as caught:
        await client.get_entities(["a"])
    error = caught.value
    assert (error.field, error.message, error.retry_after) == ("x", "101 > 100", 1.5)
    assert error.metadata == {"limit": "10"}
    assert str(error) == "INVALID_ARGUMENT/VALUE_OUT_OF_RANGE (x): 101 > 100"


async def test_a_retry_that_would_outlast_the_deadline_is_not_waited_for(
    client: AtlasClient, platform: Platform
) -> None:
    platform.refusals = [Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=0.9)]
    began = asyncio.get_running_loop().time()
    with pytest.raises(AtlasError, match="OVERLOADED"):
        await client.write([POINT], timeout=0.8)
    assert asyncio.get_running_loop().time() - began < 0.7


async def test_a_service_that_is_started_again_is_found_again(platform: Platform) -> None:
    async with serving(platform) as port:
        endpoints = Endpoints(ingest=f"127.0.0.1:{port}")
    async with AtlasClient.connect(endpoints, tenant="acme") as client:
        write = asyncio.create_task(client.write([POINT], timeout=30))
        # The port is closed: the first attempts fail, whenever they come.
        with pytest.raises(AtlasError) as caught:
            await client.write([POINT], timeout=0.2)
        assert caught.value.code is UNAVAILABLE
        async with serving(platform, port):
            assert (await write).accepted_count == 1


async def test_a_dead_address_is_unavailable_within_the_deadline(platform: Platform) -> None:
    async with serving(platform) as port:
        endpoints = Endpoints(query=f"127.0.0.1:{port}")
    async with AtlasClient.connect(endpoints, tenant="acme", timeout=0.3) as client:
        with pytest.raises(AtlasError) as caught:
            await client.get_entities(["a"])
        assert caught.value.is_transient
        with pytest.raises(LookupError, match="ingest"):
            await client.write([POINT])


async def test_pages_are_followed_to_the_end(client: AtlasClient, platform: Platform) -> None:
    platform.pages = [
        query_service_pb2.FindEntitiesResponse(
            entities=[query_service_pb2.EntityState(entity_key=f"e{number}")], next_page_token=more
        )
        for number, more in enumerate(["1", "2", ""])
    ]
    stream = client.find_entities({"status": "on", "up": True}, page_size=1, consistency=strong())
    assert [state.entity async for state in stream] == ["e0", "e1", "e2"]
    assert [request.page_token for request in platform.requests] == ["", "1", "2"]
    assert platform.requests[0].consistency.WhichOneof("requirement") == "strong"
    assert len(platform.requests[0].filter.all_of.filters) == 2
    assert stream.metadata is not None
    assert stream.metadata.source is Source.REPLICA
    assert stream.metadata.consistency is Level.EVENTUAL


def _history(*values: int) -> list[query_service_pb2.GetHistoryResponse]:
    return [
        query_service_pb2.GetHistoryResponse(
            readings=[
                query_service_pb2.Reading(
                    attribute="rpm", value=value_pb2.Value(int_value=value), event_time_us=value
                )
            ]
        )
        for value in values
    ]


async def test_a_stream_is_repeated_only_before_its_first_answer(
    client: AtlasClient, platform: Platform
) -> None:
    platform.history = _history(1, 2)
    platform.refusals = [Refusal(UNAVAILABLE)]
    stream = client.history("pump-1")
    assert [reading.value async for reading in stream] == [1, 2]
    assert stream.metadata is not None
    assert len(platform.requests) == 2

    platform.break_history_after = 1
    seen: list[Any] = []
    with pytest.raises(AtlasError) as caught:  # noqa: PT012
        async for reading in client.history("pump-1"):
            seen.append(reading.value)  # noqa: PERF401 - what came before the break counts.
    assert caught.value.code is UNAVAILABLE
    assert seen == [1]
    assert len(platform.requests) == 3


async def test_a_stream_may_be_left_early(client: AtlasClient, platform: Platform) -> None:
    platform.history = _history(1, 2, 3)
    stream = client.history("pump-1")
    async for reading in stream:
        assert reading.value == 1
        break
    await stream.aclose()


async def test_the_callers_trace_goes_with_the_call(
    client: AtlasClient, platform: Platform
) -> None:
    context = trace.SpanContext(
        0xA1, 0xB2, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
    )
    with trace.use_span(trace.NonRecordingSpan(context)):
        await client.write([POINT])
        platform.history = _history(1)
        assert [reading.value async for reading in client.history("pump-1")] == [1]
    with trace.use_span(trace.INVALID_SPAN):  # Whatever tests before have left.
        await client.write([POINT])
    traced = f"00-{0xA1:032x}"
    first, second, other = (headers.get("traceparent", "")[:35] for headers in platform.metadata)
    assert (first, second) == (traced, traced)
    assert other != traced  # Its own, if tests before have installed a provider in this process.


async def test_a_history_is_followed_over_the_limit_of_one_call(
    client: AtlasClient, platform: Platform
) -> None:
    more = query_service_pb2.GetHistoryResponse()
    more.next_start_time.FromMicroseconds(3)
    platform.history = [*_history(1, 2), more]
    values: list[Any] = []
    async for reading in client.history("pump-1", limit=2):
        values.append(reading.value)  # noqa: PERF401 - the next test of it adds while it goes on.
    assert values == [1, 2]
    assert len(platform.requests) == 1
    async for reading in client.history("pump-1"):
        values.append(reading.value)
        if reading.value == 2:
            platform.history = _history(3)
    assert values == [1, 2, 1, 2, 3]
    assert platform.requests[-1].start_time.ToMicroseconds() == 3
