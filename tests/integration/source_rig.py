"""Topics of queued writes for tests, and the sources of a rig that read them."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from confluent_kafka import Producer
from pydantic import SecretStr

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_devstack.kafka import Kafka
from atlas_ingest.config import KafkaConfig
from atlas_ingest.sources.feed import Offsets
from atlas_ingest.sources.kafka import KafkaSource

from .ingest_rig import Rig, point
from .waiting import eventually

# The broker waits 3 s for members of a group that join, and takes silent ones for dead after these.
QUICK = {"session.timeout.ms": "3000", "heartbeat.interval.ms": "300"}


def queued(tenant: str, number: int, **fields: Any) -> bytes:
    """A message with one point, whose value is its number."""
    return encoded(tenant, [point("count", int_value=number)], **fields)


def encoded(tenant: str, points: Sequence[Any], **fields: Any) -> bytes:
    """A message."""
    write = pb.WriteRequest(points=points, **fields)
    return pb.QueuedWrite(tenant=tenant, write=write).SerializeToString()


class Topic:
    """A topic of one test's own."""

    def __init__(self, bootstrap_servers: str, partitions: int = 1) -> None:
        self.name = f"writes-{secrets.token_hex(4)}"
        self.partitions = partitions
        self.bootstrap_servers = bootstrap_servers
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "log_level": 0})

    @classmethod
    def on(cls, kafka: Kafka, partitions: int = 1) -> Self:
        """A new one."""
        topic = cls(kafka.bootstrap_servers, partitions)
        kafka.create_topic(topic.name, partitions)
        return topic

    def publish(self, messages: Iterable[bytes], partition: int = 0) -> None:
        """Append messages to a partition; returns when the broker has them."""
        for message in messages:
            self._producer.produce(self.name, message, partition=partition)
        assert self._producer.flush(20) == 0

    def spread(self, messages: Iterable[bytes]) -> None:
        """Append messages to all partitions in turn."""
        for number, message in enumerate(messages):
            self._producer.produce(self.name, message, partition=number % self.partitions)
        assert self._producer.flush(20) == 0

    def config(self, **fields: Any) -> KafkaConfig:
        """Settings of a source that reads it."""
        settings = {**QUICK, **fields.pop("settings", {})}
        return KafkaConfig(
            bootstrap_servers=self.bootstrap_servers,
            topic=self.name,
            group_id=fields.pop("group_id", self.name),
            settings={name: SecretStr(value) for name, value in settings.items()},
            **fields,
        )

    def environment(self) -> dict[str, str]:
        """The same for a process."""
        return {
            "ATLAS_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "ATLAS_KAFKA__TOPIC": self.name,
            "ATLAS_KAFKA__GROUP_ID": self.name,
            "ATLAS_KAFKA__SETTINGS": str(QUICK).replace("'", '"'),
        }


@asynccontextmanager
async def reading(
    rig: Rig, config: KafkaConfig, offsets: Offsets | None = None
) -> AsyncIterator[KafkaSource]:
    """A source that reads into the rig's service until the block ends."""
    source = KafkaSource(config, rig.service.intake, offsets or rig.service.offsets)
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        if task.done():
            await task  # Tells what it died of.
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def numbers(rig: Rig, tenant: str) -> list[int]:
    """The numbers of the tenant's stored messages, in their order."""
    rows = await rig.query(
        "SELECT v.value_int FROM entity_values_ts AS v JOIN tenants AS t USING (tenant_id)"
        " WHERE t.key = %s ORDER BY 1",
        tenant,
    )
    return [row[0] for row in rows]


async def all_stored(rig: Rig, tenant: str, count: int, seconds: float = 30.0) -> None:
    """Wait until numbers 0..count-1 are stored, and see that nothing is stored twice."""

    async def enough() -> bool:
        return len(await numbers(rig, tenant)) >= count

    await eventually(enough, seconds)
    assert await numbers(rig, tenant) == list(range(count))


async def dead_letters(rig: Rig, source: str) -> list[tuple[Any, ...]]:
    """(tenant_id, offset, reason, message, raw) of a topic or a source, in their order."""
    return await rig.query(
        "SELECT tenant_id, source_offset, reason, message, raw FROM ingest_dead_letters"
        " WHERE coalesce(topic, source) = %s ORDER BY source_offset, dead_letter_id",
        source,
    )


async def next_offsets(rig: Rig, topic: str) -> dict[int, int]:
    """Partition -> the offset after the last stored message."""
    rows = await rig.query(
        "SELECT partition, next_offset FROM source_offsets WHERE topic = %s", topic
    )
    return dict(rows)
