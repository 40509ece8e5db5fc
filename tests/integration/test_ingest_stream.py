"""WriteStream and GetProducerPosition on a real database."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import error_pb2
from atlas_devstack.database import Database
from atlas_ingest.config import StreamConfig

from .ingest_rig import Client, Rig, as_tenant, client_on, ingest_process, point, refusal, start_rig
from .stream_rig import stream_of, unstarted
from .waiting import eventually

SMALL = StreamConfig(streams_max=4, window_batches=4, window_points=50)


@pytest.fixture
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5, stream=SMALL) as rig:
        yield rig


def good(number: int) -> Any:
    return point(double_value=float(number), event_time_us=1_700_000_000_000_000 + number)


def values(rows: list[tuple[Any, ...]]) -> list[float]:
    return [float(row[3]) for row in rows]


async def test_batches_are_stored_in_order_and_acknowledged_with_a_token(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        async with stream_of(rig.client, tenant, producer_id="p") as stream:
            assert stream.position == 0
            for number in range(1, 21):
                await stream.send(number, [good(number)])
            acks = await stream.end()
        assert [ack.sequence for ack in acks] == list(range(1, 21))
        assert all(ack.accepted_count == 1 and not ack.duplicate for ack in acks)
        assert values(await rig.stored(tenant)) == list(map(float, range(1, 21)))
        tenant_id = (await rig.query("SELECT tenant_id FROM tenants WHERE key = %s", tenant))[0][0]
        for position in rig.signer.open(stream.token, tenant_id):
            assert await rig.query(
                "SELECT position_state(%s::smallint, %s, %s)",
                position.lane,
                position.epoch,
                position.sequence,
            ) == [("reached",)]


async def test_one_flush_acknowledges_many_batches_in_one_message(rig: Rig) -> None:
    async with stream_of(rig.client, rig.client.acme) as stream:
        with rig.flushes_held():
            for number in range(1, 5):
                await stream.send(number, [good(number)])
            await eventually(lambda: rig.client and rig.service.ingest.pending_points == 4)
        await stream.acks(4)
        assert stream.messages <= 1 + 2  # The first may have been flushed alone.


async def test_what_was_sent_before_is_acknowledged_as_duplicate(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    async with stream_of(rig.client, acme, producer_id="p") as first:
        for number in (1, 2, 2, 1, 3):
            await first.send(number, [good(number)])
        acks = await first.end()
    assert [ack.duplicate for ack in acks] == [False, False, True, True, False]
    async with stream_of(rig.client, acme, producer_id="p") as second:
        assert second.position == 3
        assert second.token
        for number in (2, 3, 4):
            await second.send(number, [good(number)])
        acks = await second.end()
    assert [(ack.duplicate, ack.accepted_count) for ack in acks] == [
        (True, 0),
        (True, 0),
        (False, 1),
    ]
    assert values(await rig.stored(acme)) == [1, 2, 3, 4]
    # The other tenant's producer of the same name is another one.
    async with stream_of(rig.client, globex, producer_id="p") as other:
        assert other.position == 0
    assert await rig.count(globex) == 0


async def test_a_gap_ends_the_stream_and_names_what_is_expected(rig: Rig) -> None:
    async with stream_of(rig.client, rig.client.acme, producer_id="p") as stream:
        await stream.send(1, [good(1)])
        await stream.send(3, [good(3)])
        assert [ack.sequence for ack in await stream.acks(1)] == [1]
        error = await stream.failure()
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_GAP")
    assert error.metadata["expected"] == "2"
    assert await rig.count(rig.client.acme) == 1


async def test_without_a_producer_numbers_only_have_to_rise(rig: Rig) -> None:
    async with stream_of(rig.client, rig.client.acme) as stream:
        for number in (5, 9, 9):
            await stream.send(number, [good(number)])
        assert [ack.sequence for ack in await stream.acks(2)] == [5, 9]
        error = await stream.failure()
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "batch.sequence")
    assert await rig.count(rig.client.acme) == 2


@pytest.mark.parametrize("producer_id", ["p", ""])
async def test_a_bad_batch_is_refused_and_the_stream_goes_on(rig: Rig, producer_id: str) -> None:
    async with stream_of(rig.client, rig.client.acme, producer_id=producer_id) as stream:
        await stream.send(1, [good(1), point("nonsense")])
        await stream.send(2, [good(2)] * 10_001)
        await stream.send(3, [good(3)], default_entity_key="x" * 300)
        await stream.send(4, [good(4)])
        one, two, three, four = await stream.end()
    assert one.refused == error_pb2.ERROR_REASON_ATTRIBUTE_UNKNOWN
    assert [(each.index, each.reason) for each in one.errors] == [(1, one.refused)]
    assert "nonsense" in one.message
    assert (one.accepted_count, one.rejected_count) == (0, 1)
    assert two.refused == error_pb2.ERROR_REASON_BATCH_TOO_LARGE
    assert three.refused == error_pb2.ERROR_REASON_ENTITY_KEY_INVALID
    assert not four.refused
    assert values(await rig.stored(rig.client.acme)) == [4]
    if producer_id:
        # The refused ones have used up their numbers.
        async with stream_of(rig.client, rig.client.acme, producer_id=producer_id) as again:
            assert again.position == 4


async def test_partial_success_stores_the_good_points_of_a_batch(rig: Rig) -> None:
    start = {"producer_id": "p", "partial_success": True, "default_entity_key": "pump-7"}
    async with stream_of(rig.client, rig.client.acme, **start) as stream:
        nameless = point(key="", double_value=2.0)
        await stream.send(1, [nameless, point("nonsense")])
        await stream.send(2, [point("nonsense")])
        await stream.send(3, [])
        one, two, three = await stream.end()
    assert (one.accepted_count, one.rejected_count, one.refused) == (1, 1, 0)
    assert [each.index for each in one.errors] == [1]
    assert (two.accepted_count, two.rejected_count, two.refused) == (0, 1, 0)
    assert (three.accepted_count, three.rejected_count, three.duplicate) == (0, 0, False)
    assert [row[0] for row in await rig.stored(rig.client.acme)] == ["pump-7"]


async def test_beyond_the_window_the_server_does_not_read(rig: Rig) -> None:
    async with stream_of(rig.client, rig.client.acme, producer_id="p") as stream:
        assert (stream.credit.batches, stream.credit.points) == (4, 50)
        with rig.flushes_held():
            for number in range(1, 9):
                await stream.send(number, [good(number)] * 5)
            await eventually(lambda: rig.service.ingest.pending_points == 4 * 5)
            # A call behind them is answered by the same loop: had more been read, it would show.
            await rig.client.ingest.GetStagingStatus(pb.GetStagingStatusRequest())
            assert rig.service.ingest.pending_points == 4 * 5
        assert len(await stream.end()) == 8
    assert await rig.count(rig.client.acme) == 40


async def test_a_batch_larger_than_the_window_is_taken_alone(rig: Rig) -> None:
    async with stream_of(rig.client, rig.client.acme) as stream:
        for number in (1, 2, 3):
            await stream.send(number, [good(number)] * 60)
        assert [ack.accepted_count for ack in await stream.end()] == [60, 60, 60]


async def test_a_stream_waits_while_the_memory_is_full(database: Database) -> None:
    async with start_rig(database, interval_ms=5, pending_points_max=10_000) as rig:
        acme, globex = rig.client.tenants
        async with stream_of(rig.client, acme, producer_id="p") as stream:
            with rig.flushes_held():
                filling = asyncio.create_task(rig.client.write(globex, [good(0)] * 9_500))
                await eventually(lambda: rig.service.ingest.pending_points == 9_500)
                await stream.send(1, [good(1)] * 1_000)
                # A plain call is told to come back; the stream is not.
                error = await refusal(rig.client.write(globex, [good(1)] * 1_000))
                assert error.reason == "OVERLOADED"
                assert rig.service.ingest.pending_points == 9_500
            assert [ack.accepted_count for ack in await stream.acks(1)] == [1_000]
            assert (await filling).accepted_count == 9_500
        assert await rig.count(acme) == 1_000


async def test_credit_shrinks_while_flushes_do_not_keep_up_and_grows_again(
    database: Database,
) -> None:
    async with start_rig(database, interval_ms=5, pending_points_max=10_000) as rig:
        acme, globex = rig.client.tenants
        async with stream_of(rig.client, acme, producer_id="p") as stream:
            full = stream.credit.points
            with rig.flushes_held():
                for number in range(1, 21):
                    await stream.send(number, [good(number)] * 1_000)
                while stream.credit.points > 9_000:
                    assert not await stream.acks_of_next()
                # What this stream may not have is left for others.
                await eventually(rig.waiting_flushes)
                write = asyncio.create_task(rig.client.write(globex, [good(1)]))
                pending = rig.service.ingest.pending_points
                await eventually(lambda: rig.service.ingest.pending_points > pending)
            await stream.acks(20)
            number = 20
            while stream.credit.points < full:
                number += 1
                assert number < 100
                await stream.send(number, [good(number)])
                await stream.acks(1)
            assert (await write).accepted_count == 1
        assert await rig.count(acme) == 20_000 + number - 20


async def test_the_first_message_must_be_a_start_and_only_it(rig: Rig) -> None:
    async with unstarted(rig.client, rig.client.acme) as stream:
        await stream.send(1, [good(1)])
        error = await stream.failure()
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "start")
    async with unstarted(rig.client, rig.client.acme) as stream:
        await stream.call.done_writing()
        assert (await stream.failure()).field == "start"
    async with stream_of(rig.client, rig.client.acme) as stream:
        await stream.call.write(pb.WriteStreamRequest(start=pb.WriteStreamStart()))
        error = await stream.failure()
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "batch")


@pytest.mark.parametrize(
    ("start", "field"),
    [
        ({"producer_id": "x" * 129}, "producer_id"),
        ({"producer_id": "a\nb"}, "producer_id"),
        ({"ack": 99}, "start.ack"),
        ({"default_entity_key": "x" * 257}, "start.default_entity_key"),
    ],
    ids=str,
)
async def test_a_bad_start_is_refused(rig: Rig, start: dict[str, Any], field: str) -> None:
    async with unstarted(rig.client, rig.client.acme) as stream:
        await stream.call.write(pb.WriteStreamRequest(start=pb.WriteStreamStart(**start)))
        error = await stream.failure()
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_newer_stream_of_a_producer_supersedes_the_older(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    async with AsyncExitStack() as stack:
        zombie = await stack.enter_async_context(stream_of(rig.client, acme, producer_id="p"))
        other = await stack.enter_async_context(stream_of(rig.client, globex, producer_id="p"))
        with rig.flushes_held():
            await zombie.send(1, [good(1)])
            await eventually(rig.waiting_flushes)
            call = stream_of(rig.client, acme, producer_id="p")
            opening = asyncio.create_task(stack.enter_async_context(call))
            await eventually(lambda: rig.service.streams.count == 3)
        newer = await opening
        # What the older one had under way is stored, and the newer one knows.
        assert newer.position == 1
        assert [ack.sequence for ack in await zombie.acks(1)] == [1]
        error = await zombie.failure()
        assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "PRODUCER_SUPERSEDED")
        for number in (2, 3):
            await newer.send(number, [good(number)])
        assert len(await newer.end()) == 2
        await other.send(1, [good(1)])
        assert len(await other.end()) == 1
    assert values(await rig.stored(acme)) == [1, 2, 3]
    assert await rig.count(globex) == 1


async def test_streams_are_bounded_in_number(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(stream_of(rig.client, rig.client.acme))
        async with unstarted(rig.client, rig.client.globex) as fifth:
            error = await fifth.failure()
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert error.retry_after
    await eventually(lambda: rig.service.streams.count == 0)
    async with stream_of(rig.client, rig.client.globex) as again:
        assert await again.end() == []


async def test_an_idle_stream_is_ended_but_not_one_that_waits_for_its_flush(
    database: Database,
) -> None:
    async with start_rig(database, interval_ms=5, stream=StreamConfig(idle_seconds=0.2)) as rig:
        async with stream_of(rig.client, rig.client.acme) as stream:
            with rig.flushes_held():
                await stream.send(1, [good(1)])
                await eventually(rig.waiting_flushes)
                held_since = asyncio.get_running_loop().time()
                await eventually(lambda: asyncio.get_running_loop().time() > held_since + 0.5)
            assert len(await stream.acks(1)) == 1
            error = await stream.failure()
        assert (error.code, error.reason) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "DEADLINE_EXCEEDED",
        )


async def test_a_stream_keeps_to_the_deadline_it_has(rig: Rig) -> None:
    call = rig.client.ingest.WriteStream(metadata=as_tenant(rig.client.acme), timeout=2)
    await call.write(pb.WriteStreamRequest(start=pb.WriteStreamStart(producer_id="p")))
    await call.read()
    error = await refusal(call.read())
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: rig.service.streams.count == 0)


async def test_a_producers_position_is_known_to_its_tenant_alone(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    async with stream_of(rig.client, acme, producer_id="p") as stream:
        await stream.send(1, [good(1)])
        await stream.acks(1)
    request = pb.GetProducerPositionRequest(producer_id="p")
    position = rig.client.ingest.GetProducerPosition
    answer = await position(request, metadata=as_tenant(acme))
    assert answer.position == 1
    assert answer.token
    assert answer.store_time.seconds > 0
    nothing = await position(request, metadata=as_tenant(globex))
    assert (nothing.position, nothing.token) == (0, b"")
    assert not nothing.HasField("store_time")
    error = await refusal(position(pb.GetProducerPositionRequest(), metadata=as_tenant(acme)))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "producer_id")


@asynccontextmanager
async def client_of(target: str, rig: Rig) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        client = client_on(channel)
        client.acme, client.globex = rig.client.tenants
        yield client


async def test_sigterm_acknowledges_what_is_under_way_and_sends_producers_elsewhere(
    rig: Rig, database: Database, tmp_path: Path
) -> None:
    async with (
        ingest_process(database, tmp_path) as process,
        client_of(process.target, rig) as client,
        stream_of(client, client.acme, producer_id="p") as stream,
        stream_of(client, client.globex) as quiet,
    ):
        with rig.flushes_held():
            await stream.send(1, [good(1)])
            await eventually(rig.waiting_flushes)
            os.kill(process.pid, signal.SIGTERM)
            # Told at once, while the other still waits.
            assert (await quiet.failure()).code is grpc.StatusCode.UNAVAILABLE
        assert [ack.accepted_count for ack in await stream.acks(1)] == [1]
        error = await stream.failure()
        assert (error.code, error.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "DEPENDENCY_UNAVAILABLE",
        )
    assert await rig.count(rig.client.acme) == 1
