import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_client import (
    AckLevel,
    AtlasClient,
    BufferFullError,
    Point,
    Producer,
    ProducerClosedError,
    RefusedBatch,
    SpoolInUseError,
    UndeliveredError,
)

from .client_rig import Refusal
from .producer_rig import AWAY, BAD, Store, client_at, serving, until

EVENT = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def client(store: Store) -> AsyncIterator[AtlasClient]:
    async with serving(store) as port, client_at(port) as client:
        yield client


def points(first: int, count: int, attribute: str = "rpm") -> list[Point]:
    return [Point("pump-1", attribute, number, EVENT) for number in range(first, first + count)]


async def test_points_arrive_once_and_in_order(client: AtlasClient, store: Store) -> None:
    async with Producer(client, "gw", batch_points=10) as producer:
        for number in range(95):
            await producer.send("pump-1", "rpm", number, event_time=EVENT)
        await producer.flush(10)
        assert store.values["acme"] == list(range(95))
        stats = producer.stats()
    assert (stats.taken_points, stats.accepted_points, stats.waiting_points) == (95, 95, 0)
    assert (stats.streams, stats.duplicate_batches, stats.lost_batches) == (1, 0, 0)
    assert len(store.batches) == 10


async def test_two_tenants_have_their_own(client: AtlasClient, store: Store) -> None:
    async with Producer(client, "gw") as one, Producer(client, "gw", tenant="globex") as other:
        await one.send_many(points(0, 5))
        await other.send_many(points(10, 5))
    assert store.values == {"acme": list(range(5)), "globex": list(range(10, 15))}


async def test_the_start_says_what_was_asked_for(client: AtlasClient, store: Store) -> None:
    async with Producer(client, "gw", ack=AckLevel.STAGED, partial_success=False) as producer:
        await producer.send("pump-1", "rpm", 1)
        await producer.flush(10)
    (start,) = store.starts
    assert (start.ack, start.partial_success) == (pb.ACK_LEVEL_STAGED, False)
    assert start.producer_id == producer.life
    assert producer.life.startswith("gw:")
    # A point without a time has that of send(): it may be delivered much later.
    assert store.batches[0].points[0].event_time_us > 0


async def test_a_session_sees_what_is_acknowledged(client: AtlasClient, store: Store) -> None:
    session = client.session()
    async with Producer(client, "gw", session=session) as producer:
        await producer.send("pump-1", "rpm", 1)
        await producer.flush(10)
        assert session.token == producer.token != b""


async def test_the_position_of_a_producer_can_be_asked_for(
    client: AtlasClient, store: Store
) -> None:
    async with Producer(client, "gw", batch_points=1) as producer:
        await producer.send_many(points(0, 3))
        await producer.flush(10)
    position = await client.producer_position(producer.life)
    assert (position.sequence, position.stored_at) == (3, EVENT)
    assert position.token
    assert (await client.for_tenant("globex").producer_position(producer.life)).sequence == 0


@pytest.mark.parametrize("fault", ["break_before_storing", "break_before_acknowledging"])
async def test_a_break_costs_nothing_and_doubles_nothing(
    client: AtlasClient, store: Store, fault: str
) -> None:
    setattr(store, fault, {1, 4, 5, 11})
    async with Producer(client, "gw", batch_points=5) as producer:
        await producer.send_many(points(0, 100))
        await producer.flush(20)
        stats = producer.stats()
    assert store.values["acme"] == list(range(100))
    assert stats.streams == 5
    assert stats.last_error == ""
    unseen = stats.recovered_batches + stats.duplicate_batches
    assert (unseen > 0) == (fault == "break_before_acknowledging")


async def test_it_waits_for_a_platform_that_is_away(store: Store) -> None:
    async with serving(store) as port:
        pass
    async with client_at(port) as client, Producer(client, "gw", batch_points=5) as producer:
        await producer.send_many(points(0, 50))
        await until(lambda: producer.stats().last_error)
        assert not producer.stats().connected
        async with serving(store, port):
            await producer.flush(20)
            assert store.values["acme"] == list(range(50))
            assert producer.stats().last_error == ""


async def test_refusals_of_the_stream_are_repeated_too(client: AtlasClient, store: Store) -> None:
    # A tenant may be made later; an overload passes.
    store.refusals = [
        Refusal(grpc.StatusCode.NOT_FOUND, "TENANT_UNKNOWN"),
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=0.01),
        AWAY,
    ]
    async with Producer(client, "gw") as producer:
        await producer.send("pump-1", "rpm", 7)
        await producer.flush(10)
    assert store.values["acme"] == [7]


async def test_the_credit_is_kept_to(client: AtlasClient, store: Store) -> None:
    store.credit = (3, 10_000)
    store.is_held = True
    async with Producer(client, "gw", batch_points=5) as producer:
        await producer.send_many(points(0, 100))
        await until(lambda: producer.stats().in_flight_batches == 3)
        assert len(store.batches) <= 3
        store.is_held = False
        await producer.flush(10)
    assert store.values["acme"] == list(range(100))
    assert store.in_flight_max <= 3


async def test_a_batch_larger_than_the_credit_is_sent_alone(
    client: AtlasClient, store: Store
) -> None:
    store.credit = (8, 2)
    async with Producer(client, "gw", batch_points=5) as producer:
        await producer.send_many(points(0, 20))
        await producer.flush(10)
    assert store.in_flight_max == 1


async def test_refused_points_are_told_and_the_others_stored(
    client: AtlasClient, store: Store
) -> None:
    refused: list[RefusedBatch] = []
    async with Producer(client, "gw", batch_points=4, on_refused=refused.append) as producer:
        await producer.send_many([*points(0, 2), *points(2, 1, BAD), *points(3, 5)])
        await producer.flush(10)
        stats = producer.stats()
    assert store.values["acme"] == [0, 1, 3, 4, 5, 6, 7]
    (one,) = refused
    assert (one.sequence, one.rejected_count, one.reason) == (1, 1, "")
    assert [(each.index, each.reason) for each in one.errors] == [(2, "ATTRIBUTE_UNKNOWN")]
    assert one.points[2].attribute == BAD
    assert (stats.refused_batches, stats.refused_points, stats.accepted_points) == (1, 1, 7)


async def test_without_partial_success_the_whole_batch_is_refused(
    client: AtlasClient, store: Store
) -> None:
    refused: list[RefusedBatch] = []

    def note(batch: RefusedBatch) -> None:
        refused.append(batch)
        raise RuntimeError("the caller's own error")

    options: dict[str, Any] = {"partial_success": False, "on_refused": note, "batch_points": 4}
    async with Producer(client, "gw", **options) as producer:
        await producer.send_many([*points(0, 1), *points(1, 1, BAD), *points(2, 6)])
        await producer.flush(10)
    assert store.values["acme"] == [4, 5, 6, 7]
    assert (refused[0].reason, refused[0].rejected_count) == ("ATTRIBUTE_UNKNOWN", 4)


async def test_with_memory_full_a_caller_waits_or_is_told(
    client: AtlasClient, store: Store
) -> None:
    store.is_held = True
    async with Producer(client, "gw", batch_points=5, memory_points_max=40) as producer:
        with pytest.raises(BufferFullError) as caught:
            await producer.send_many(points(0, 100), block=False)
        assert caught.value.taken == 40
        assert producer.stats().memory_points == 40
        waiting = asyncio.create_task(producer.send_many(points(40, 60)))
        with pytest.raises(BufferFullError):
            await producer.send("pump-1", "rpm", -1, block=False)
        assert not waiting.done()
        assert producer.stats().memory_points == 40
        store.is_held = False
        await waiting
        await producer.flush(10)
    assert store.values["acme"] == list(range(100))


async def test_beyond_memory_batches_overflow_to_the_spool_and_come_back_in_order(
    client: AtlasClient, store: Store, tmp_path: Path
) -> None:
    store.is_held = True
    options: dict[str, Any] = {"batch_points": 5, "memory_points_max": 40}
    async with Producer(client, "gw", spool_directory=tmp_path, **options) as producer:
        await producer.send_many(points(0, 500))
        stats = producer.stats()
        assert stats.memory_points <= 40
        await until(lambda: producer.stats().spooled_batches > 80)
        store.is_held = False
        await producer.flush(20)
        assert producer.stats().spooled_batches == 0
    assert store.values["acme"] == list(range(500))
    assert not segment_bytes(tmp_path)


async def test_with_the_spool_full_too_a_caller_waits(
    client: AtlasClient, store: Store, tmp_path: Path
) -> None:
    store.is_held = True
    long = "x" * 10_000
    bounds: dict[str, Any] = {
        "batch_points": 10,
        "memory_points_max": 80,
        "spool_directory": tmp_path,
        "spool_bytes_max": 2**20,
    }
    async with Producer(client, "gw", **bounds) as producer:
        filling = asyncio.create_task(producer.send_many([Point("pump-1", "note", long)] * 1000))
        # No room for one more batch of 100 kB, nor in memory for one more point.
        await until(lambda: segment_bytes(tmp_path) > 2**20 - 100_000)
        await until(lambda: producer.stats().memory_points == 80)
        with pytest.raises(BufferFullError):
            await producer.send("pump-1", "note", long, block=False)
        # What memory holds, and about a MiB of points of 10 kB.
        taken = producer.stats().taken_points
        assert 80 + 80 < taken < 80 + 110
        assert segment_bytes(tmp_path) <= 2**20
        store.is_held = False
        await filling
        await producer.flush(20)
        assert producer.stats().accepted_points == 1000


async def test_a_spool_survives_its_process(store: Store, tmp_path: Path) -> None:
    async with serving(store) as port:
        pass
    options: dict[str, Any] = {"spool_directory": tmp_path, "batch_points": 5, "durable": True}
    async with client_at(port) as client:
        dead = Producer(client, "gw", **options)
        await dead.__aenter__()
        await dead.send_many(points(0, 50))
        await until(lambda: dead.stats().spooled_batches == 10)
        await abandon(dead)
        async with serving(store, port), Producer(client, "gw", **options) as producer:
            await producer.send_many(points(50, 10))
            await producer.flush(20)
            stats = producer.stats()
    assert store.values["acme"] == list(range(60))
    # Under the numbers and the name they had: whatever the dead one had sent is known.
    assert store.lives == [dead.life, producer.life]
    assert (stats.lost_batches, stats.waiting_points) == (0, 0)


async def test_what_a_dead_process_had_sent_is_not_stored_again(
    client: AtlasClient, store: Store, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"spool_directory": tmp_path, "batch_points": 5, "durable": True}
    dead = Producer(client, "gw", **options)
    await dead.__aenter__()
    store.break_before_acknowledging = {6}
    store.refusals = []
    await dead.send_many(points(0, 50))
    await until(lambda: len(store.values["acme"]) == 30)
    await abandon(dead)
    async with Producer(client, "gw", **options) as producer:
        await producer.flush(20)
    assert store.values["acme"] == list(range(50))


async def test_numbers_lost_with_a_memory_are_filled(store: Store, tmp_path: Path) -> None:
    """Without durable, memory holds the older batches: they die, those in the spool live."""
    async with serving(store) as port:
        pass
    options: dict[str, Any] = {
        "spool_directory": tmp_path,
        "batch_points": 5,
        "memory_points_max": 40,
    }
    async with client_at(port) as client:
        dead = Producer(client, "gw", **options)
        await dead.__aenter__()
        await dead.send_many(points(0, 100))
        await until(lambda: dead.stats().spooled_batches == 16)
        await abandon(dead)
        async with serving(store, port), Producer(client, "gw", **options) as producer:
            await producer.send_many(points(100, 5))
            await producer.flush(20)
            assert producer.stats().lost_batches == 4
    assert store.values["acme"] == list(range(20, 105))


async def test_what_close_cannot_deliver_goes_to_the_spool(store: Store, tmp_path: Path) -> None:
    async with serving(store) as port:
        pass
    async with client_at(port) as client:
        closed = Producer(client, "gw", spool_directory=tmp_path, batch_points=5)
        async with closed:
            await closed.send_many(points(0, 23))
            await closed.close(timeout=0)
        async with (
            serving(store, port),
            Producer(client, "gw", spool_directory=tmp_path) as producer,
        ):
            await producer.flush(20)
    assert store.values["acme"] == list(range(23))


async def test_without_a_spool_what_is_lost_is_said(store: Store) -> None:
    async with serving(store) as port:
        pass
    async with client_at(port) as client:
        producer = Producer(client, "gw", batch_points=5)
        await producer.__aenter__()
        await producer.send_many(points(0, 23))
        with pytest.raises(UndeliveredError, match="23 points"):
            await producer.close(timeout=0.1)
        with pytest.raises(ProducerClosedError):
            await producer.send("pump-1", "rpm", 1)


async def test_a_spool_belongs_to_one_producer(
    client: AtlasClient, store: Store, tmp_path: Path
) -> None:
    async with Producer(client, "gw", spool_directory=tmp_path):
        with pytest.raises(SpoolInUseError, match="another process"):
            await Producer(client, "gw", spool_directory=tmp_path).__aenter__()
    store.refusals = [AWAY] * 100
    async with Producer(client, "gw", spool_directory=tmp_path) as producer:
        await producer.send("pump-1", "rpm", 1)
        await producer.close(timeout=0)
    with pytest.raises(SpoolInUseError, match="another directory"):
        await Producer(client, "gw", tenant="globex", spool_directory=tmp_path).__aenter__()


async def test_a_flush_that_takes_too_long_raises_and_changes_nothing(
    client: AtlasClient, store: Store
) -> None:
    store.is_held = True
    async with Producer(client, "gw") as producer:
        await producer.send("pump-1", "rpm", 1)
        with pytest.raises(TimeoutError):
            await producer.flush(0.05)
        store.is_held = False
        await producer.flush(10)
    assert store.values["acme"] == [1]


async def test_a_caller_that_gives_up_leaves_nothing_half_done(
    client: AtlasClient, store: Store
) -> None:
    store.is_held = True
    async with Producer(client, "gw", batch_points=5, memory_points_max=40) as producer:
        sending = asyncio.create_task(producer.send_many(points(0, 100)))
        await until(lambda: producer.stats().memory_points == 40)
        sending.cancel()
        store.is_held = False
        await producer.flush(10)
        assert store.values["acme"] == list(range(40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_points": 0}, "batch_points"),
        ({"batch_points": 10_001}, "batch_points"),
        ({"memory_points_max": 10}, "memory_points_max"),
        ({"linger_ms": -1}, "linger_ms"),
        ({"durable": True}, "spool_directory"),
        ({"producer_id": "x" * 116}, "producer_id"),
        ({"producer_id": "a\nb"}, "producer_id"),
    ],
    ids=str,
)
def test_bounds_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    client = AtlasClient({}, _NoCaller())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Producer(client, options.pop("producer_id", "gw"), **options)


def segment_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.segment"))


class _NoCaller:
    tenant = "acme"


async def abandon(producer: Producer) -> None:
    """End it as a crash does: without a word, and without spooling what memory has."""
    for task in producer._tasks:
        task.cancel()
    await asyncio.gather(*producer._tasks, return_exceptions=True)
    assert producer._spool is not None
    producer._spool.close()  # Which leaves what is in it, as the system does of the dead.
