"""Producer: the class that programs use."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.freshness import merge
from atlas.type.v1 import value_pb2
from atlas_client import convert
from atlas_client.client import AtlasClient
from atlas_client.producer import batch
from atlas_client.producer.bell import Bell
from atlas_client.producer.buffer import Buffer
from atlas_client.producer.delivery import Delivery, Door
from atlas_client.producer.errors import (
    BufferFullError,
    ProducerClosedError,
    ProducerError,
    UndeliveredError,
)
from atlas_client.producer.outbox import Outbox
from atlas_client.producer.records import ProducerStats, RefusedBatch
from atlas_client.producer.segment import Owner
from atlas_client.producer.spool import Spool
from atlas_client.producer.tally import Tally
from atlas_client.records import AckLevel, Point
from atlas_client.session import Session
from atlas_client.values import Value

CLOSE_SECONDS = 30.0
_YIELD_EVERY = 256
_LIFE_BYTES = 6
_PRODUCER_ID_BYTES_MAX = 115  # With ":" and the life it is a producer_id of at most 128 bytes.


class Producer:
    """Delivers points exactly once, in the order they were given, for as long as it takes.

        async with Producer(client, "gateway-7") as producer:
            await producer.send("pump-1", "rpm", 1480)

    Points gather in batches; batches go through one stream, in order, and are sent again after
    every break until they are acknowledged. Breaks are repeated for ever, with pauses of up to five
    seconds. When `memory_points_max` points wait, batches overflow into the spool, if there is one;
    when that is full too, send() waits.

    What is only in memory is lost with the process. With a spool, what is in it is sent by the next
    producer on the same directory, first and once. `durable=True` puts every batch into the spool,
    and waits for the disk, before it is sent: then only the last `linger_ms` can be lost.

    Bad points are refused one by one (`partial_success`, else with their batch): they are counted,
    and told to `on_refused`, which is called in the event loop and must not block.

    One event loop, any number of its tasks. Each run of a process is a producer of its own to the
    platform: two with the same `producer_id` do not disturb each other.
    """

    def __init__(
        self,
        client: AtlasClient,
        producer_id: str,
        *,
        tenant: str | None = None,
        ack: AckLevel = AckLevel.DURABLE,
        partial_success: bool = True,
        batch_points: int = 1_000,
        linger_ms: float = 20.0,
        memory_points_max: int = 100_000,
        spool_directory: Path | str | None = None,
        spool_bytes_max: int = 256 * 2**20,
        durable: bool = False,
        on_refused: Callable[[RefusedBatch], None] | None = None,
        session: Session | None = None,
    ) -> None:
        """Nothing is opened before the block. Raises ValueError for bounds that cannot be.

        `tenant`: other than the client's. `session`: its later reads see what was acknowledged.
        """
        _check(
            client,
            producer_id,
            tenant,
            batch_points=batch_points,
            linger_ms=linger_ms,
            memory_points_max=memory_points_max,
        )
        if durable and spool_directory is None:
            raise ValueError("durable=True needs a spool_directory")
        self._client = client if tenant is None else client.for_tenant(tenant)
        self._producer_id = producer_id
        self._ack = ack
        self._partial_success = partial_success
        self._batch_points = batch_points
        self._linger_seconds = linger_ms / 1000
        self._memory_points_max = memory_points_max
        self._spool_directory = None if spool_directory is None else Path(spool_directory)
        self._spool_bytes_max = spool_bytes_max
        self._durable = durable
        self._session = session
        self._token = b""
        self._tally = Tally(on_refused)
        self._changed = Bell()
        self._outbox = Outbox(f"{producer_id}:{secrets.token_hex(_LIFE_BYTES)}")
        self._outboxes = [self._outbox]
        self._spool: Spool | None = None
        self._buffer: Buffer | None = None
        self._delivery: Delivery | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._is_closed = False

    @property
    def life(self) -> str:
        """The producer_id of this run's streams: AtlasClient.producer_position() knows it."""
        return self._outbox.life

    @property
    def token(self) -> bytes:
        """Holds all that was acknowledged: give it to a read as at_least_as_fresh."""
        return self._token

    async def __aenter__(self) -> Self:
        """Open the spool and begin. Raises SpoolInUseError, OSError."""
        if self._is_closed or self._buffer is not None:
            raise ProducerClosedError("a producer is used once")
        if self._spool_directory is not None:
            self._spool = await asyncio.to_thread(self._open_spool, self._spool_directory)
            left = [Outbox(each.life, each.batches) for each in self._spool.leftovers]
            self._outboxes = [*left, self._outbox]
        self._buffer = Buffer(
            self._outbox,
            spool=self._spool,
            durable=self._durable,
            batch_points=self._batch_points,
            linger_seconds=self._linger_seconds,
            memory_points_max=self._memory_points_max,
            changed=self._changed,
        )
        self._delivery = Delivery(
            self._door(),
            self._outboxes,
            spool=self._spool,
            tally=self._tally,
            changed=self._changed,
        )
        for work in (self._buffer.linger, self._buffer.place, self._delivery.run):
            task = asyncio.create_task(work(), name=f"producer {work.__name__}")
            task.add_done_callback(self._ended)
            self._tasks.append(task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close: after an error at once, else when all is acknowledged, as close() does."""
        if kind is None:
            await self.close()
        else:
            with contextlib.suppress(ProducerError):
                await self.close(timeout=0)

    async def send(
        self,
        entity: str,
        attribute: str,
        value: Value,
        *,
        event_time: datetime | None = None,
        quality: int = 0,
        block: bool = True,
    ) -> None:
        """Take one point; without an event time, of this moment.

        Returns when it is taken, which is before it is sent: see flush(). Waits while the buffer is
        full; with `block=False` raises BufferFullError instead. Raises ProducerClosedError,
        ProducerError when delivery has failed for good, and what values.set_value() raises.
        """
        point = Point(entity, attribute, value, event_time, quality)
        await self.send_many((point,), block=block)

    async def send_many(
        self, points: Iterable[Point | value_pb2.Point], *, block: bool = True
    ) -> None:
        """Take points in their order; as send(). BufferFullError says how many were taken."""
        for taken, point in enumerate(points):
            message = _message(point)
            buffer = self._open_buffer()
            while buffer.is_full:
                if not block:
                    raise BufferFullError(taken, buffer.memory_points)
                await self._changed.wait()
                buffer = self._open_buffer()
            self._tally.taken_points += 1
            if buffer.add(message) or self._tally.taken_points % _YIELD_EVERY == 0:
                await asyncio.sleep(0)  # A caller that never waits would leave no time to send.

    async def flush(self, timeout: float | None = None) -> None:
        """Return when all that was taken so far, and all leftovers, are acknowledged.

        Raises TimeoutError after `timeout` seconds (everything goes on), ProducerError.
        """
        until = self._tally.taken_points
        buffer = self._open_buffer()
        async with asyncio.timeout(timeout):
            while self._outbox.settled_points < until or any(map(len, self._outboxes[:-1])):
                if buffer.waiting_points:
                    buffer.close_batch()
                await self._changed.wait()
                self._open_buffer()

    async def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Take no more; wait for acknowledgements for at most `timeout` seconds; end.

        What is left then goes to the spool, for the next producer there; without one it is lost:
        UndeliveredError. A second time changes nothing.
        """
        if self._is_closed:
            return
        try:
            if timeout > 0 and self._buffer is not None:
                with contextlib.suppress(TimeoutError, ProducerError):
                    await self.flush(timeout)
        finally:
            self._is_closed = True
            await self._stop()

    def stats(self) -> ProducerStats:
        """Counters, and what is held just now."""
        buffer, spool, tally = self._buffer, self._spool, self._tally
        stream = None if self._delivery is None else self._delivery.stream
        waiting = sum(outbox.points for outbox in self._outboxes)
        return ProducerStats(
            taken_points=tally.taken_points,
            accepted_points=tally.accepted_points,
            refused_points=tally.refused_points,
            refused_batches=tally.refused_batches,
            acknowledged_batches=tally.acknowledged_batches,
            duplicate_batches=tally.duplicate_batches,
            recovered_batches=tally.recovered_batches,
            lost_batches=tally.lost_batches,
            streams=tally.streams,
            waiting_points=waiting + (0 if buffer is None else buffer.waiting_points),
            memory_points=0 if buffer is None else buffer.memory_points,
            spooled_batches=0 if spool is None else spool.batches,
            spooled_bytes=0 if spool is None else spool.bytes_used,
            in_flight_batches=0 if stream is None else stream.in_flight,
            connected=stream is not None,
            last_error=tally.last_error,
        )

    def _open_buffer(self) -> Buffer:
        if self._failure is not None:
            raise ProducerError(f"delivery has failed: {self._failure}") from self._failure
        if self._is_closed or self._buffer is None:
            raise ProducerClosedError("points are taken within the producer's block alone")
        return self._buffer

    def _open_spool(self, directory: Path) -> Spool:
        owner = Owner(self._client.tenant or "", self._producer_id, self._outbox.life)
        return Spool(directory, owner, bytes_max=self._spool_bytes_max)

    def _door(self) -> Door:
        start = pb.WriteStreamStart(
            ack=convert.ACK_LEVELS[self._ack], partial_success=self._partial_success
        )
        return Door(self._client.open_write_stream, start, self._observe)

    def _observe(self, token: bytes) -> None:
        if token:
            self._token = merge(self._token, token)
            if self._session is not None:
                self._session.observe(token)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._failure = task.exception() or ProducerError(f"{task.get_name()} has ended")
            self._changed.ring()  # Whoever waits for room or for acknowledgements is told.

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._changed.ring()
        lost = 0 if self._buffer is None else await self._buffer.spill()
        if self._spool is not None:
            await asyncio.to_thread(self._spool.close)
        if lost:
            raise UndeliveredError(lost)


def _message(point: Point | value_pb2.Point) -> value_pb2.Point:
    """The point with an event time: it may be stored much later than it is taken."""
    message = convert.point(point) if isinstance(point, Point) else point
    if not message.HasField("event_time_us"):
        if message is point:
            message = value_pb2.Point()
            message.CopyFrom(point)
        message.event_time_us = time.time_ns() // 1_000
    return message


def _check(
    client: AtlasClient,
    producer_id: str,
    tenant: str | None,
    *,
    batch_points: int,
    linger_ms: float,
    memory_points_max: int,
) -> None:
    if not (tenant or client.tenant):
        raise ValueError("neither the producer nor its client has a tenant")
    size = len(producer_id.encode())
    if not 0 < size <= _PRODUCER_ID_BYTES_MAX or not producer_id.isprintable():
        raise ValueError(
            f"producer_id has {size} bytes: give 1 to {_PRODUCER_ID_BYTES_MAX}, printable"
        )
    if not 0 < batch_points <= batch.POINTS_MAX:
        raise ValueError(f"batch_points is {batch_points}: give 1 to {batch.POINTS_MAX}")
    if linger_ms < 0:
        raise ValueError(f"linger_ms is {linger_ms}: give 0 or more")
    if memory_points_max < 4 * batch_points:
        raise ValueError(
            f"memory_points_max is {memory_points_max}: give {4 * batch_points}, four batches"
        )
