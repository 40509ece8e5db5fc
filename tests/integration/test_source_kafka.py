"""A topic as the replay buffer: whatever happens on the way, each message is stored once."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Producer

from atlas_devstack.database import Database
from atlas_devstack.kafka import Kafka

from .ingest_rig import Rig, ingest_process, point, start_rig
from .source_rig import (
    Topic,
    all_stored,
    dead_letters,
    encoded,
    next_offsets,
    numbers,
    queued,
    reading,
)
from .waiting import eventually


@pytest.fixture
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


def of_both(rig: Rig, numbers: range) -> list[bytes]:
    """A message of each number for each of the tenants."""
    return [queued(tenant, number) for number in numbers for tenant in rig.client.tenants]


async def test_what_can_never_be_stored_is_kept_as_it_came_and_stops_nobody(
    rig: Rig, kafka: Kafka
) -> None:
    acme, globex = rig.client.tenants
    await rig.client.write(acme, [point("count", int_value=0)], request_id="taken")
    partly = encoded(
        acme, [point("count", int_value=1), point("pressure", double_value=101.0), point("nope")]
    )
    bad = {
        "undecodable": b"\xff\xff\xff",
        "empty": b"",
        "no key": queued("No Tenant!", 1),
        "unknown tenant": queued("nobody-here", 1),
        "no points": encoded(acme, []),
        "all refused": encoded(globex, [point("pressure", double_value=-1.0)]),
        "partly refused": partly,
        "id with control characters": queued(acme, 1, request_id="a\x1f1"),
        "id of another body": queued(acme, 9, request_id="taken"),
    }
    topic = Topic.on(kafka)
    good = iter(of_both(rig, range(2, 100)))
    messages = [part for raw in bad.values() for part in (next(good), next(good), raw, next(good))]
    messages += good
    topic.publish(messages)
    async with reading(rig, topic.config()):
        for tenant, first in ((acme, [0, 1]), (globex, [])):
            await eventually(partial(_has, rig, tenant, 99))
            assert await numbers(rig, tenant) == [*first, *range(2, 100)]
    ids = {tenant: await rig.tenant_id(tenant) for tenant in rig.client.tenants}
    letters = await dead_letters(rig, topic.name)
    assert [letter[4] for letter in letters] == list(bad.values())
    assert [(letter[0], letter[2]) for letter in letters] == [
        (0, "INVALID_FIELD"),
        (0, "INVALID_FIELD"),
        (0, "INVALID_FIELD"),
        (0, "TENANT_UNKNOWN"),
        (ids[acme], "INVALID_FIELD"),
        (ids[globex], "VALUE_OUT_OF_RANGE"),
        (ids[acme], "VALUE_OUT_OF_RANGE"),
        (ids[acme], "INVALID_FIELD"),
        (ids[acme], "REQUEST_ID_REUSED"),
    ]
    said = {letter[4]: letter[3] for letter in letters}
    assert said[partly].startswith("2 of 3 points are refused: points[1]: ")
    assert "points[2]: " in said[partly]
    assert await next_offsets(rig, topic.name) == {0: len(messages)}


async def _has(rig: Rig, tenant: str, number: int) -> bool:
    return number in await numbers(rig, tenant)


class Forgetful:
    """What a reader knows that was assigned the partition before anything was stored."""

    async def next_offset(self, topic: str, partition: int) -> int | None:
        return None


async def test_messages_are_stored_once_also_when_all_are_delivered_again(
    rig: Rig, kafka: Kafka
) -> None:
    topic = Topic.on(kafka, partitions=3)
    topic.spread([*of_both(rig, range(300)), b"\xff", b"\xff\xff", b"\xff\xff\xff"])
    async with reading(rig, topic.config()) as source:
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 300)
        assert source.assigned == [0, 1, 2]
        await eventually(lambda: _offsets_are(rig, topic, {0: 201, 1: 201, 2: 201}))
    before = await dead_letters(rig, topic.name)
    async with reading(rig, topic.config(group_id="zombie"), Forgetful()):
        topic.spread(of_both(rig, range(300, 310)))  # Behind all that is delivered again.
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 310)
    assert await dead_letters(rig, topic.name) == before
    assert len(before) == 3


async def _offsets_are(rig: Rig, topic: Topic, wanted: dict[int, int]) -> bool:
    return await next_offsets(rig, topic.name) == wanted


async def test_a_request_id_is_stored_once_through_whichever_door(rig: Rig, kafka: Kafka) -> None:
    topic = Topic.on(kafka)
    for tenant in rig.client.tenants:
        await rig.client.write(tenant, [point("count", int_value=0)], request_id="r0")
        topic.publish([queued(tenant, n, request_id=f"r{n}") for n in (0, 1, 1, 2)])
    async with reading(rig, topic.config()):
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 3)
        again = await rig.client.write(
            rig.client.acme, [point("count", int_value=2)], request_id="r2"
        )
        assert again.duplicate
        await eventually(lambda: _offsets_are(rig, topic, {0: 8}))
    assert await dead_letters(rig, topic.name) == []


async def test_while_the_database_stands_still_reading_pauses_and_nothing_is_given_up(
    rig: Rig, kafka: Kafka
) -> None:
    topic = Topic.on(kafka)
    config = topic.config(in_flight_messages_max=20)
    async with reading(rig, config) as source:
        topic.publish(of_both(rig, range(10)))
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 10)
        with rig.flushes_held():
            topic.publish(of_both(rig, range(10, 400)))
            await eventually(lambda: source.held_messages >= 20)
            await eventually(rig.waiting_flushes)
            await rig.end_session("copy")  # And the lane is lost, too.
            assert source.held_messages <= 20 + 500  # The bound, and one more poll.
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 400)
        assert source.held_messages == 0
    assert await dead_letters(rig, topic.name) == []


async def test_readers_share_the_topic_while_one_joins(
    rig: Rig, database: Database, kafka: Kafka
) -> None:
    """Partitions move in the middle: both hold messages of them all the time."""
    topic = Topic.on(kafka, partitions=4)
    published = 0

    async def publish_until(done: asyncio.Event) -> None:
        nonlocal published
        while not done.is_set():
            topic.spread(of_both(rig, range(published, published + 20)))
            published += 20
            await asyncio.sleep(0.05)  # The pace of the load, not a wait for anything.

    done = asyncio.Event()
    async with start_rig(database, interval_ms=5) as other, asyncio.TaskGroup() as tasks:
        tasks.create_task(publish_until(done))
        async with reading(rig, topic.config()) as first:
            await eventually(lambda: len(first.assigned) == 4)
            async with reading(other, topic.config()) as second:
                await eventually(lambda: len(first.assigned) == len(second.assigned) == 2)
                moved = await next_offsets(rig, topic.name)
                await eventually(lambda: _are_beyond(rig, topic, moved, second.assigned))
                done.set()
                for tenant in rig.client.tenants:
                    await all_stored(rig, tenant, published)
    assert await dead_letters(rig, topic.name) == []


async def _are_beyond(
    rig: Rig, topic: Topic, before: dict[int, int], partitions: Sequence[int]
) -> bool:
    now = await next_offsets(rig, topic.name)
    return all(now.get(each, 0) > before.get(each, 0) + 20 for each in partitions)


@pytest.fixture
def strict_broker() -> Iterator[str]:
    """Of librdkafka's own: unlike the other it refuses offsets that a topic does not have."""
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = cluster.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    cluster.purge()  # It lives as long as this client of it.


async def stored_up_to(rig: Rig, topic: Topic, partition: int, offset: int) -> None:
    """Say that so much of a partition was stored already."""
    await rig.query(
        "INSERT INTO source_offsets VALUES (%s, %s, %s, now()) RETURNING 1",
        topic.name,
        partition,
        offset,
    )


async def test_offsets_that_a_topic_does_not_have_stop_only_what_cannot_be_known(
    rig: Rig, strict_broker: str
) -> None:
    """Of partition 0 more is stored than it has: made anew. Partition 1 dropped too early."""
    topic = Topic(strict_broker)
    await stored_up_to(rig, topic, 0, 1_000)
    topic.publish(of_both(rig, range(10, 20)), partition=0)
    await stored_up_to(rig, topic, 1, 1)
    topic.publish([b"\xff" * 900_000] * 9, partition=1)  # More than this broker keeps.
    topic.publish(of_both(rig, range(10)), partition=1)
    async with reading(rig, topic.config()) as source:
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 10)
        assert 1 <= len(await dead_letters(rig, topic.name)) < 8
        await eventually(lambda: "1000 is stored, the topic ends at 20" in source.trouble)
        assert await next_offsets(rig, topic.name) == {0: 1_000, 1: 29}
        await rig.query(
            "DELETE FROM source_offsets WHERE (topic, partition) = (%s, 0) RETURNING 1", topic.name
        )
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 20)
        assert source.trouble == ""


async def test_processes_that_hang_and_die_lose_and_double_nothing(
    rig: Rig, database: Database, kafka: Kafka, tmp_path: Path
) -> None:
    """One is stopped until another has its partitions, and goes on; then the other is killed."""
    topic = Topic.on(kafka, partitions=2)
    environment = topic.environment()
    async with (
        ingest_process(database, tmp_path / "one", **environment) as one,
        ingest_process(database, tmp_path / "two", **environment) as two,
    ):
        topic.spread(of_both(rig, range(500)))
        await eventually(lambda: _has(rig, rig.client.acme, 499))
        one.pause()
        topic.spread(of_both(rig, range(500, 1_000)))
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 1_000)  # Once the group has noticed.
        one.resume()
        topic.spread(of_both(rig, range(1_000, 3_000)))
        await eventually(lambda: _has(rig, rig.client.acme, 1_200))
        two.kill()
        topic.spread(of_both(rig, range(3_000, 3_500)))
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 3_500)
    assert await dead_letters(rig, topic.name) == []
