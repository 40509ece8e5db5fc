"""Writers through the two streaming doors, as careful about what they do not know as unary ones."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc.aio
import pyarrow as pa

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import error_pb2
from atlas_common.rpc import TENANT_KEY

from .ledger import Level, Outcome, SentBatch, SentPoint
from .load import CALL_SECONDS_MAX, Door, Stub

WINDOW_BATCHES = 8
_LOOK_AGAIN_SECONDS = 0.2
_ARROW_MESSAGES = 3
_SCHEMA = pa.schema(
    [
        ("entity_key", pa.string()),
        ("attribute", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
        ("int_value", pa.int64()),
        ("text_value", pa.string()),
    ]
)
NewBatch = Callable[[], SentBatch | None]
"""The next batch; None when there is to be none."""


class StreamWriter:
    """A producer: one WriteStream after another, at any process, until all is acknowledged."""

    def __init__(self, door: Door, tenant: str, producer: str, level: Level, new: NewBatch) -> None:
        self._door = door
        self._tenant = tenant
        self._start = pb.WriteStreamStart(producer_id=producer, ack=pb.AckLevel.ValueType(level))
        self._new = new
        self._numbers = itertools.count(1)
        self._unknown: deque[tuple[int, SentBatch]] = deque()
        # Acknowledged, but not as DURABLE: kept until the platform says again that it has them.
        self._kept: deque[tuple[int, SentBatch]] = deque()
        self._missed_since: float | None = None
        self._changed = asyncio.Event()
        self._is_over = False

    async def run(self) -> None:
        """Write until there is nothing more to write."""
        while not self._is_over or self._unknown:
            await self._door.attempt(self._one_stream, self._door.stub())

    async def _one_stream(self, stub: Stub) -> None:
        call = stub.WriteStream(metadata=((TENANT_KEY, self._tenant),))
        try:
            await call.write(pb.WriteStreamRequest(start=self._start))
            async with asyncio.timeout(CALL_SECONDS_MAX):
                first = await call.read()
            if first is grpc.aio.EOF:
                return
            self._stored_through(first.started.position, first.token)
            if await self._misses_some():
                return
            sending = asyncio.create_task(self._send(call))
            try:
                await self._read(call)
            finally:
                sending.cancel()
                await asyncio.wait({sending})
        except TimeoutError:
            self._door.ledger.failures["no answer to a start"] += 1
        finally:
            call.cancel()

    async def _send(self, call: Any) -> None:
        """Everything not acknowledged, again, and then what is new."""
        sent = 0
        try:
            async for number, batch in self._batches():
                while sent - self._acknowledged >= WINDOW_BATCHES:
                    self._changed.clear()
                    await self._changed.wait()
                sent += 1
                batch.attempts += 1
                points = [point.message() for point in batch.points]
                await call.write(
                    pb.WriteStreamRequest(batch=pb.WriteStreamBatch(sequence=number, points=points))
                )
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # The reader hears why.

    async def _batches(self) -> AsyncIterator[tuple[int, SentBatch]]:
        self._acknowledged = 0
        for known in tuple(self._unknown):
            yield known
        while not self._is_over:
            batch = self._new()
            if batch is None:
                self._is_over = True
                return
            self._unknown.append((next(self._numbers), batch))
            yield self._unknown[-1]

    async def _read(self, call: Any) -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            for ack in response.acks:
                self._acknowledge(ack, response.token)

    def _acknowledge(self, ack: pb.BatchAck, token: bytes) -> None:
        number, batch = self._unknown.popleft()
        self._acknowledged += 1
        self._changed.set()
        if number != ack.sequence:
            self._door.ledger.surprises.append(f"{batch.key}: sequence {ack.sequence} is told")
        elif ack.duplicate:
            self._stored(batch, token)
        elif ack.refused or batch.is_bad:
            reason = error_pb2.ErrorReason.Name(ack.refused)
            self._door.refused(batch, reason.removeprefix("ERROR_REASON_"))
        else:
            if ack.accepted_count != len(batch.points):
                self._door.ledger.surprises.append(f"{batch.key}: {ack}")
            batch.acknowledge(token)
        # Refused ones too: their numbers are used up, and that may get lost as well.
        if batch.level is not Level.DURABLE:
            self._kept.append((number, batch))

    def _stored_through(self, position: int, token: bytes) -> None:
        """What the platform says it has of us: visible, whatever we asked for."""
        while self._kept and self._kept[0][0] <= position:
            self._kept.popleft()
        if self._kept:
            return
        while self._unknown and self._unknown[0][0] <= position:
            self._stored(self._unknown.popleft()[1], token)
        if self._unknown and self._unknown[0][0] != position + 1:
            self._door.ledger.surprises.append(
                f"{self._start.producer_id}: position {position} after {self._unknown[0][0] - 1}"
            )

    async def _misses_some(self) -> bool:
        """What was acknowledged is not there: whoever lives is about to flush it, or to refill it.

        If it does not come within the time to recover, that is noted, and it is sent again.
        """
        if not self._kept:
            self._missed_since = None
            return False
        now = time.monotonic()
        self._missed_since = self._missed_since or now
        if now - self._missed_since < self._door.patience_seconds:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            return True
        for _, batch in self._kept:
            if batch.outcome is Outcome.ACKNOWLEDGED:
                self._door.ledger.lost.append((batch, batch.acknowledged_at))
            batch.outcome = Outcome.UNKNOWN
        self._unknown.extendleft(reversed(self._kept))
        self._kept.clear()
        return False

    def _stored(self, batch: SentBatch, token: bytes) -> None:
        if batch.is_bad:
            batch.refuse("its number is used up")
        else:
            batch.level = min(batch.level, Level.COMMITTED)
            batch.acknowledge(token, duplicate=True)


class ArrowWriter:
    """One WriteArrow after another; a broken one is sent again from its beginning."""

    def __init__(self, door: Door, tenant: str) -> None:
        self._door = door
        self._metadata = ((TENANT_KEY, tenant),)

    async def run(self, new: NewBatch) -> None:
        """Write until there is nothing more to write."""
        while (batch := new()) is not None:
            await self._door.settle(batch, self.write)

    async def write(self, stub: Stub, batch: SentBatch) -> None:
        answer = await stub.WriteArrow(
            arrow_requests(batch), timeout=CALL_SECONDS_MAX, metadata=self._metadata
        )
        if answer.accepted_count != len(batch.points):
            self._door.ledger.surprises.append(f"{batch.key}: {answer.accepted_count} accepted")
        batch.acknowledge(answer.token, duplicate=answer.duplicate_messages == _ARROW_MESSAGES)


def arrow_requests(batch: SentBatch) -> Iterator[pb.WriteArrowRequest]:
    """The stream of a batch: a start, then its points in several messages."""
    yield pb.WriteArrowRequest(
        start=pb.WriteArrowStart(request_id=batch.key, ack=pb.AckLevel.ValueType(batch.level))
    )
    for part in range(_ARROW_MESSAGES):
        yield pb.WriteArrowRequest(ipc_stream=_ipc(batch.points[part::_ARROW_MESSAGES]))


def _ipc(points: tuple[SentPoint, ...]) -> bytes:
    messages = [point.message() for point in points]
    columns = [
        [message.entity_key for message in messages],
        [message.attribute for message in messages],
        [message.event_time_us for message in messages],
        [m.int_value if m.HasField("int_value") else None for m in messages],
        [m.text_value if m.HasField("text_value") else None for m in messages],
    ]
    batch = pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
