"""An ingest service in memory, over real gRPC: it keeps the contract of WriteStream, and breaks."""

# ruff: noqa: N802 - methods have the names of the contracts' calls.

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas.type.v1 import error_pb2
from atlas_client import AtlasClient, Endpoints

from .client_rig import Refusal, token

AWAY = Refusal(grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
BAD = "bad"
"""Points of this attribute are refused."""


@dataclass
class Store:
    """What is stored, by tenant and producer; and what goes wrong next."""

    values: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    positions: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    lives: list[str] = field(default_factory=list)
    starts: list[pb.WriteStreamStart] = field(default_factory=list)
    batches: list[pb.WriteStreamBatch] = field(default_factory=list)
    in_flight_max: int = 0
    credit: tuple[int, int] = (8, 10_000)
    is_held: bool = False
    refusals: list[Refusal] = field(default_factory=list)
    break_before_storing: set[int] = field(default_factory=set)
    break_before_acknowledging: set[int] = field(default_factory=set)

    def store(self, tenant: str, life: str, batch: pb.WriteStreamBatch, *, partial: bool) -> Any:
        """As the platform does: a producer's sequence once, in order."""
        ack = pb.BatchAck(sequence=batch.sequence)
        if batch.sequence <= self.positions[tenant, life]:
            ack.duplicate = True
            return ack
        assert batch.sequence == self.positions[tenant, life] + 1
        self.positions[tenant, life] = batch.sequence
        bad = [i for i, point in enumerate(batch.points) if point.attribute == BAD]
        for index in bad:
            ack.errors.add(index=index, reason=error_pb2.ERROR_REASON_ATTRIBUTE_UNKNOWN)
        ack.rejected_count = len(bad)
        if bad and not partial:
            ack.refused = error_pb2.ERROR_REASON_ATTRIBUTE_UNKNOWN
            ack.message = "points[0]: no such attribute"
            return ack
        good = [point for point in batch.points if point.attribute != BAD]
        ack.accepted_count = len(good)
        self.values[tenant] += [point.int_value for point in good]
        return ack


class Ingest(ingest_service_pb2_grpc.IngestServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def WriteStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        store, requests = self._store, request_iterator
        if store.refusals:
            await store.refusals.pop(0).abort(context)
        tenant = dict(context.invocation_metadata())["x-atlas-tenant"]
        first = await anext(aiter(requests))
        assert first.HasField("start")
        life = first.start.producer_id
        store.starts.append(first.start)
        store.lives.append(life)
        batches, points = store.credit
        yield pb.WriteStreamResponse(
            started=pb.WriteStreamStarted(position=store.positions[tenant, life]),
            credit=pb.WriteStreamCredit(batches=batches, points=points),
        )
        async for acks in self._acks(requests, context, tenant, first.start):
            yield pb.WriteStreamResponse(acks=acks, token=token(l1=len(store.batches)))

    async def GetProducerPosition(self, request: Any, context: Any) -> Any:
        tenant = dict(context.invocation_metadata())["x-atlas-tenant"]
        position = self._store.positions[tenant, request.producer_id]
        answer = pb.GetProducerPositionResponse(position=position, token=token(l1=position))
        answer.store_time.FromSeconds(1_704_067_200)
        return answer

    async def Write(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def WriteArrow(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GetStagingStatus(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def _acks(
        self, requests: Any, context: Any, tenant: str, start: pb.WriteStreamStart
    ) -> AsyncIterator[list[Any]]:
        store, arrived = self._store, asyncio.Queue[Any]()

        async def read() -> None:
            async for request in requests:
                store.batches.append(request.batch)
                arrived.put_nowait(request.batch)
                store.in_flight_max = max(store.in_flight_max, arrived.qsize())
            arrived.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (batch := await arrived.get()) is not None:
                await until(lambda: not store.is_held, seconds=60)
                if batch.sequence in store.break_before_storing:
                    store.break_before_storing.discard(batch.sequence)
                    await AWAY.abort(context)
                life, partial = start.producer_id, start.partial_success
                ack = store.store(tenant, life, batch, partial=partial)
                if batch.sequence in store.break_before_acknowledging:
                    store.break_before_acknowledging.discard(batch.sequence)
                    await AWAY.abort(context)
                yield [ack]
        finally:
            reader.cancel()


@asynccontextmanager
async def serving(store: Store, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(Ingest(store), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@asynccontextmanager
async def client_at(port: int, tenant: str = "acme") -> AsyncIterator[AtlasClient]:
    endpoints = Endpoints(ingest=f"127.0.0.1:{port}")
    async with AtlasClient.connect(endpoints, tenant=tenant) as client:
        yield client


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what changes are plain attributes.
            await asyncio.sleep(0.001)
