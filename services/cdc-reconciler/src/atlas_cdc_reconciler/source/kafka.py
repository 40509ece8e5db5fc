"""The source that reads a topic which Debezium fills: all tables in one partition, in commit order.

The position is the topic's offset and is stored by the sink; the consumer is in no group.
"""

import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from atlas_cdc_reconciler.changes import Batch, MessageError, Relation
from atlas_cdc_reconciler.columns import FieldError
from atlas_cdc_reconciler.config import KafkaConfig
from atlas_cdc_reconciler.lsn import LogPosition
from atlas_cdc_reconciler.source import (
    CopiedRows,
    SlotLostError,
    SourceLostError,
    SourcePosition,
)
from atlas_cdc_reconciler.source.debezium import Event, EventReader
from atlas_cdc_reconciler.source.event_collector import (
    EventCollector,
    SnapshotFinder,
    SnapshotRange,
)
from atlas_cdc_reconciler.source.kafka_topic import KafkaTopic, TopicBounds
from atlas_cdc_reconciler.source.slot import SlotSource
from atlas_cdc_reconciler.source.slot_snapshot import SlotSnapshot
from atlas_cdc_reconciler.tables import TABLES, Column, Table
from atlas_common import errors
from atlas_common.telemetry import logger

_IDLE_SECONDS = 0.25  # A cancelled caller waits so long for a read under way.
_log = logger(__name__)


class KafkaSource:
    """Reads one topic."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["KafkaSnapshot"]:
        """As Source.snapshot: the newest whole one in the topic; waits for Debezium to make it."""
        async with KafkaTopic.open(self._config) as topic:
            bounds = await topic.bounds()
            await topic.seek(bounds.oldest)
            found = await self._find(topic, bounds.end)
            _log.info("snapshot found", topic=self._config.topic, offset=found.first)
            yield KafkaSnapshot(topic, self._config, bounds.source_id, found)

    @asynccontextmanager
    async def stream(self, position: SourcePosition) -> AsyncIterator["KafkaStream"]:
        """As Source.stream."""
        async with KafkaTopic.open(self._config) as topic:
            bounds = await topic.bounds()
            check_reaches(bounds, position)
            await topic.seek(position.at.offset)
            yield KafkaStream(topic, self._config, position.at)

    async def _find(self, topic: KafkaTopic, end: int) -> SnapshotRange:
        finder, reached = SnapshotFinder(), 0
        # What was there at first is looked at whole: a later snapshot outdates an earlier one.
        while not ((finder.found or finder.has_changes) and (reached >= end or topic.is_at_end)):
            for offset, raw in await topic.read(_IDLE_SECONDS):
                reached = offset + 1
                try:
                    finder.feed(offset, raw)
                except MessageError as error:
                    raise _unreadable(offset, error) from error
        if finder.found is None:
            raise SourceLostError(
                f"topic {self._config.topic} has changes and no whole snapshot before them: set"
                " ATLAS_KAFKA__FIRST_COPY=database, or have Debezium begin anew"
            )
        return finder.found


class BesideTopic:
    """The database that the topic comes from, seen as of a point from which the topic goes on."""

    def __init__(self, config: KafkaConfig, slot: SlotSource) -> None:
        self._config = config
        self._slot = slot

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SlotSnapshot]:
        """As SlotSource.snapshot, but that Debezium's slot is left alone."""
        async with KafkaTopic.open(self._config) as topic:
            bounds = await topic.bounds()
        # What is in the topic by now was committed before the point that is made next, and what
        # was committed before it and is not in the topic yet will be known by it and left out.
        async with self._slot.cut() as snapshot:
            at = LogPosition(bounds.end, snapshot.position.lsn)
            yield replace(snapshot, position=SourcePosition(bounds.source_id, at))

    def cut(self) -> AbstractAsyncContextManager[SlotSnapshot]:
        """Raises ServiceError: offsets of the topic and points of the log cannot be compared."""
        raise errors.failed_precondition(
            "JOB_CONFLICT", "a topic has no backfill of a part: recover compares and copies all"
        )


@dataclass(frozen=True)
class KafkaSnapshot:
    """The rows of a snapshot as they lie in the topic."""

    topic: KafkaTopic
    config: KafkaConfig
    source_id: str
    range: SnapshotRange

    @property
    def position(self) -> SourcePosition:
        """As InitialSnapshot.position: behind its last row."""
        return SourcePosition(self.source_id, LogPosition(self.range.stop, self.range.lsn))

    async def rows(self) -> AsyncIterator[CopiedRows]:
        """As InitialSnapshot.rows."""
        reader, reached = EventReader(), self.range.first
        relation: Relation | None = None
        raws: list[bytes] = []
        byte_count = 0
        await self.topic.seek(reached)
        while reached < self.range.stop:
            for offset, raw in await self.topic.read(_IDLE_SECONDS):
                reached = offset + 1
                event = None if raw is None or reached > self.range.stop else reader.read(raw)
                if raw is None or not isinstance(event, Event) or event.relation is None:
                    continue
                if relation is not None and (
                    event.relation is not relation
                    or len(raws) >= self.config.snapshot_rows_max
                    or byte_count >= self.config.batch_bytes_max
                ):
                    yield _copied(relation, raws)
                    raws, byte_count = [], 0
                relation = event.relation
                raws.append(raw)
                byte_count += len(raw)
        if relation is not None:
            yield _copied(relation, raws)


class KafkaStream:
    """The topic's changes as they come."""

    def __init__(self, topic: KafkaTopic, config: KafkaConfig, position: LogPosition) -> None:
        self._topic = topic
        self._config = config
        self._collector = EventCollector(position)
        self._unfed: deque[tuple[int, bytes | None]] = deque()
        """Read, and left for the next batch; at most what is read at a time."""

    async def next_batch(self) -> Batch:
        """As ChangeStream.next_batch: waits for a change, then a moment for more of them.

        Nothing is read while a batch is applied, and librdkafka fetches a bounded piece ahead.
        """
        collector = self._collector
        ends: float | None = None
        while True:
            if not collector.in_transaction and collector.has_news:
                now = time.monotonic()
                if ends is None:
                    ends = now + self._config.linger_ms / 1000
                if now >= ends or self._is_full():
                    return collector.take()
            self._check_size()
            wait = _IDLE_SECONDS if ends is None else max(0.0, ends - time.monotonic())
            if not self._unfed:
                self._unfed.extend(await self._topic.read(min(wait, _IDLE_SECONDS)))
            self._gather()

    def confirm(self, position: LogPosition) -> None:
        """As ChangeStream.confirm: nothing to do, a topic forgets by time and size alone."""

    def _gather(self) -> None:
        """Feed what was read up to the end of a transaction with which the batch is full.

        At no other place it can be taken, and none of them need be the end of what was read.
        """
        while self._unfed:
            self._feed(*self._unfed.popleft())
            if not self._collector.in_transaction and self._is_full():
                return

    def _feed(self, offset: int, raw: bytes | None) -> None:
        try:
            self._collector.feed(offset, raw)
        except MessageError as error:
            raise _unreadable(offset, error) from error

    def _is_full(self) -> bool:
        return self._config.is_full(self._collector.change_count, self._collector.byte_count)

    def _check_size(self) -> None:
        if self._collector.byte_count > self._config.transaction_bytes_max:
            raise SourceLostError(
                f"a transaction has over {self._config.transaction_bytes_max} bytes of events:"
                " raise ATLAS_KAFKA__TRANSACTION_BYTES_MAX to have memory spent on it"
            )


def check_reaches(bounds: TopicBounds, position: SourcePosition) -> None:
    """Raise SourceLostError unless the topic is the position's and has all that comes after it."""
    if bounds.source_id != position.source_id:
        raise SourceLostError(
            f"the warehouse was filled from {position.source_id}, this is {bounds.source_id}: the"
            " topic was made anew, or is another's. Is ATLAS_KAFKA__TOPIC right? If it is, recover"
            " the pipeline"
        )
    if position.at.offset < bounds.oldest:
        raise SlotLostError(
            f"the topic begins at offset {bounds.oldest}, the warehouse stands at"
            f" {position.at.offset}: its retention dropped what is between"
        )


def _unreadable(offset: int, error: MessageError) -> SourceLostError:
    # Not a bad row but a topic we cannot follow: to skip it would be to guess.
    return SourceLostError(f"the topic cannot be read at offset {offset}: {error}")


def _copied(relation: Relation, raws: list[bytes]) -> CopiedRows:
    """Rows of a snapshot in the warehouse's columns; those that do not fit are rejected."""
    table = TABLES.get(relation.name)
    if table is None:
        raise SourceLostError(
            f"the topic has a table {relation.name} that is not known here: leave it out of"
            " Debezium's table.include.list"
        )
    columns = _places(table, relation)
    rejected: list[tuple[bytes, str]] = []
    try:
        rows = relation.codec.insert_table(raws, relation, columns)
    except (FieldError, MessageError):
        rows = _sifted(relation, raws, columns, rejected)
    return CopiedRows(table, rows, tuple(rejected), relation)


def _sifted(
    relation: Relation,
    raws: list[bytes],
    columns: list[tuple[Column, int]],
    rejected: list[tuple[bytes, str]],
) -> pa.Table:
    """The rows that fit. One by one: slow, and hardly ever needed."""
    kept = []
    for raw in raws:
        try:
            relation.codec.insert_table([raw], relation, columns)
        except (FieldError, MessageError) as error:
            rejected.append((raw, str(error)))
        else:
            kept.append(raw)
    return relation.codec.insert_table(kept, relation, columns)


def _places(table: Table, relation: Relation) -> list[tuple[Column, int]]:
    at = {column.name: index for index, column in enumerate(relation.columns)}
    try:
        return [(column, at[column.name]) for column in table.columns]
    except KeyError as error:
        raise SourceLostError(f"{table.name}.{error} is not in the topic's snapshot") from error
