"""Keeping a stream open, again and again, until everything is acknowledged."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import grpc

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_client.errors import AtlasError
from atlas_client.producer.backoff import Backoff
from atlas_client.producer.bell import Bell
from atlas_client.producer.errors import ProducerError
from atlas_client.producer.outbox import Outbox
from atlas_client.producer.spool import Spool
from atlas_client.producer.stream import BrokenStreamError, ProducerStream
from atlas_client.producer.tally import Tally

OPEN_SECONDS = 15.0
"""Longest wait for the answer to a start."""
STAGED_SECONDS = 60.0
"""How long batches acknowledged as STAGED are waited for after a break, until given up."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """How streams are opened: the call, its start but for the producer_id, who sees the tokens."""

    open: Callable[[], AbstractAsyncContextManager[Any]]
    start: pb.WriteStreamStart
    observe: Callable[[bytes], None]

    def start_message(self, life: str) -> bytes:
        """The first message of a stream."""
        start = pb.WriteStreamStart()
        start.CopyFrom(self.start)
        start.producer_id = life
        return pb.WriteStreamRequest(start=start).SerializeToString()


class Delivery:
    """Sends one outbox after the other: what earlier lives left, then what this one takes."""

    def __init__(
        self,
        door: Door,
        outboxes: Sequence[Outbox],
        *,
        spool: Spool | None,
        tally: Tally,
        changed: Bell,
    ) -> None:
        self._door = door
        self._outboxes = outboxes
        self._spool = spool
        self._tally = tally
        self._changed = changed
        self._backoff = Backoff()
        self._behind_since: float | None = None
        self._stream: ProducerStream | None = None

    @property
    def stream(self) -> ProducerStream | None:
        """The stream, while one is open."""
        return self._stream

    async def run(self) -> None:
        """Deliver until cancelled. Raises ProducerError, OSError: what no repetition mends."""
        *left, own = self._outboxes
        for outbox in left:
            while len(outbox):
                await self._attempt(outbox, is_final=True)
        while True:
            while not len(own):
                await self._changed.wait()
            await self._attempt(own, is_final=False)

    async def _attempt(self, outbox: Outbox, *, is_final: bool) -> None:
        done_before = outbox.done_through
        at_least = 0.0
        try:
            await self._one_stream(outbox, is_final=is_final)
            if not len(outbox):
                return
        except AtlasError as error:
            self._note(error)
            at_least = error.retry_after or 0.0
        except (BrokenStreamError, TimeoutError) as error:
            self._note(error)
        finally:
            self._stream = None
            self._changed.ring()
        if outbox.done_through > done_before:
            self._backoff.reset()  # It got on, so the platform is well; a break may happen.
        await asyncio.sleep(self._backoff.next(at_least=at_least))

    def _note(self, error: Exception) -> None:
        if not self._tally.last_error:
            _log.warning("the stream broke and is opened again: %s", error)
        self._tally.last_error = str(error) or type(error).__name__

    async def _one_stream(self, outbox: Outbox, *, is_final: bool) -> None:
        self._tally.streams += 1
        async with self._door.open() as call:
            async with asyncio.timeout(OPEN_SECONDS):
                await call.write(self._door.start_message(outbox.life))
                answer = await call.read()
            if answer is grpc.aio.EOF or not answer.HasField("started"):
                raise BrokenStreamError("the platform did not answer the start")
            stream = ProducerStream(
                call,
                outbox,
                position=answer.started.position,
                credit=answer.credit,
                is_final=is_final,
                spool=self._spool,
                tally=self._tally,
                changed=self._changed,
            )
            self._door.observe(answer.token)
            await self._resume(outbox, stream, answer.started.position, is_final=is_final)
            self._stream = stream
            self._changed.ring()
            await self._exchange(call, stream)
        if stream.in_flight:
            raise BrokenStreamError("the stream ended before everything was acknowledged")

    async def _resume(
        self, outbox: Outbox, stream: ProducerStream, position: int, *, is_final: bool
    ) -> None:
        """Drop what is stored; see to it that the rest can follow the position."""
        if position > outbox.last_numbered and not is_final:
            raise ProducerError(
                f"the platform has sequence {position} of {outbox.life!r}, which never was given"
            )
        if position < outbox.done_through:
            self._wait_for_staged()
        else:
            self._behind_since = None
        finished = outbox.finish_through(position)
        self._tally.recovered_batches += len(finished)
        await stream.release(finished)
        outbox.rewind()

    def _wait_for_staged(self) -> None:
        """The platform is behind what we know: is that to be waited for, or is it lost?

        Batches that were acknowledged as STAGED are on their way, if whoever had them died: the
        next owner of their lane flushes them. To fill their numbers now would lose them.
        """
        if self._door.start.ack != pb.ACK_LEVEL_STAGED:
            return
        now = asyncio.get_running_loop().time()
        if self._behind_since is None:
            self._behind_since = now
        if now - self._behind_since < STAGED_SECONDS:
            raise BrokenStreamError("staged batches are not flushed yet")

    async def _exchange(self, call: Any, stream: ProducerStream) -> None:
        writing = asyncio.create_task(stream.write(), name="producer writes")
        reading = asyncio.create_task(self._read(call, stream), name="producer reads")
        try:
            # The reader sees the end of the call; the writer alone may fail of a spool.
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
            await reading
        finally:
            for task in (writing, reading):
                task.cancel()
            await asyncio.gather(writing, reading, return_exceptions=True)

    async def _read(self, call: Any, stream: ProducerStream) -> None:
        while True:
            response = await call.read()
            if response is grpc.aio.EOF:
                return
            # First the token: whoever sees a batch acknowledged may read it in the session.
            self._door.observe(response.token)
            await stream.take(response)
