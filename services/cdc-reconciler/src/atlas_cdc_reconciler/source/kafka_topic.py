"""One partition of a topic behind one thread: confluent-kafka's calls block."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from atlas_cdc_reconciler.config import KafkaConfig
from atlas_cdc_reconciler.source import SlotLostError, SourceLostError
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger

_T = TypeVar("_T")
_PARTITION = 0
_REQUEST_SECONDS_MAX = 5.0
_READ_MESSAGES_MAX = 500
_HEADROOM_BYTES = 2**20  # Of a message's batch and headers.
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class TopicBounds:
    """What a topic holds."""

    source_id: str
    """Names this very topic: one that was made anew under its name has another."""
    oldest: int
    """The offset of the first message that is still there."""
    end: int
    """The offset that the next message gets."""


class KafkaTopic:
    """Reads the partition from an offset on. Used by one task."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._thread = ThreadPoolExecutor(1, "atlas-cdc-kafka")
        self._trouble: KafkaError | None = None
        self._consumer = Consumer({**_settings(config), "error_cb": self._note})
        self.is_at_end = False
        """Whether the last read came to the end of what the topic held."""

    @classmethod
    @asynccontextmanager
    async def open(cls, config: KafkaConfig) -> AsyncIterator["KafkaTopic"]:
        """Until the block ends."""
        topic = cls(config)
        try:
            yield topic
        finally:
            # In the thread, behind a read that a cancelled caller left there.
            await asyncio.shield(
                asyncio.get_running_loop().run_in_executor(topic._thread, topic._consumer.close)
            )
            topic._thread.shutdown(wait=False)

    async def bounds(self) -> TopicBounds:
        """What the topic holds now.

        Raises ServiceError UNAVAILABLE while the broker or the topic is away, SourceLostError when
        the topic has several partitions.
        """
        return await self._call(self._bounds)

    async def seek(self, offset: int) -> None:
        """Read from this offset on."""
        self.is_at_end = False
        at = TopicPartition(self._config.topic, _PARTITION, offset)
        await self._call(lambda: self._consumer.assign([at]))

    async def read(self, timeout_seconds: float) -> list[tuple[int, bytes | None]]:
        """Messages that have come, with their offsets; waits for the first one only.

        Raises SourceLostError when the topic no longer has the offset, ServiceError UNAVAILABLE
        when the broker is away.
        """
        return await self._call(lambda: self._read(timeout_seconds))

    def _bounds(self) -> TopicBounds:
        name = self._config.topic
        metadata = self._consumer.list_topics(name, timeout=_REQUEST_SECONDS_MAX)
        topic = metadata.topics[name]
        if topic.error is not None:
            raise KafkaException(topic.error)
        if len(topic.partitions) != 1:
            raise SourceLostError(
                f"topic {name} has {len(topic.partitions)} partitions: the order of commits needs"
                " one; make a topic with one, and have Debezium fill it from the start"
            )
        oldest, end = self._consumer.get_watermark_offsets(
            TopicPartition(name, _PARTITION), timeout=_REQUEST_SECONDS_MAX, cached=False
        )
        source_id = f"{metadata.cluster_id}/{name}/{self._topic_id()}"
        return TopicBounds(source_id, oldest, end)

    def _topic_id(self) -> str:
        """What tells a topic from one of the same name; "" of brokers older than 2.8."""
        client = AdminClient(_connection(self._config))
        asked = client.describe_topics(TopicCollection([self._config.topic]))
        try:
            described = asked[self._config.topic].result(_REQUEST_SECONDS_MAX)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
                return ""
            raise
        return str(described.topic_id or "")

    def _read(self, timeout_seconds: float) -> list[tuple[int, bytes | None]]:
        first = self._consumer.poll(timeout_seconds)
        if self._trouble is not None:
            trouble, self._trouble = self._trouble, None
            raise KafkaException(trouble)
        if first is None:
            return []
        messages = []
        for message in (first, *self._consumer.consume(_READ_MESSAGES_MAX - 1, timeout=0)):
            error = message.error()
            self.is_at_end = error is not None and error.code() == KafkaError._PARTITION_EOF
            if error is None:
                messages.append((message.offset() or 0, message.value()))
            elif self.is_at_end:
                continue
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise SlotLostError(f"the warehouse's offset is not in the topic: {error.str()}")
            elif not messages:
                raise KafkaException(error)
            else:
                break  # It comes again once the stream is opened anew; these are good.
        return messages

    def _note(self, error: KafkaError) -> None:
        # One lost connection is librdkafka's own business. Without any broker, what we read from
        # may be another topic afterwards: then everything is looked at again.
        if error.code() == KafkaError._ALL_BROKERS_DOWN or error.fatal():
            self._trouble = error
        _log.info("kafka", error=error.str())

    async def _call(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except KafkaException as error:
            raise _away(self._config, error) from error


def _away(config: KafkaConfig, error: KafkaException) -> ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE", f"topic {config.topic} cannot be read: {error.args[0].str()}"
    )


def _connection(config: KafkaConfig) -> dict[str, Any]:
    return {
        "log_level": 3,
        **{name: secret.get_secret_value() for name, secret in config.settings.items()},
        "bootstrap.servers": config.bootstrap_servers,
    }


def _settings(config: KafkaConfig) -> dict[str, Any]:
    fetch_bytes = config.message_bytes_max + _HEADROOM_BYTES
    return {
        **_connection(config),
        # A client must name a group, but there is none: the position is the sink's.
        "group.id": config.group_id,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # An offset that is gone is a fact to be told, not a reason to jump.
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        # Offsets do not tell where the end is: the last ones may be those of markers.
        "enable.partition.eof": True,
        "fetch.message.max.bytes": fetch_bytes,
        "fetch.max.bytes": fetch_bytes,
        "receive.message.max.bytes": fetch_bytes + _HEADROOM_BYTES,
        # What is fetched ahead; librdkafka stops fetching beyond it.
        "queued.max.messages.kbytes": config.fetched_bytes_max // 1024,
    }
