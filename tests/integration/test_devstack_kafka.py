"""The broker of the devstack: it takes messages and gives them back, can be hurt, and forgets."""

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from atlas_client import Point, queued_write
from atlas_devstack.errors import DevstackError
from atlas_devstack.kafka import Kafka
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from atlas_devstack.waiting import Patience, wait_until


def topics(bootstrap_servers: str) -> dict[str, int]:
    """Topic name -> partitions."""
    found = AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=10).topics
    return {name: len(topic.partitions) for name, topic in found.items()}


def test_messages_come_back_in_their_order(kafka: Kafka) -> None:
    kafka.create_topic("devstack-order", partitions=2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number in range(100):
        producer.produce("devstack-order", str(number).encode(), partition=1)
    assert producer.flush(10) == 0
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "reader"})
    try:
        consumer.assign([TopicPartition("devstack-order", 1, 0)])
        read = consumer.consume(100, timeout=10)
        assert [message.value() for message in read] == [str(n).encode() for n in range(100)]
        assert [message.offset() for message in read] == list(range(100))
    finally:
        consumer.close()


def test_a_topic_exists_once_and_can_be_deleted(kafka: Kafka) -> None:
    kafka.create_topic("devstack-once", partitions=3)
    with pytest.raises(DevstackError, match="devstack-once could not be made"):
        kafka.create_topic("devstack-once")
    assert topics(kafka.bootstrap_servers)["devstack-once"] == 3
    kafka.delete_topic("devstack-once")
    assert "devstack-once" not in topics(kafka.bootstrap_servers)


def test_a_stack_has_a_broker_on_request_and_a_new_topic_at_each_start(
    start_stack: StartStack, server_options: ServerOptions
) -> None:
    servers = ServerOptions(postgres=server_options.postgres, valkey=False, kafka=True)
    stack = start_stack(services=("ingest",), tenants=("acme", "globex"), servers=servers)
    before = stack.endpoints
    assert before.kafka is not None
    assert before.topic is not None
    assert topics(before.kafka) == {before.topic: 4}
    producer = Producer({"bootstrap.servers": before.kafka, "log_level": 0})
    for tenant in before.tenants:
        producer.produce(before.topic, queued_write(tenant, [Point("pump-1", "rpm", 1)]))
    assert producer.flush(10) == 0
    with psycopg.connect(before.primary, autocommit=True) as admin:
        wait_until(
            lambda: (
                admin.execute(
                    "SELECT t.key, d.reason FROM atlas.ingest_dead_letters AS d"
                    " JOIN atlas.tenants AS t USING (tenant_id) WHERE d.topic = %s ORDER BY t.key",
                    [before.topic],
                ).fetchall()
                == [(tenant, "ATTRIBUTE_UNKNOWN") for tenant in before.tenants]
            ),
            "ingest reading the topic",
            patience=Patience(30),
        )
    stack.kafka.kill()
    assert not stack.kafka.answers()
    stack.kafka.start()
    assert topics(before.kafka) == {}  # The memory went with the process.
    assert start_stack(services=(), servers=servers).endpoints.topic != before.topic
