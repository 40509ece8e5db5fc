"""The three ways in, as a client uses them that costs next to nothing.

Batches are encoded before anything is timed; a send fills in its times. Every call can be repeated:
Write and WriteArrow have a request_id, WriteStream has a producer, as callers have who care.
"""

import asyncio
import itertools
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, TypeAlias

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_bench.ingest.columnar import ArrowTemplate, Columnar, varint
from atlas_bench.ingest.fleet import Fleet
from atlas_bench.ingest.job import Ack, Door, WriteJob
from atlas_bench.ingest.recorder import Recorder
from atlas_bench.ingest.rowwise import RowWise
from atlas_bench.template import Template

Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
ClientStream: TypeAlias = "grpc.aio.StreamUnaryMultiCallable[bytes, bytes]"
Bidirectional: TypeAlias = "grpc.aio.StreamStreamMultiCallable[bytes, bytes]"
ArrowTemplates: TypeAlias = dict[int, list[ArrowTemplate]]
RowTemplates: TypeAlias = dict[int, list[Template]]

_SERVICE = "/atlas.ingest.v1.IngestService"
_ACK_LEVELS = {
    Ack.STAGED: pb.ACK_LEVEL_STAGED,
    Ack.COMMITTED: pb.ACK_LEVEL_COMMITTED,
    Ack.DURABLE: pb.ACK_LEVEL_DURABLE,
}
_RETRY_SECONDS = 0.5
_REQUEST_ID_TAG = b"\x0a"  # WriteRequest.request_id, field 1.
_SEQUENCE_TAG = b"\x08"  # WriteStreamBatch.sequence, field 1.
_BATCH_TAG = b"\x12"  # WriteStreamRequest.batch, field 2.
_OVERLOADED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Sender(Protocol):
    """One door of one run."""

    async def send(self, number: int, budget: "Budget") -> None:
        """Make the n-th call, or keep a stream busy until the budget is used up."""


class Budget:
    """How much longer a run sends."""

    def __init__(self, seconds: float, points_max: int | None) -> None:
        self._until = time.monotonic() + seconds
        self._points = points_max

    @property
    def is_left(self) -> bool:
        """Whether there is anything left to send."""
        return (self._points is None or self._points > 0) and time.monotonic() < self._until

    def take(self, points: int) -> bool:
        """Take what a batch needs; False: nothing more is to be sent."""
        if not self.is_left:
            return False
        if self._points is not None:
            self._points -= points
        return True


def templates(door: Door, fleet: Fleet, points: int, most: int) -> RowTemplates | ArrowTemplates:
    """Encode a fleet's batches, tenant by tenant in turn: {tenant index: its batches}."""
    batch = Columnar(fleet).batch if door is Door.ARROW else RowWise(fleet).batch
    made: dict[int, list[Template | ArrowTemplate]] = {}
    for window in itertools.islice(fleet.windows(points), most):
        made.setdefault(window.tenant_index, []).append(batch(window))
    return made  # type: ignore[return-value]  # All are of one kind.


class WriteSender:
    """Write: one call, one batch."""

    def __init__(
        self,
        job: WriteJob,
        channels: Sequence[grpc.aio.Channel],
        batches: RowTemplates,
        recorder: Recorder,
    ) -> None:
        self._methods: list[Unary] = [
            channel.unary_unary(f"{_SERVICE}/Write", None, None) for channel in channels
        ]
        self._job = job
        self._recorder = recorder
        self._rest = pb.WriteRequest(ack=_ACK_LEVELS[job.ack]).SerializeToString()
        # In turn over the tenants.
        self._batches = [
            (_metadata(job.fleet, tenant), template)
            for row in itertools.zip_longest(*batches.values())
            for tenant, template in zip(batches, row, strict=True)
            if template is not None
        ]

    async def send(self, number: int, budget: Budget) -> None:
        """Make the n-th call."""
        if budget.take(self._job.points):
            await self.call(number, time.monotonic())

    async def call(self, number: int, due: float) -> None:
        """Make the n-th call; its latency counts from when it was due."""
        metadata, template = self._batches[number % len(self._batches)]
        request_id = uuid.uuid4().hex.encode()
        body = b"".join(
            (
                template.with_varints(_times(len(template.offsets))),
                self._rest,
                _REQUEST_ID_TAG,
                varint(len(request_id)),
                request_id,
            )
        )
        method = self._methods[number % len(self._methods)]
        while True:
            try:
                await method(body, timeout=self._job.timeout_seconds, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if await _come_again(error, self._job, self._recorder):
                    continue
                self._recorder.failed(_perhaps(error, self._job.points), words(error))
                await asyncio.sleep(_RETRY_SECONDS)  # No hot loop against what is down.
            else:
                self._recorder.acknowledged(self._job.points, time.monotonic() - due)
            return


class ArrowSender:
    """WriteArrow: a stream of a few messages, answered at its end; then the next tenant's."""

    def __init__(
        self,
        job: WriteJob,
        channels: Sequence[grpc.aio.Channel],
        batches: ArrowTemplates,
        recorder: Recorder,
    ) -> None:
        self._methods: list[ClientStream] = [
            channel.stream_unary(f"{_SERVICE}/WriteArrow", None, None) for channel in channels
        ]
        self._job = job
        self._batches = batches
        self._recorder = recorder
        self._streams = itertools.count()

    async def send(self, number: int, budget: Budget) -> None:
        """Write stream after stream."""
        method = self._methods[number % len(self._methods)]
        while budget.is_left:
            await self._stream(method, next(self._streams), budget)

    async def _stream(self, method: ClientStream, number: int, budget: Budget) -> None:
        tenant = number % len(self._batches)
        own = self._batches[tenant]
        # A stream that is sent again has to be the same: ids and times are chosen once.
        request_id, base_us = uuid.uuid4().hex, time.time_ns() // 1_000
        messages = 0
        while messages < self._job.messages_per_stream and budget.take(self._job.points):
            messages += 1
        points = messages * self._job.points
        began = time.monotonic()

        async def requests() -> AsyncIterator[bytes]:
            start = pb.WriteArrowStart(request_id=request_id, ack=_ACK_LEVELS[self._job.ack])
            yield pb.WriteArrowRequest(start=start).SerializeToString()
            for message in range(messages):
                template = own[(number // len(self._batches) + message) % len(own)]
                times = base_us + message - np.arange(template.rows, dtype=np.int64)
                yield template.with_times(times)

        while True:
            call = method(
                requests(),
                timeout=self._job.timeout_seconds,
                metadata=_metadata(self._job.fleet, tenant),
            )
            try:
                answer = pb.WriteArrowResponse.FromString(await call)
            except grpc.aio.AioRpcError as error:
                if await _come_again(error, self._job, self._recorder):
                    continue
                self._recorder.failed(points, words(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                accepted = answer.accepted_count
                self._recorder.acknowledged(accepted, time.monotonic() - began)
                if accepted != points:
                    self._recorder.failed(0, f"{points - accepted} points of a stream not accepted")
            return


class StreamSender:
    """WriteStream: one tenant's batches, with a window of unacknowledged ones."""

    def __init__(
        self,
        job: WriteJob,
        channels: Sequence[grpc.aio.Channel],
        batches: RowTemplates,
        recorder: Recorder,
    ) -> None:
        self._methods: list[Bidirectional] = [
            channel.stream_stream(f"{_SERVICE}/WriteStream", None, None) for channel in channels
        ]
        self._job = job
        self._batches = batches
        self._recorder = recorder

    async def send(self, number: int, budget: Budget) -> None:
        """Keep one stream busy."""
        tenant = number % len(self._batches)
        method = self._methods[number % len(self._methods)]
        call = method(
            timeout=self._job.timeout_seconds, metadata=_metadata(self._job.fleet, tenant)
        )
        stream = _Stream(call, self._job, self._batches[tenant], self._recorder)
        try:
            await stream.run(f"bench-{uuid.uuid4().hex}", budget)
        except grpc.aio.AioRpcError as error:
            self._recorder.failed(stream.unacknowledged * self._job.points, words(error))
            await asyncio.sleep(_RETRY_SECONDS)


class _Stream:
    """One stream: what was sent, what was answered, how much more may be sent."""

    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[bytes, bytes]",
        job: WriteJob,
        batches: Sequence[Template],
        recorder: Recorder,
    ) -> None:
        self._call = call
        self._job = job
        self._batches = batches
        self._recorder = recorder
        self._sent_at: deque[float] = deque()
        self._window = 0
        self._changed = asyncio.Event()

    @property
    def unacknowledged(self) -> int:
        """Batches sent and not answered."""
        return len(self._sent_at)

    async def run(self, producer_id: str, budget: Budget) -> None:
        """Send until the budget is used up, then wait for the last answer."""
        start = pb.WriteStreamStart(producer_id=producer_id, ack=_ACK_LEVELS[self._job.ack])
        await self._call.write(pb.WriteStreamRequest(start=start).SerializeToString())
        sending = asyncio.create_task(self._send(budget))
        try:
            await self._read()  # To the end of the stream, whoever ends it.
        finally:
            sending.cancel()
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            none = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(code, none, none, await self._call.details())

    async def _send(self, budget: Budget) -> None:
        for sequence in itertools.count(1):
            while self.unacknowledged >= self._window:
                self._changed.clear()
                await self._changed.wait()
            if not budget.take(self._job.points):
                break
            template = self._batches[(sequence - 1) % len(self._batches)]
            batch = (
                template.with_varints(_times(len(template.offsets)))
                + _SEQUENCE_TAG
                + varint(sequence)
            )
            self._sent_at.append(time.monotonic())
            await self._call.write(_BATCH_TAG + varint(len(batch)) + batch)
        await self._call.done_writing()

    async def _read(self) -> None:
        async for message in self._call:
            response = pb.WriteStreamResponse.FromString(message)
            if response.HasField("credit"):
                allowed = min(response.credit.batches, response.credit.points // self._job.points)
                self._window = min(allowed, self._job.window_batches)
            now = time.monotonic()
            for ack in response.acks:
                latency = now - self._sent_at.popleft()
                if ack.message or ack.rejected_count or ack.duplicate:
                    self._recorder.failed(self._job.points, f"batch refused: {ack.message[:120]}")
                else:
                    self._recorder.acknowledged(ack.accepted_count, latency)
            self._changed.set()


def words(error: grpc.aio.AioRpcError) -> str:
    """Say how a call failed."""
    return f"{error.code().name}: {(error.details() or '')[:120]}"


async def _come_again(error: grpc.aio.AioRpcError, job: WriteJob, recorder: Recorder) -> bool:
    """Count a refusal for lack of room, and wait as long as it says."""
    if error.code() is not _OVERLOADED:
        return False
    recorder.overloaded()
    if not job.retry_overloaded:
        return False
    await asyncio.sleep(_retry_seconds(error))
    return True


def _retry_seconds(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return _RETRY_SECONDS


def _perhaps(error: grpc.aio.AioRpcError, points: int) -> int:
    """Return how many points a failed call may have stored all the same."""
    return 0 if error.code() is _OVERLOADED else points


def _metadata(fleet: Fleet, tenant: int) -> tuple[tuple[str, str], ...]:
    return (("x-atlas-tenant", fleet.tenant_keys[tenant]),)


def _times(points: int) -> npt.NDArray[np.int64]:
    """Return times behind the present, each its own."""
    return time.time_ns() // 1_000 - points + np.arange(points, dtype=np.int64)
