"""IngestService over gRPC."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio
from typing_extensions import override

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas_common import errors
from atlas_common.tenant import current_tenant
from atlas_common.token import TokenSigner
from atlas_ingest import convert, metrics
from atlas_ingest.doors.requests import check_write
from atlas_ingest.doors.stream_convert import check_producer_id, position_response
from atlas_ingest.doors.write_arrow import ArrowWriter
from atlas_ingest.doors.write_streams import WriteStreams
from atlas_ingest.optimizer import WriteOptimizer
from atlas_ingest.staging import StagingMonitor
from atlas_ingest.store import Store

Context = grpc.aio.ServicerContext[Any, Any]


class IngestServicer(ingest_service_pb2_grpc.IngestServiceServicer):
    """Takes telemetry in."""

    def __init__(
        self,
        optimizer: WriteOptimizer,
        signer: TokenSigner,
        monitor: StagingMonitor,
        store: Store,
        *,
        streams: WriteStreams,
        arrow: ArrowWriter,
    ) -> None:
        self._optimizer = optimizer
        self._store = store
        self._streams = streams
        self._signer = signer
        self._monitor = monitor
        self._arrow = arrow

    @property
    def pending_points(self) -> int:
        """Points of calls that are not answered yet."""
        return self._optimizer.pending_points

    @override
    async def Write(self, request: pb.WriteRequest, context: Context) -> pb.WriteResponse:
        """Store a batch of points."""
        started = time.monotonic()
        ack = convert.ack_of(request.ack)
        if ack is None:
            raise errors.invalid_argument(
                "INVALID_FIELD", f"ack {request.ack} is no level known here", field="ack"
            )
        check_write(request)
        tenant = current_tenant()
        with self._optimizer.admit(len(request.points), request.ByteSize()) as admission:
            self._optimizer.meters.take_points(tenant, len(request.points))
            now_us = time.time_ns() // 1_000
            write = convert.write_of(request, ack, now_us)
            ingested = await self._optimizer.ingest_telemetry(tenant, write, admission, now_us)
        positions = [] if ingested.position is None else [ingested.position]
        if not ingested.duplicate and not write.validate_only:
            metrics.points_accepted.add(ingested.answer.accepted_count)
            metrics.points_rejected.add(ingested.answer.rejected_count)
            self._monitor.rejected_points += ingested.answer.rejected_count
        metrics.ack_seconds.record(time.monotonic() - started, {"ack": ack.value})
        return convert.write_response(
            ingested.answer,
            token=self._signer.seal(tenant.id, positions),
            ack=ack,
            duplicate=ingested.duplicate,
        )

    @override
    async def WriteArrow(
        self, request_iterator: AsyncIterator[pb.WriteArrowRequest], context: Context
    ) -> pb.WriteArrowResponse:
        """Store a stream of Arrow messages."""
        return await self._arrow.write(request_iterator)

    @override
    async def WriteStream(
        self, request_iterator: AsyncIterator[pb.WriteStreamRequest], context: Context
    ) -> AsyncIterator[pb.WriteStreamResponse]:
        """Store batches in the order they are sent."""
        async with aclosing(self._streams.serve(request_iterator)) as responses:
            async for response in responses:
                yield response

    @override
    async def GetProducerPosition(
        self, request: pb.GetProducerPositionRequest, context: Context
    ) -> pb.GetProducerPositionResponse:
        """How far a producer's batches are stored."""
        check_producer_id(request, required=True)
        tenant = current_tenant()
        row = await self._store.producer_position(tenant, request.producer_id)
        positions = [] if row is None else [row.position]
        return position_response(row, self._signer.seal(tenant.id, positions))

    @override
    async def GetStagingStatus(
        self, request: pb.GetStagingStatusRequest, context: Context
    ) -> pb.GetStagingStatusResponse:
        """How far each lane is flushed."""
        return convert.staging_response(await self._monitor.status())
