"""A topic of QueuedWrite as a source: each message is stored once, whatever the group does.

One task polls; each assigned partition has a feed. While more is held than may be, fetching is
paused; the group notices nothing.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from atlas_common import telemetry
from atlas_ingest.config import KafkaConfig
from atlas_ingest.sources import metrics
from atlas_ingest.sources.backlog import Backlog
from atlas_ingest.sources.broker import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Broker,
    KafkaError,
    KafkaException,
    Message,
)
from atlas_ingest.sources.feed import Feed, OffsetLostError, Offsets, RawMessage, Submitting

_DRAIN_SECONDS = 2.0
_COMMIT_SECONDS = 5.0
_COMPLAIN_SECONDS = 30.0
_log = telemetry.logger(__name__)


@dataclass(slots=True)
class _Assigned:
    feed: Feed
    task: asyncio.Task[None]
    is_paused: bool = True
    committed: int | None = None


@dataclass(frozen=True, slots=True)
class _Going:
    """A feed that wants to be read from somewhere else."""

    feed: Feed
    next_offset: int | None
    gone: "asyncio.Future[None]"


class KafkaSource:
    """Reads a topic while run() runs."""

    def __init__(self, config: KafkaConfig, intake: Submitting, offsets: Offsets) -> None:
        self._config = config
        self._intake = intake
        self._offsets = offsets
        self._backlog = Backlog(
            messages_max=config.in_flight_messages_max, bytes_max=config.in_flight_bytes_max
        )
        self._assigned: dict[int, _Assigned] = {}
        self._going: list[_Going] = []
        self._is_full = False
        self._committed_at = 0.0
        self._complained_at: dict[int, float] = defaultdict(float)
        metrics.observe_backlog("kafka", self._backlog)

    @property
    def assigned(self) -> Sequence[int]:
        """The partitions that are ours now."""
        return sorted(self._assigned)

    @property
    def held_messages(self) -> int:
        """Read and not stored yet."""
        return self._backlog.messages

    @property
    def trouble(self) -> str:
        """Why a partition does not get on; empty when all do."""
        return next((t for each in self._assigned.values() if (t := each.feed.trouble)), "")

    async def run(self) -> None:
        """Read until cancelled; then leave the group. Raises KafkaException when it is over."""
        broker = Broker(self._config, on_assigned=self._take, on_revoked=self._give_up)
        try:
            await broker.subscribe()
            while True:
                self._route(await broker.poll())
                await self._go(broker)
                await self._pause_and_resume(broker)
                await self._commit(broker)
                self._look()
        finally:
            await self._give_up(self.assigned)
            await asyncio.shield(broker.close())

    async def read_from(self, feed: Feed, next_offset: int | None) -> None:
        """Have a partition read from there on; returns once it is. Raises KafkaException."""
        going = _Going(feed, next_offset, asyncio.get_running_loop().create_future())
        self._going.append(going)
        await going.gone

    async def _take(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            feed = Feed(
                self._config.topic,
                partition,
                intake=self._intake,
                offsets=self._offsets,
                reader=self,
                backlog=self._backlog,
            )
            task = asyncio.create_task(feed.run(), name=f"kafka partition {partition}")
            self._assigned[partition] = _Assigned(feed, task)
        _log.info("partitions assigned", topic=self._config.topic, partitions=list(partitions))

    async def _give_up(self, partitions: Sequence[int]) -> None:
        """Whoever reads them next begins where the database is; the sooner that is, the better."""
        given = [self._assigned.pop(each) for each in partitions if each in self._assigned]
        for each in given:
            each.feed.stop()
            each.task.cancel()
        if given:
            await asyncio.wait([each.task for each in given])
            await asyncio.gather(*(each.feed.close(_DRAIN_SECONDS) for each in given))
            _log.info("partitions given up", topic=self._config.topic, partitions=list(partitions))

    def _route(self, messages: Iterable[Message]) -> None:
        read: dict[int, list[RawMessage]] = defaultdict(list)
        for message in messages:
            error = message.error()
            if error is None:
                read[message.partition() or 0].append(_raw(message))
            else:
                self._fail(error, message.partition())
        for partition, raw in read.items():
            if partition in self._assigned:
                self._assigned[partition].feed.offer(raw)

    def _fail(self, error: KafkaError, partition: int | None) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            if partition in self._assigned:
                self._assigned[partition].feed.lose()
        elif error.fatal():
            raise KafkaException(error)
        elif time.monotonic() - self._complained_at[error.code()] > _COMPLAIN_SECONDS:
            # No topic yet, no right to read it: may change, and is told again and again until then.
            self._complained_at[error.code()] = time.monotonic()
            _log.warning("cannot read", topic=self._config.topic, error=error.str())

    async def _go(self, broker: Broker) -> None:
        going, self._going = self._going, []
        for each in going:
            assigned = self._assigned.get(each.feed.partition)
            if each.gone.done() or assigned is None or assigned.feed is not each.feed:
                continue
            try:
                await self._seek(broker, each.feed, each.next_offset)
            except (KafkaException, OffsetLostError) as error:
                if not each.gone.done():
                    each.gone.set_exception(error)
            else:
                if not each.gone.done():
                    each.gone.set_result(None)

    async def _seek(self, broker: Broker, feed: Feed, next_offset: int | None) -> None:
        if next_offset is None:
            begin = OFFSET_BEGINNING if self._config.start == "earliest" else OFFSET_END
        elif feed.was_refused:
            begin = await self._nearest(broker, feed.partition, next_offset)
        else:
            begin = next_offset
        if feed.was_refused:
            await broker.restart(feed.partition, begin)
            self._assigned[feed.partition].is_paused = True
        else:
            await broker.seek(feed.partition, begin)
        feed.begin(max(0, begin))

    async def _nearest(self, broker: Broker, partition: int, next_offset: int) -> int:
        """Where to go on when the topic does not have the offset. Raises OffsetLostError."""
        oldest, newest = await broker.bounds(partition)
        if next_offset > newest:
            raise OffsetLostError(
                f"{next_offset} is stored, the topic ends at {newest}: it was made anew or lost its"
                " end. Nothing is read until the partition's row in source_offsets is corrected or"
                " another topic is configured"
            )
        if next_offset < oldest:
            metrics.expired.add(oldest - next_offset)
            _log.error(
                "the topic dropped messages before they were stored",
                topic=self._config.topic,
                partition=partition,
                first=next_offset,
                count=oldest - next_offset,
            )
        return max(next_offset, oldest)

    async def _pause_and_resume(self, broker: Broker) -> None:
        self._is_full = not self._backlog.has_room if self._is_full else self._backlog.is_full
        for is_paused, change in ((True, broker.pause), (False, broker.resume)):
            changing = [
                partition
                for partition, each in self._assigned.items()
                if self._wants_pause(each) is is_paused and each.is_paused is not is_paused
            ]
            if changing:
                await change(changing)
                for partition in changing:
                    if partition in self._assigned:
                        self._assigned[partition].is_paused = is_paused

    def _wants_pause(self, assigned: _Assigned) -> bool:
        return self._is_full or not assigned.feed.is_reading

    async def _commit(self, broker: Broker) -> None:
        if time.monotonic() - self._committed_at < _COMMIT_SECONDS:
            return
        self._committed_at = time.monotonic()
        offsets = {
            partition: each.feed.next_stored
            for partition, each in self._assigned.items()
            if each.feed.next_stored is not None and each.feed.next_stored != each.committed
        }
        if offsets:
            try:
                await broker.commit(offsets)
            except KafkaException as error:
                _log.info("the group was not told its offsets", error=str(error))
                return
            for partition, offset in offsets.items():
                if partition in self._assigned:
                    self._assigned[partition].committed = offset

    def _look(self) -> None:
        for each in self._assigned.values():
            if each.task.done():
                each.task.result()  # A feed ends by what nobody may survive.


def _raw(message: Message) -> RawMessage:
    kind, milliseconds = message.timestamp()
    sent_us = milliseconds * 1_000 if kind else time.time_ns() // 1_000
    return RawMessage(message.offset() or 0, message.value() or b"", sent_us)
