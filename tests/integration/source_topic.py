"""Topics that Debezium fills for tests: its engine over a database, and what it wrote."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from atlas_cdc_reconciler.config import KafkaConfig
from atlas_cdc_reconciler.tables import HEARTBEAT, TABLES
from atlas_devstack.database import Database
from atlas_devstack.debezium import Capture, Debezium, DebeziumSite
from atlas_devstack.kafka import Kafka
from atlas_devstack.waiting import Patience

Message = tuple[bytes | None, bytes | None]
# A JVM that starts beside others on two cores.
PATIENCE = Patience(90.0)


def topic_name() -> str:
    """One that no other test has."""
    return f"cdc-{secrets.token_hex(4)}"


def reading(bootstrap_servers: str, topic: str, **fields: Any) -> KafkaConfig:
    """Settings of a source that reads it."""
    return KafkaConfig(bootstrap_servers=bootstrap_servers, topic=topic, linger_ms=5, **fields)


@contextmanager
def capturing(
    database: Database, kafka: Kafka, directory: Path, **fields: Any
) -> Iterator[Debezium]:
    """An engine that fills a topic of its own, started."""
    topic = topic_name()
    kafka.create_topic(topic)
    capture = Capture(
        dsn=database.admin_dsn,
        tables=tuple(TABLES),
        bootstrap_servers=kafka.bootstrap_servers,
        topic=topic,
        slot=topic.replace("-", "_"),
        **fields,
    )
    engine = Debezium(DebeziumSite(directory, directory, directory), capture, PATIENCE)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        engine.forget()


def messages_of(bootstrap_servers: str, topic: str) -> list[Message]:
    """All (key, value) that a topic has now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "test",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    messages: list[Message] = []
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        while True:
            message = consumer.poll(20)
            assert message is not None, "the broker is silent"
            error = message.error()
            if error is None:
                messages.append((message.key(), message.value()))
            elif error.code() == KafkaError._PARTITION_EOF:
                return messages
            else:
                raise AssertionError(error)
    finally:
        consumer.close()


def publish(bootstrap_servers: str, topic: str, messages: Sequence[Message]) -> None:
    """Append messages; returns when the broker has them."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "message.max.bytes": 2**28})
    for key, value in messages:
        producer.produce(topic, key=key, value=value, partition=0)
    assert producer.flush(30) == 0


def end_of(bootstrap_servers: str, topic: str) -> int:
    """Where a topic ends, or a little before: the broker knows its batches only."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "test"})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20, cached=False)
    finally:
        consumer.close()
    return int(end)


@dataclass(frozen=True)
class Origin:
    """Where the changes of a rig come from."""

    database: Database
    engine: Debezium | None
    """None: its slot."""
    first_rows: Sequence[str]
    """Canonical rows of the history when the engine made its snapshot."""

    @property
    def topic(self) -> str:
        """The engine's topic."""
        assert self.engine is not None
        return self.engine.capture.topic

    @property
    def bootstrap_servers(self) -> str:
        """The broker that has it."""
        assert self.engine is not None
        return self.engine.capture.bootstrap_servers

    def clear(self, admin: "psycopg.Connection[Any]") -> None:
        """Delete all rows: a TRUNCATE is not published, and the topic is read from its start."""
        for name in TABLES.keys() - {HEARTBEAT.name}:
            admin.execute(f"DELETE FROM {name}")
        admin.execute("TRUNCATE write_requests")
