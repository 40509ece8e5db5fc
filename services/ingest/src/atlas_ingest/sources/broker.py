"""confluent-kafka behind one thread: its calls block, and its callbacks come from within them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from atlas_common import telemetry
from atlas_ingest.config import KafkaConfig

_POLL_SECONDS = 0.05
_POLL_MESSAGES_MAX = 500
_REQUEST_SECONDS_MAX = 5.0
_CALLBACK_SECONDS_MAX = 30.0
_log = telemetry.logger(__name__)

Rebalance = Callable[[Sequence[int]], Awaitable[None]]
_T = TypeVar("_T")


class Broker:
    """A consumer of one topic in its group. One task uses it: its calls come one after another."""

    def __init__(
        self, config: KafkaConfig, *, on_assigned: Rebalance, on_revoked: Rebalance
    ) -> None:
        self.topic = config.topic
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "atlas-kafka")
        self._consumer = Consumer({**_settings(config), "error_cb": _log_error})

    async def subscribe(self) -> None:
        """Join the group; `on_assigned` and `on_revoked` are awaited from within `poll`."""
        await self._call(
            lambda: self._consumer.subscribe(
                [self.topic],
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._revoked,
            )
        )

    async def poll(self) -> list[Message]:
        """What has come, errors included, soon or at once. Raises KafkaException."""
        return await self._call(self._poll)

    async def pause(self, partitions: Sequence[int]) -> None:
        """Fetch nothing more of them; the membership in the group goes on."""
        await self._call(lambda: self._consumer.pause(self._named(partitions)))

    async def resume(self, partitions: Sequence[int]) -> None:
        """Fetch them again. Of paused ones only."""
        await self._call(lambda: self._consumer.resume(self._named(partitions)))

    async def seek(self, partition: int, offset: int) -> None:
        """Go on there: no message that was fetched before comes out of `poll` any more."""
        await self._call(lambda: self._consumer.seek(TopicPartition(self.topic, partition, offset)))

    async def restart(self, partition: int, offset: int) -> None:
        """Go on there with a partition whose fetching has ended: its offset was refused. Paused."""

        def assign_again() -> None:
            self._consumer.incremental_unassign(self._named([partition]))
            begin = [TopicPartition(self.topic, partition, offset)]
            self._consumer.incremental_assign(begin)
            self._consumer.pause(begin)

        await self._call(assign_again)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that the topic still has, and the one that its next message gets."""
        return await self._call(
            lambda: self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=_REQUEST_SECONDS_MAX, cached=False
            )
        )

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Tell the group how far the partitions are stored; for people's tools only."""
        positions = [
            TopicPartition(self.topic, partition, offset) for partition, offset in offsets.items()
        ]
        await self._call(lambda: self._consumer.commit(offsets=positions, asynchronous=True))

    async def close(self) -> None:
        """Leave the group."""
        try:
            await self._call(self._consumer.close)
        finally:
            self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(self._thread, work)

    def _poll(self) -> list[Message]:
        first = self._consumer.poll(_POLL_SECONDS)
        if first is None:
            return []
        return [first, *self._consumer.consume(_POLL_MESSAGES_MAX - 1, timeout=0)]

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Where to begin is looked up later, without blocking the group; until then any place does.
        for each in partitions:
            each.offset = OFFSET_BEGINNING
        consumer.incremental_assign(partitions)
        if partitions:
            consumer.pause(partitions)
        self._await(self._on_assigned([each.partition for each in partitions]))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._await(self._on_revoked([each.partition for each in partitions]))
        consumer.incremental_unassign(partitions)

    def _await(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_CALLBACK_SECONDS_MAX)

    def _named(self, partitions: Sequence[int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition) for partition in partitions]


def _settings(config: KafkaConfig) -> dict[str, Any]:
    return {
        # Kilobytes fetched ahead, of all partitions together.
        "queued.max.messages.kbytes": 16_384,
        **{name: secret.get_secret_value() for name, secret in config.settings.items()},
        "bootstrap.servers": config.bootstrap_servers,
        "group.id": config.group_id,
        # Who keeps a partition goes on with it while others come and go.
        "partition.assignment.strategy": "cooperative-sticky",
        # The database says where to go on. What the group has is for people's tools.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # An offset that is gone is a fact to be told, not a reason to jump.
        "auto.offset.reset": "error",
    }


def _log_error(error: KafkaError) -> None:
    _log.warning("kafka", error=str(error))


__all__ = [
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "Broker",
    "KafkaError",
    "KafkaException",
    "Message",
]
