"""What a producer has taken and not delivered: where it waits, and how much of it there may be."""

import asyncio
from collections import deque
from itertools import islice

from atlas.type.v1 import value_pb2
from atlas_client.producer.batch import OpenBatch
from atlas_client.producer.bell import Bell
from atlas_client.producer.outbox import Outbox
from atlas_client.producer.spool import Spool

_PLACED_AT_ONCE_MAX = 64


class Buffer:
    """Points gather in an open batch; closed ones are numbered and put into memory or the spool.

    Numbering, spooling and queueing are one task's work: a caller that is cancelled leaves no
    number half given. `changed` rings whenever there may be room, or work.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        spool: Spool | None,
        durable: bool,
        batch_points: int,
        linger_seconds: float,
        memory_points_max: int,
        changed: Bell,
    ) -> None:
        self._outbox = outbox
        self._spool = spool
        self._durable = durable
        self._batch_points = batch_points
        self._linger_seconds = linger_seconds
        self._memory_points_max = memory_points_max
        # Beyond this batches go to the spool: the rest is for those on their way there.
        self._kept_points_max = memory_points_max // 2 if spool is not None else memory_points_max
        self._changed = changed
        self._open = OpenBatch()
        self._closed: deque[OpenBatch] = deque()
        self._closed_points = 0

    @property
    def memory_points(self) -> int:
        """Points in memory, wherever they are on their way."""
        return self._open.points + self._closed_points + self._outbox.memory_points

    @property
    def waiting_points(self) -> int:
        """Points that are in no numbered batch yet."""
        return self._open.points + self._closed_points

    @property
    def is_full(self) -> bool:
        """Whether a point has to wait."""
        return self.memory_points >= self._memory_points_max

    def add(self, point: value_pb2.Point) -> bool:
        """Take a point; True if that filled a batch. The caller has seen that there is room."""
        if not self._open.points:
            self._changed.ring()  # The linger begins.
        self._open.add(point)
        if not self._open.is_full(self._batch_points):
            return False
        self.close_batch()
        return True

    def close_batch(self) -> None:
        """No more points into the open batch, if it has any."""
        if self._open.points:
            self._closed.append(self._open)
            self._closed_points += self._open.points
            self._open = OpenBatch()
            self._changed.ring()

    async def linger(self) -> None:
        """Close batches that are not filled in time, until cancelled.

        While batches wait to be sent there is no hurry, and fewer, larger ones are better; but what
        shall survive us has to get to the disk.
        """
        while True:
            while not self._open.points:
                await self._changed.wait()
            lingering = self._open
            await asyncio.sleep(self._linger_seconds)
            while lingering is self._open and self._outbox.unsent and not self._durable:
                await self._changed.wait()
            if lingering is self._open:
                self.close_batch()

    async def place(self) -> None:
        """Number closed batches and put them where they wait, until cancelled. Raises OSError."""
        while True:
            while not self._closed:
                await self._changed.wait()
            if not await self._place_some():
                await self._changed.wait()  # Neither memory nor spool has room: acks make some.

    async def spill(self) -> int:
        """Put into the spool what only memory has; how many points found no room. Raises OSError.

        Nothing else may run in this buffer any more.
        """
        self.close_batch()
        while self._closed:
            self._queue_in_memory(self._closed[0])
        batches = self._outbox.in_memory_only()
        written = 0
        if self._spool is not None and batches:
            written = await asyncio.to_thread(self._spool.append, batches, sync=True)
        return sum(batch.points for batch in batches[written:])

    async def _place_some(self) -> bool:
        if self._spool is None:
            self._queue_in_memory(self._closed[0])
            return True
        if not self._durable and self._fits_memory(self._closed[0]):
            self._queue_in_memory(self._closed[0])
            return True
        return await self._place_in_spool(self._spool)

    async def _place_in_spool(self, spool: Spool) -> bool:
        """As many as there are, for one wait for the disk."""
        numbered = [
            (closed, closed.numbered(sequence))
            for sequence, closed in enumerate(
                islice(self._closed, _PLACED_AT_ONCE_MAX), self._outbox.last_numbered + 1
            )
        ]
        batches = [batch for _, batch in numbered]
        written = await asyncio.to_thread(spool.append, batches, sync=self._durable)
        for closed, batch in numbered[:written]:
            if not self._fits_memory(closed):
                batch.message = None
            self._pop(closed)
            self._outbox.append(batch)
        self._changed.ring()
        return written > 0

    def _fits_memory(self, closed: OpenBatch) -> bool:
        return self._outbox.memory_points + closed.points <= self._kept_points_max

    def _queue_in_memory(self, closed: OpenBatch) -> None:
        self._pop(closed)
        self._outbox.append(closed.numbered(self._outbox.last_numbered + 1))
        self._changed.ring()

    def _pop(self, closed: OpenBatch) -> None:
        first = self._closed.popleft()
        assert first is closed
        self._closed_points -= closed.points
