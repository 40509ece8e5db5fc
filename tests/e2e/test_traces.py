"""One call makes one trace, through every process that worked on it."""

import asyncio
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio

from atlas.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from atlas.query.v1 import query_service_pb2, query_service_pb2_grpc
from atlas.type.v1 import value_pb2
from atlas_client import AtlasClient, Attribute, DataType, Endpoints
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
