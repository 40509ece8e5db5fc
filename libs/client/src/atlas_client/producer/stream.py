"""One stream of a producer: what is sent within the credit, and what is acknowledged."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_client import convert
from atlas_client.errors import reason_name
from atlas_client.producer.batch import Batch, filler, points_of
from atlas_client.producer.bell import Bell
from atlas_client.producer.outbox import Outbox
from atlas_client.producer.records import RefusedBatch
from atlas_client.producer.segment import DamagedRecordError
from atlas_client.producer.spool import Spool
from atlas_client.producer.tally import Tally

IDLE_SECONDS = 30.0
"""A stream without anything to send is closed; the next batch opens another."""


class BrokenStreamError(Exception):
    """The stream cannot go on, another one may."""


@dataclass(frozen=True, slots=True)
class _Sent:
    sequence: int
    points: int
    batch: Batch | None  # None: a filler.


class ProducerStream:
    """A stream that has been started. `position`: the last stored sequence it was told."""

    def __init__(
        self,
        call: Any,
        outbox: Outbox,
        *,
        position: int,
        credit: pb.WriteStreamCredit,
        is_final: bool,
        spool: Spool | None,
        tally: Tally,
        changed: Bell,
    ) -> None:
        self._call = call
        self._outbox = outbox
        self._next_number = position + 1
        self._credit = credit
        self._is_final = is_final
        self._spool = spool
        self._tally = tally
        self._changed = changed
        self._in_flight: deque[_Sent] = deque()
        self._in_flight_points = 0

    @property
    def in_flight(self) -> int:
        """Batches sent and not acknowledged."""
        return len(self._in_flight)

    async def write(self) -> None:
        """Send until the stream is idle, or the outbox is empty and final; then end our side."""
        outbox = self._outbox
        # The end of a call is told by its reader.
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            while await self._has_more():
                batch = outbox.first_unsent()
                assert batch is not None
                if batch.sequence > self._next_number:
                    await self._send(None, filler(self._next_number))
                else:
                    await self._send(batch, await self._message(batch))
            await self._call.done_writing()

    async def take(self, response: pb.WriteStreamResponse) -> None:
        """Work off what the platform says. Raises BrokenStreamError, OSError."""
        if response.HasField("credit"):
            self._credit = response.credit
        finished: list[Batch] = []
        for ack in response.acks:
            finished += await self._acknowledge(ack)
        if finished:
            self._tally.last_error = ""
            await self.release(finished)
        self._changed.ring()

    async def release(self, finished: list[Batch]) -> None:
        """Give back what batches that are done with hold."""
        self._tally.acknowledged_batches += len(finished)
        records = [batch.record for batch in finished if batch.record is not None]
        if records and self._spool is not None:
            await asyncio.to_thread(self._spool.release, records)

    async def _has_more(self) -> bool:
        while not self._outbox.unsent:
            if self._is_final:
                return False
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                if not len(self._outbox):
                    return False
        return True

    async def _send(self, batch: Batch | None, message: bytes | None) -> None:
        points = batch.points if batch is not None and message is not None else 0
        while not self._has_room(points):
            await self._changed.wait()
        if message is None:
            message = filler(self._next_number)
        self._in_flight.append(_Sent(self._next_number, points, batch))
        self._in_flight_points += points
        self._next_number += 1
        if batch is not None:
            self._outbox.mark_sent()
        await self._call.write(message)

    def _has_room(self, points: int) -> bool:
        # One batch may always be under way: no credit is too small for ever.
        return not self._in_flight or (
            len(self._in_flight) < self._credit.batches
            and self._in_flight_points + points <= self._credit.points
        )

    async def _message(self, batch: Batch) -> bytes | None:
        """The batch as it is sent; None if its file is damaged."""
        if batch.message is not None:
            return batch.message
        assert self._spool is not None
        assert batch.record is not None
        try:
            return await asyncio.to_thread(self._spool.read, batch.record)
        except DamagedRecordError:
            self._tally.lost_batches += 1
            return None

    async def _acknowledge(self, ack: pb.BatchAck) -> list[Batch]:
        if not self._in_flight or self._in_flight[0].sequence != ack.sequence:
            raise BrokenStreamError(f"sequence {ack.sequence} was acknowledged out of order")
        sent = self._in_flight.popleft()
        self._in_flight_points -= sent.points
        if sent.batch is None:
            # Known already: what an earlier life had sent has arrived after all.
            self._tally.lost_batches += not ack.duplicate
        elif ack.duplicate:
            self._tally.duplicate_batches += 1
        else:
            self._tally.accepted_points += ack.accepted_count
            if ack.refused or ack.rejected_count:
                await self._refuse(sent.batch, ack)
        return self._outbox.finish_through(ack.sequence)

    async def _refuse(self, batch: Batch, ack: pb.BatchAck) -> None:
        message = await self._message(batch)
        self._tally.refuse(
            RefusedBatch(
                sequence=batch.sequence,
                reason=reason_name(ack.refused) if ack.refused else "",
                message=ack.message,
                rejected_count=batch.points if ack.refused else ack.rejected_count,
                errors=convert.point_errors(ack.errors),
                points=() if message is None else points_of(message),
            )
        )
