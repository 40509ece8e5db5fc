"""A real gRPC server in this process, with small servicers that record what they are asked."""

# ruff: noqa: N802 - methods have the names of the contracts' calls.

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from atlas.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from atlas.query.v1 import query_service_pb2, query_service_pb2_grpc
from atlas.type.freshness import FreshnessToken, Position, Segment
from atlas.type.v1 import consistency_pb2


def token(tenant_id: int = 1, **lanes: int) -> bytes:
    """token(l3=7): a token that asks for sequence 7 of lane 3."""
    segments = tuple(
        Segment(Position(int(lane[1:]), 1, sequence), 1, bytes(12))
        for lane, sequence in sorted(lanes.items())
    )
    return FreshnessToken(tenant_id, segments).encode()


@dataclass
class Refusal:
    """What a servicer answers instead of its answer."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "refused"
    field: str = ""
    retry_after: float | None = None

    async def abort(self, context: Any) -> None:
        details: list[Message] = []
        if self.reason:
            metadata = {"limit": "10"}
            details.append(
                error_details_pb2.ErrorInfo(reason=self.reason, domain="atlas", metadata=metadata)
            )
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after is not None:
            delay = duration_pb2.Duration(nanos=int(self.retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(self.code, self.message, trailers)


@dataclass
class Platform:
    """What was asked, and what is refused next."""

    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    sequence: int = 0
    pages: list[query_service_pb2.FindEntitiesResponse] = field(default_factory=list)
    history: list[query_service_pb2.GetHistoryResponse] = field(default_factory=list)
    break_history_after: int | None = None
    watches: list[list[query_service_pb2.WatchEntitiesResponse | Refusal]] = field(
        default_factory=list
    )
    """One list for each stream; a refusal ends it, and so does its end, as if it had broken."""

    async def hear(self, request: Any, context: Any) -> None:
        kept = type(request)()
        kept.CopyFrom(request)
        self.requests.append(kept)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refusals:
            await self.refusals.pop(0).abort(context)

    def read_metadata(self) -> consistency_pb2.ReadMetadata:
        self.sequence += 1
        return consistency_pb2.ReadMetadata(
            source=consistency_pb2.SOURCE_REPLICA,
            endpoint="replica-1",
            consistency=consistency_pb2.CONSISTENCY_LEVEL_EVENTUAL,
            lag=duration_pb2.Duration(seconds=1),
            token=token(l2=self.sequence),
        )


class Ingest(ingest_service_pb2_grpc.IngestServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def Write(self, request: Any, context: Any) -> Any:
        await self._platform.hear(request, context)
        self._platform.sequence += 1
        return ingest_service_pb2.WriteResponse(
            token=token(l1=self._platform.sequence),
            accepted_count=len(request.points),
            ack=ingest_service_pb2.ACK_LEVEL_DURABLE,
        )

    async def WriteArrow(self, requests: AsyncIterator[Any], context: Any) -> Any:
        count = 0
        async for request in requests:
            await self._platform.hear(request, context)
            count += request.HasField("ipc_stream")
        self._platform.sequence += 1
        return ingest_service_pb2.WriteArrowResponse(
            token=token(l1=self._platform.sequence),
            accepted_count=count,
            ack=ingest_service_pb2.ACK_LEVEL_DURABLE,
        )

    async def GetStagingStatus(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def WriteStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        raise NotImplementedError

    async def GetProducerPosition(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class Query(query_service_pb2_grpc.QueryServiceServicer):
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def GetEntities(self, request: Any, context: Any) -> Any:
        await self._platform.hear(request, context)
        return query_service_pb2.GetEntitiesResponse(metadata=self._platform.read_metadata())

    async def FindEntities(self, request: Any, context: Any) -> Any:
        await self._platform.hear(request, context)
        page = self._platform.pages.pop(0)
        page.metadata.CopyFrom(self._platform.read_metadata())
        return page

    async def GetHistory(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._platform.hear(request, context)
        for number, answer in enumerate(self._platform.history):
            if number == self._platform.break_history_after:
                await Refusal(grpc.StatusCode.UNAVAILABLE).abort(context)
            if number == 0:
                answer.metadata.CopyFrom(self._platform.read_metadata())
            yield answer

    async def Aggregate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._platform.hear(request, context)
        yield query_service_pb2.AggregateResponse(metadata=self._platform.read_metadata())

    async def ListTiers(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def WatchEntities(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._platform.hear(request, context)
        for message in self._platform.watches.pop(0):
            if isinstance(message, Refusal):
                await message.abort(context)
            else:
                yield message
        await Refusal(grpc.StatusCode.UNAVAILABLE).abort(context)

    async def WaitFor(self, request: Any, context: Any) -> Any:
        await self._platform.hear(request, context)
        state = query_service_pb2.TierState(
            source=request.tier,
            endpoint=request.endpoint,
            available=True,
            position_state=query_service_pb2.POSITION_STATE_REACHED,
            token=request.token,
        )
        return query_service_pb2.WaitForResponse(
            tiers=[state], waited=duration_pb2.Duration(seconds=1)
        )

    async def ExplainRoute(self, request: Any, context: Any) -> Any:
        await self._platform.hear(request, context)
        tier = query_service_pb2.TierState(
            source=consistency_pb2.SOURCE_REPLICA,
            endpoint="replica-1",
            available=True,
            fresh_in=duration_pb2.Duration(seconds=2),
        )
        return query_service_pb2.ExplainRouteResponse(
            action=query_service_pb2.ROUTE_ACTION_WAIT,
            reason="no replica is fresh enough",
            on_unmet=consistency_pb2.ON_UNMET_WAIT,
            when_unmet="wait up to 2.0 s",
            candidates=[query_service_pb2.RouteCandidate(tier=tier, verdict="lag 4.0 s")],
        )


@asynccontextmanager
async def serving(platform: Platform, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(Ingest(platform), server)
    query_service_pb2_grpc.add_QueryServiceServicer_to_server(Query(platform), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)
