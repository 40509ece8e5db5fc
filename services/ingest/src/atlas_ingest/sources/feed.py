"""One partition of a topic on its way into the database, in order, from where the flushes have it.

    offer -> [waiting] -> submit -> [under way] -> stored

Where to go on is read from the database, whenever the partition is assigned and after each setback.
What was read and is not stored stays in memory, so that a setback needs no second reading.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from atlas_common import telemetry
from atlas_common.errors import FatalError
from atlas_ingest.points import SourceOffset
from atlas_ingest.sources import metrics
from atlas_ingest.sources.backlog import Backlog
from atlas_ingest.sources.backoff import Backoff
from atlas_ingest.sources.faults import FAILURES_MAX, given_up, is_suspect, refusal_of
from atlas_ingest.sources.intake import OnItsWay
from atlas_ingest.sources.message import Incoming, Refusal

_log = telemetry.logger(__name__)


class OffsetLostError(Exception):
    """The topic does not have the offset any more."""


class Submitting(Protocol):
    """Where messages go (see Intake)."""

    async def submit(self, message: Incoming, refusal: Refusal | None = None) -> OnItsWay:
        """Send a message on its way."""


class Offsets(Protocol):
    """What the database says (see SourceOffsets)."""

    async def next_offset(self, topic: str, partition: int) -> int | None:
        """The offset after the last stored message; None if none was ever stored."""


class Reader(Protocol):
    """Who reads the topic (see KafkaSource)."""

    async def read_from(self, feed: "Feed", next_offset: int | None) -> None:
        """Go on reading there: `feed.begin` is called, then `feed.offer`."""


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as the topic has it."""

    offset: int
    raw: bytes
    sent_us: int


@dataclass(frozen=True, slots=True)
class _UnderWay:
    message: RawMessage
    outcome: OnItsWay


class Feed:
    """Takes what is read from a partition and sees it stored; `next_stored` tells how far."""

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        intake: Submitting,
        offsets: Offsets,
        reader: Reader,
        backlog: Backlog,
        backoff: Backoff | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.next_stored: int | None = None
        self.is_reading = False
        self.was_refused = False
        """Whether the topic did not have what was asked for the last time."""
        self.trouble = ""  # Why it does not get on, while it does not.
        self._intake = intake
        self._offsets = offsets
        self._reader = reader
        self._backlog = backlog
        self._backoff = backoff or Backoff()
        self._waiting: deque[RawMessage] = deque()
        self._under_way: deque[_UnderWay] = deque()
        self._arrived = asyncio.Event()
        self._sent = asyncio.Event()
        self._lost = asyncio.Event()
        self._read_to = 0  # The offset after the last one that was offered.
        self._complete_from: int | None = (
            None  # All there is from here on is stored, held or to come.
        )
        self._follows = 0
        self._stopped = asyncio.Event()
        self._refusals: dict[int, Refusal] = {}
        self._failures: dict[int, int] = {}

    def begin(self, offset: int) -> None:
        """From now on what is offered begins there."""
        self._read_to = offset
        self.is_reading = True
        self.was_refused = False

    def offer(self, messages: Iterable[RawMessage]) -> None:
        """Take what was read, in the order of the topic."""
        if not self.is_reading:
            return  # Of before the reader went elsewhere.
        for message in messages:
            if message.offset >= self._read_to:
                self._read_to = message.offset + 1
                self._waiting.append(message)
                self._backlog.add(message.raw)
        if self._waiting:
            self._arrived.set()

    def lose(self) -> None:
        """The reader cannot go on: the topic does not have what comes next."""
        self.is_reading = False
        self.was_refused = True
        self._complete_from = None
        self._lost.set()

    def stop(self) -> None:
        """Before run() is cancelled."""
        self._stopped.set()

    async def run(self) -> None:
        """Store what is offered, until stopped and cancelled."""
        while not self._stopped.is_set():
            try:
                await self._take_up()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._submit_forever())
                    tasks.create_task(self._confirm_forever())
                    tasks.create_task(self._watch())
            except* FatalError:
                raise
            except* Exception as setback:  # noqa: BLE001 - whatever it is, nothing may be skipped.
                self._tell(setback)
            if self._stopped.is_set():
                return  # A group that fails while it is cancelled tells of its failure only.
            await self._settle()
            await asyncio.sleep(self._backoff.next_seconds())

    async def close(self, seconds_max: float) -> None:
        """Give what is under way a moment to be stored; forget the rest. After run() has ended."""
        self.is_reading = False
        if self._under_way:
            await asyncio.wait([each.outcome for each in self._under_way], timeout=seconds_max)
        while self._under_way and _is_stored(self._under_way[0].outcome):
            self._confirm()
        while self._under_way:
            self._backlog.remove(self._under_way.popleft().message.raw)
        while self._waiting:
            self._drop()

    async def _take_up(self) -> None:
        """Find out where to go on, and go there."""
        stored = await self._offsets.next_offset(self.topic, self.partition)
        self._follows = stored or 0
        while self._waiting and self._waiting[0].offset < self._follows:
            self._drop()
        is_behind = not self._waiting and self._read_to < self._follows
        if self._complete_from is None or self._follows < self._complete_from or is_behind:
            self.is_reading = False
            while self._waiting:
                self._drop()
            self._lost.clear()
            await self._reader.read_from(self, stored)
            self._complete_from = self._follows
        self.next_stored = stored
        if self._waiting:
            self._arrived.set()

    async def _submit_forever(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            message = self._waiting[0]
            outcome = await self._submit(message)
            self._waiting.popleft()
            self._follows = message.offset + 1
            self._under_way.append(_UnderWay(message, outcome))
            self._sent.set()
            if self._failures:
                # Some of these messages is not to be stored, and takes with it what goes with it:
                # one by one, only its own failures are counted.
                await asyncio.wait([outcome])

    async def _submit(self, message: RawMessage) -> OnItsWay:
        offset = SourceOffset(self.topic, self.partition, message.offset, self._follows)
        incoming = Incoming("kafka", message.raw, message.sent_us, offset)
        try:
            return await self._intake.submit(incoming, self._refusals.get(message.offset))
        except Exception as error:
            self._learn(message, error)
            raise

    async def _confirm_forever(self) -> None:
        while True:
            while not self._under_way:
                self._sent.clear()
                await self._sent.wait()
            # Shielded: the message goes its way, whatever becomes of us.
            await asyncio.shield(self._under_way[0].outcome)
            self._confirm()
            self._backoff.reset()
            self.trouble = ""

    async def _watch(self) -> None:
        await self._lost.wait()
        raise OffsetLostError(f"{self.topic}[{self.partition}] has no offset {self._read_to}")

    def _confirm(self) -> None:
        message = self._under_way.popleft().message
        self._backlog.remove(message.raw)
        self.next_stored = message.offset + 1
        if self._complete_from is not None:
            self._complete_from = message.offset + 1
        self._refusals.pop(message.offset, None)
        self._failures.pop(message.offset, None)

    async def _settle(self) -> None:
        """Wait for all that is under way; what is not stored is waiting again, in its order."""
        if self._under_way:
            await asyncio.wait([each.outcome for each in self._under_way])
        while self._under_way and _is_stored(self._under_way[0].outcome):
            self._confirm()
        for each in reversed(self._under_way):
            error = None if each.outcome.cancelled() else each.outcome.exception()
            if error is not None:
                self._learn(each.message, error)
            self._waiting.appendleft(each.message)
        self._under_way.clear()

    def _learn(self, message: RawMessage, error: BaseException) -> None:
        """Remember of a message why it cannot be stored; the next time it goes as a dead letter."""
        refusal = refusal_of(error)
        if refusal is None and is_suspect(error):
            failures = self._failures[message.offset] = self._failures.get(message.offset, 0) + 1
            if failures >= FAILURES_MAX:
                refusal = given_up(error, failures)
        if refusal is not None:
            self._refusals[message.offset] = refusal

    def _drop(self) -> None:
        message = self._waiting.popleft()
        self._backlog.remove(message.raw)
        self._refusals.pop(message.offset, None)
        self._failures.pop(message.offset, None)

    def _tell(self, setback: BaseExceptionGroup[Exception]) -> None:
        cause: BaseException = setback
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        is_expected = isinstance(cause, OffsetLostError) or not is_suspect(cause)
        self.trouble = str(cause)
        metrics.setbacks.add(1)
        _log.warning(
            "partition goes back to what is stored",
            topic=self.topic,
            partition=self.partition,
            kind=type(cause).__name__,
            error=str(cause),
            exc_info=cause if not is_expected else None,
        )


def _is_stored(outcome: OnItsWay) -> bool:
    return outcome.done() and not outcome.cancelled() and outcome.exception() is None
