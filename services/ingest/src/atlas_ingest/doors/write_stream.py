"""One WriteStream: batches in, acknowledgements out, in order and within a window.

    requests -> reader: judge the number, wait for room, submit -> entries -> acknowledgements

Two tasks. The reader takes on batch after batch; beyond the window it does not read, and HTTP/2
holds the sender up. The call's own task waits for the oldest entry, and answers with it all that
are ready: a flush answers many batches with one message.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_common.token import Position, TokenSigner
from atlas_ingest import metrics
from atlas_ingest.budget import Admission
from atlas_ingest.config import StreamConfig
from atlas_ingest.doors import stream_convert as convert
from atlas_ingest.doors.sequences import Sequences
from atlas_ingest.doors.stream_convert import BatchOutcome, StreamStart
from atlas_ingest.doors.window import Credit, Window
from atlas_ingest.optimizer import Ingested, WriteOptimizer
from atlas_ingest.refusal import BatchRefusedError
from atlas_ingest.staging import StagingMonitor

_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.01, 0.25


class _Event(Enum):
    """What the call's own task has to answer."""

    DONE = "done"
    SHRUNK = "shrunk"
    OVER = "over"


@dataclass(slots=True)
class _Entry:
    """A batch between its reading and its acknowledgement; `ingesting`: None if all is known."""

    sequence: int
    points: int
    taken_at: float
    ingesting: "asyncio.Task[Ingested] | None" = None
    is_duplicate: bool = False
    refused: ServiceError | None = None

    @property
    def is_done(self) -> bool:
        return self.ingesting is None or self.ingesting.done()


class WriteStream:
    """A stream whose start is known."""

    def __init__(
        self,
        tenant: Tenant,
        start: StreamStart,
        *,
        optimizer: WriteOptimizer,
        signer: TokenSigner,
        monitor: StagingMonitor,
        config: StreamConfig,
    ) -> None:
        self._tenant = tenant
        self._start = start
        self._optimizer = optimizer
        self._signer = signer
        self._monitor = monitor
        self._idle_seconds = config.idle_seconds
        self._window = Window(Credit(config.window_batches, config.window_points))
        self._entries: deque[_Entry] = deque()
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._is_taking = False
        self._is_submitting = False
        self._end: Exception | None = None
        self._held: Position | None = None

    @property
    def under_way(self) -> Sequence["asyncio.Task[Ingested]"]:
        """What waits for the database."""
        return [entry.ingesting for entry in self._entries if entry.ingesting is not None]

    def stop(self, error: ServiceError) -> None:
        """Take on nothing more; acknowledge what is under way, then end with this error."""
        if self._end is None:
            self._end = error
        if self._reader is not None and not self._is_submitting:
            self._reader.cancel()
        self._changed.set()

    async def stopped(self) -> None:
        """Return when nothing more is taken on."""
        if self._reader is not None:
            await asyncio.wait({self._reader})

    async def responses(
        self,
        requests: AsyncIterator[pb.WriteStreamRequest],
        sequences: Sequences,
        position: int,
        held: Position | None,
    ) -> AsyncGenerator[pb.WriteStreamResponse, None]:
        """The answers, once; `held` holds the batches up to `position`.

        Raises ServiceError, psycopg.Error: why the stream ended.
        """
        self._held = held
        self._window.grant(self._optimizer.budget.fill)
        token = self._signer.seal(self._tenant.id, [] if held is None else [held])
        yield convert.started(position, token, self._window.credit)
        if self._end is None:
            self._reader = asyncio.create_task(
                self._read(requests, sequences), name="stream reader"
            )
        try:
            while (event := await self._event()) is not _Event.OVER:
                if event is _Event.SHRUNK:
                    yield convert.acknowledged([], b"", self._window.credit)
                    continue
                ready, failure = self._take_done()
                if ready.outcomes:
                    yield self._acknowledged(ready)
                if failure is not None:
                    raise failure
            if self._end is not None:
                raise self._end
        finally:
            await self._leave()

    async def _leave(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
        if not self._start.producer_id:
            # Nobody will ask for these again, so nobody need store what is not on its way yet. A
            # producer's batches go on: it would only send the same ones once more.
            for task in self.under_way:
                task.cancel()

    # The reader --------------------------------------------------------------------------------

    async def _read(
        self, requests: AsyncIterator[pb.WriteStreamRequest], sequences: Sequences
    ) -> None:
        try:
            while True:
                await self._until_room(0)
                await self._until_memory()
                request = await anext(requests, None)
                if request is None:
                    return
                self._is_taking = True
                await self._take(convert.batch_of(request), sequences)
                self._is_taking = False
                if self._end is not None:
                    return
        except Exception as error:  # noqa: BLE001 - the call's own task ends with it.
            self._end = self._end or error
        finally:
            self._is_taking = self._is_submitting = False
            self._changed.set()

    async def _take(self, batch: pb.WriteStreamBatch, sequences: Sequences) -> None:
        if not sequences.is_new(batch.sequence):
            self._append(_Entry(batch.sequence, 0, time.monotonic(), is_duplicate=True))
            return
        points = len(batch.points)
        await self._until_room(points)
        # However long it takes: the sender is held up meanwhile, as by the window.
        await self._optimizer.meters.points_in_time(self._tenant, points)
        self._append(await self._submitted(batch, points))

    async def _submitted(self, batch: pb.WriteStreamBatch, points: int) -> _Entry:
        entry = _Entry(batch.sequence, points, time.monotonic())
        problem = entry.refused = convert.batch_problem(batch)
        if problem is not None and not self._start.producer_id:
            return entry
        size_bytes = batch.ByteSize()
        with await self._admitted(points, size_bytes) as admission:
            now_us = time.time_ns() // 1_000
            write = convert.write_of(
                batch, self._start, now_us, size_bytes=size_bytes, empty=problem is not None
            )
            # Work on it has begun: whoever stops the stream lets that come to its end.
            self._is_submitting = True
            try:
                submitted = await self._optimizer.submit(self._tenant, write, admission, now_us)
            except BatchRefusedError as refused:
                entry.refused = refused
                return entry
            finally:
                self._is_submitting = False
        # No await from here to the entry's queue: a batch on its way has to be known there.
        entry.ingesting = asyncio.create_task(submitted.ingested())
        entry.ingesting.add_done_callback(self._woken)
        return entry

    async def _admitted(self, points: int, size_bytes: int) -> Admission:
        """Room in the process's memory, however long it takes: the sender is held up meanwhile."""
        pause_seconds = _PAUSE_SECONDS_MIN
        while True:
            try:
                return self._optimizer.admit(points, size_bytes)
            except ServiceError:
                await _pause(pause_seconds)
                pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)

    async def _until_memory(self) -> None:
        """A batch is not even read while there is none: it would lie in memory all the same."""
        pause_seconds = _PAUSE_SECONDS_MIN
        while self._optimizer.budget.fill >= 1:
            await _pause(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)

    async def _until_room(self, points: int) -> None:
        while not self._window.fits(points):
            self._changed.clear()
            await self._changed.wait()

    def _append(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._window.add(entry.points)
        self._changed.set()

    # The call's own task -----------------------------------------------------------------------

    async def _event(self) -> "_Event":
        """Wait for the oldest batch's end, or until there is none and no other will come."""
        while not (self._entries and self._entries[0].is_done):
            if not self._entries and self._is_over:
                return _Event.OVER
            if self._window.shrink(self._optimizer.budget.fill):
                return _Event.SHRUNK
            self._changed.clear()
            try:
                async with asyncio.timeout(self._idle_seconds):
                    await self._changed.wait()
            except TimeoutError:
                if not (self._entries or self._is_taking):
                    raise _idle(self._idle_seconds) from None
        # The others of the same flush are told within the same turn of the loop.
        await asyncio.sleep(0)
        return _Event.DONE

    @property
    def _is_over(self) -> bool:
        return self._reader is None or self._reader.done()

    def _take_done(self) -> "tuple[_Ready, BaseException | None]":
        """The finished batches at the front, up to one that failed."""
        ready = _Ready()
        failure: BaseException | None = None
        while failure is None and self._entries and self._entries[0].is_done:
            entry = self._entries.popleft()
            self._window.remove(entry.points)
            failure = _failure(entry)
            if failure is None:
                outcome = _outcome(entry)
                self._count(entry, outcome)
                if entry.ingesting is not None:
                    self._held = entry.ingesting.result().position or self._held
                if self._held is not None:
                    # Of a duplicate: its producer's last one, before which it was stored.
                    ready.positions.add(self._held)
                ready.outcomes.append(outcome)
        self._changed.set()  # There is room.
        return ready, failure

    def _acknowledged(self, ready: "_Ready") -> pb.WriteStreamResponse:
        has_changed = self._window.grant(self._optimizer.budget.fill)
        return convert.acknowledged(
            ready.outcomes,
            self._signer.seal(self._tenant.id, ready.positions),
            self._window.credit if has_changed else None,
        )

    def _count(self, entry: _Entry, outcome: BatchOutcome) -> None:
        metrics.points_accepted.add(outcome.accepted_count)
        metrics.points_rejected.add(outcome.rejected_count)
        self._monitor.rejected_points += outcome.rejected_count
        metrics.ack_seconds.record(
            time.monotonic() - entry.taken_at, {"ack": self._start.ack.value}
        )

    def _woken(self, task: "asyncio.Task[Ingested]") -> None:
        if not task.cancelled():
            task.exception()  # Of a stream that has ended nobody else looks at it.
        self._changed.set()


@dataclass(slots=True)
class _Ready:
    """What one message acknowledges."""

    outcomes: list[BatchOutcome] = field(default_factory=list)
    positions: set[Position] = field(default_factory=set)


def _failure(entry: _Entry) -> BaseException | None:
    if entry.ingesting is None:
        return None
    if entry.ingesting.cancelled():
        return errors.unavailable("DEPENDENCY_UNAVAILABLE", "the write was given up: send it again")
    return entry.ingesting.exception()


def _outcome(entry: _Entry) -> BatchOutcome:
    """Of a batch that did not fail."""
    if entry.is_duplicate:
        return BatchOutcome(entry.sequence, duplicate=True)
    refused = entry.refused
    if entry.ingesting is not None:
        ingested = entry.ingesting.result()
        if ingested.duplicate:
            return BatchOutcome(entry.sequence, duplicate=True)
        if refused is None:
            answer = ingested.answer
            return BatchOutcome(
                entry.sequence,
                accepted_count=answer.accepted_count,
                rejected_count=answer.rejected_count,
                errors=answer.errors,
                refused=ingested.refused,
            )
    assert refused is not None
    if isinstance(refused, BatchRefusedError):
        return BatchOutcome(
            entry.sequence,
            rejected_count=refused.rejections.count,
            errors=refused.rejections.errors,
            refused=refused,
        )
    return BatchOutcome(entry.sequence, rejected_count=entry.points, refused=refused)


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311 - streams come back apart.


def _idle(seconds: float) -> ServiceError:
    return errors.deadline_exceeded(
        "DEADLINE_EXCEEDED",
        f"nothing was sent for {seconds:g} s: open another stream when there is something to send",
    )
