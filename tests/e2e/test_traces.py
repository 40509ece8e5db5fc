"""One call makes one trace, through every process that worked on it."""

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
from opentelemetry.trace import format_span_id, format_trace_id

from atlas.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from atlas.query.v1 import query_service_pb2, query_service_pb2_grpc
from atlas.type.freshness import FreshnessToken
from atlas.type.v1 import value_pb2
from atlas_client import AtlasClient, Attribute, DataType, Endpoints
from atlas_common.telemetry import flushes
from atlas_devstack.stack import Stack

DEADLINE_SECONDS = 20.0


def spans_of(stack: Stack, service: str, trace_id: str) -> list[dict[str, Any]]:
    file: Path = stack.state.logs / f"{service}.spans.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [span for line in lines if (span := json.loads(line))["trace_id"] == trace_id]


async def eventually(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not found():  # noqa: ASYNC110 - other processes write the files.
            await asyncio.sleep(0.05)


def linked(span: dict[str, Any]) -> set[tuple[str, str]]:
    return {(link["trace_id"], link["span_id"]) for link in span["links"]}


def all_spans(stack: Stack, service: str, name: str) -> list[dict[str, Any]]:
    file: Path = stack.state.logs / f"{service}.spans.jsonl"
    return [
        span for line in file.read_text().splitlines() if (span := json.loads(line))["name"] == name
    ]


async def test_a_write_can_be_followed_through_its_flush_to_cache_and_warehouse(
    stack: Stack,
) -> None:
    """By the position that its token names; of two tenants, each by its own."""
    async with AtlasClient.connect(Endpoints.from_json(stack.endpoints.to_json())) as client:
        tenants = [f"followed-{secrets.token_hex(4)}" for _ in range(2)]
        for tenant in tenants:
            await client.create_tenant(tenant)
            await client.for_tenant(tenant).upsert_attributes(
                [Attribute("pressure", DataType.DOUBLE, hot=True)]
            )
    for tenant in tenants:
        trace_id = secrets.token_hex(16)
        async with grpc.aio.insecure_channel(stack.services["ingest"].target) as ingest:
            answer = await ingest_service_pb2_grpc.IngestServiceStub(ingest).Write(
                ingest_service_pb2.WriteRequest(
                    points=[
                        value_pb2.Point(entity_key="pump-1", attribute="pressure", double_value=1.0)
                    ]
                ),
                metadata=called_by(tenant, trace_id),
                timeout=10,
            )
        (position,) = FreshnessToken.decode(answer.token).positions
        context = flushes.span_context(position)
        flush_id = format_trace_id(context.trace_id), format_span_id(context.span_id)

        await eventually(lambda: bool(spans_of(stack, "ingest", trace_id)))  # noqa: B023
        (write,) = [span for span in spans_of(stack, "ingest", trace_id) if span["links"]]
        assert linked(write) == {flush_id}

        await eventually(lambda: bool(spans_of(stack, "hotcache", flush_id[0])))  # noqa: B023
        (flush,) = [s for s in spans_of(stack, "ingest", flush_id[0]) if s["name"] == "flush"]
        assert flush["span_id"] == flush_id[1]
        assert (trace_id, write["span_id"]) in linked(flush)
        (told,) = spans_of(stack, "hotcache", flush_id[0])
        assert told["name"].endswith("InvalidateEntities")

        await eventually(
            lambda: any(
                flush_id in linked(span)  # noqa: B023
                for span in all_spans(stack, "cdc-reconciler", "apply")
            )
        )


async def test_a_read_is_one_trace_from_query_to_hotcache(stack: Stack) -> None:
    tenant = f"traced-{secrets.token_hex(4)}"
    async with AtlasClient.connect(Endpoints.from_json(stack.endpoints.to_json())) as client:
        await client.create_tenant(tenant)
        await client.for_tenant(tenant).upsert_attributes(
            [Attribute("pressure", DataType.DOUBLE, hot=True)]
        )
    write_trace, read_trace = secrets.token_hex(16), secrets.token_hex(16)
    async with (
        grpc.aio.insecure_channel(stack.services["ingest"].target) as ingest,
        grpc.aio.insecure_channel(stack.services["query"].target) as query,
    ):
        await ingest_service_pb2_grpc.IngestServiceStub(ingest).Write(
            ingest_service_pb2.WriteRequest(
                points=[
                    value_pb2.Point(entity_key="pump-1", attribute="pressure", double_value=1.0)
                ]
            ),
            metadata=called_by(tenant, write_trace),
            timeout=10,
        )
        await query_service_pb2_grpc.QueryServiceStub(query).GetEntities(
            query_service_pb2.GetEntitiesRequest(entity_keys=["pump-1"]),
            metadata=called_by(tenant, read_trace),
            timeout=10,
        )
    await eventually(
        lambda: all(spans_of(stack, name, read_trace) for name in ("query", "hotcache"))
    )
    await eventually(lambda: bool(spans_of(stack, "ingest", write_trace)))
    assert spans_of(stack, "ingest", read_trace) == []


def called_by(tenant: str, trace_id: str) -> tuple[tuple[str, str], ...]:
    return (
        ("x-atlas-tenant", tenant),
        ("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),
    )
