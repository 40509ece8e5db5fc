"""From commit to visible, at a steady load: small writes followed into the warehouse."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc.aio

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc
from atlas_bench.cdc.rig import Rig
from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.ingest.job import Ack
from atlas_bench.ingest.jobs import steady_job
from atlas_bench.progress import say
from atlas_bench.tally import histogram, percentiles, record_seconds
from atlas_client import AckLevel, AtlasClient, Point
from atlas_client import Endpoints as ClientEndpoints

_LEAD_SECONDS = 2.0
_WAIT_SECONDS_MAX = 60.0
_NO_ATTRIBUTE = 0  # What is asked for is freshness, not rows.


def measure(rig: Rig) -> dict[str, Any]:
    """Time the probes beside the load. Raises BenchError."""
    options = rig.options
    job = steady_job(
        replace(options.ingest, latency_seconds=options.freshness_seconds + 2 * _LEAD_SECONDS),
        rig.ingest,
        Ack.COMMITTED,
        seed=1,
    )
    rig.drivers.prepare(job).result()
    rig.settle()
    writing = rig.drivers.begin(job)
    time.sleep(_LEAD_SECONDS)
    committed, sent, failed = asyncio.run(_probe(rig))
    written = writing.result()
    rig.note_memory()
    run = {
        "kind": "freshness",
        "repeat": 1,
        "probes": committed.get_total_count(),
        "commit_to_visible_ms": percentiles(committed),
        "write_to_visible_ms": percentiles(sent),
        "points_per_s": round(written.rows_per_s, 1),
        "errors": {**written.errors, **failed},
    }
    say(
        f"   1 freshness p50 {run['commit_to_visible_ms']['p50']:.0f} ms,"
        f" p99 {run['commit_to_visible_ms']['p99']:.0f} ms at {written.rows_per_s:,.0f} points/s"
    )
    return run


async def _probe(rig: Rig) -> tuple[Any, Any, Counter[str]]:
    """Send probes by the clock; the time from the answer, from the sending, and what failed."""
    fleet = rig.options.ingest.fleet
    committed, sent, failed = histogram(), histogram(), Counter[str]()
    addresses = ClientEndpoints.from_json(rig.stack.endpoints.to_json())
    async with (
        AtlasClient.connect(addresses, timeout=_WAIT_SECONDS_MAX) as client,
        grpc.aio.insecure_channel(rig.reconciler.target, options=CHANNEL_OPTIONS) as channel,
    ):
        stub = reconciler_service_pb2_grpc.ReconcilerServiceStub(channel)
        tenant = fleet.tenant_keys[0]
        own = client.for_tenant(tenant)
        attribute = next(each.name for each in fleet.attributes if each.data_type == "double")

        async def probe(number: int) -> None:
            began = time.monotonic()
            point = Point(fleet.entity_keys[0], attribute, float(number % 100))
            result = await own.write([point], ack=AckLevel.COMMITTED)
            answered = time.monotonic()
            request = pb.AggregateRequest(
                attribute_ids=[_NO_ATTRIBUTE],
                aggregations=[pb.AGGREGATION_COUNT],
                token=result.token,
                end_time_us=0,
            )
            request.wait_timeout.FromTimedelta(timedelta(seconds=_WAIT_SECONDS_MAX))
            metadata = (("x-atlas-tenant", tenant),)
            try:
                async for _ in stub.Aggregate(
                    request, metadata=metadata, timeout=_WAIT_SECONDS_MAX
                ):
                    pass
            except grpc.aio.AioRpcError as error:
                failed[error.details() or str(error.code())] += 1
                return
            visible = time.monotonic()
            record_seconds(committed, visible - answered)
            record_seconds(sent, visible - began)

        began = time.monotonic()
        count = int(rig.options.freshness_seconds * rig.options.probes_per_s)
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                due = began + number / rig.options.probes_per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.create_task(probe(number))
    return committed, sent, failed
