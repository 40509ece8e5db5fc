"""atlas_client.Producer against ingest in processes of its own, which are killed."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from atlas_client import AckLevel, AtlasClient, Endpoints, Point, Producer, RefusedBatch
from atlas_devstack.database import Database
from atlas_devstack.services import Service

from .ingest_rig import Client, Rig, client_on, ingest_process, point, start_rig
from .stream_rig import stream_of
from .waiting import eventually

START = datetime(2024, 1, 1, tzinfo=UTC)
ROUNDS = 2
PRODUCING = Path(__file__).with_name("producing.py")


@pytest.fixture
async def rig(fresh_database: Database) -> AsyncIterator[Rig]:
    """For a look at the database, and to adopt lanes; most writes go to other processes."""
    async with start_rig(fresh_database, interval_ms=20) as rig:
        yield rig


@pytest.fixture
async def ingest(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Service]:
    async with ingest_process(fresh_database, tmp_path / "ingest") as process:
        yield process


@asynccontextmanager
async def client_to(service: Service, tenant: str) -> AsyncIterator[AtlasClient]:
    endpoints = Endpoints(ingest=service.target)
    async with AtlasClient.connect(endpoints, tenant=tenant) as client:
        yield client


def numbers(first: int, count: int) -> list[Point]:
    return [
        Point("pump-1", "count", number, START + timedelta(milliseconds=number))
        for number in range(first, first + count)
    ]


async def stored(rig: Rig, tenant: str) -> list[int]:
    """By event time, which is the order in which they were sent."""
    return [int(row[3]) for row in await rig.stored(tenant)]


@pytest.mark.parametrize("ack", AckLevel)
async def test_kill_9_of_ingest_in_the_middle_stores_every_point_once(
    rig: Rig, ingest: Service, ack: AckLevel
) -> None:
    async with AsyncExitStack() as stack:
        producers = []
        for tenant in rig.client.tenants:
            client = await stack.enter_async_context(client_to(ingest, tenant))
            producer = Producer(client, "gw", ack=ack, batch_points=20, linger_ms=2)
            producers.append(await stack.enter_async_context(producer))
        for round_ in range(ROUNDS):
            with rig.flushes_held():
                # Copied, or on the way: none of it is flushed, so it dies in every stage there is.
                for producer in producers:
                    await producer.send_many(numbers(round_ * 1_000, 1_000))
                await eventually(rig.waiting_flushes)
                ingest.kill()
            await asyncio.to_thread(ingest.start)
            await rig.service.adoption.adopt()
        for producer in producers:
            await producer.flush(60)
            stats = producer.stats()
            assert stats.streams > ROUNDS - 1
            assert (stats.lost_batches, stats.refused_points) == (0, 0)

    async def settled() -> bool:
        await rig.service.adoption.adopt()
        return all([await rig.count(tenant) >= ROUNDS * 1_000 for tenant in rig.client.tenants])

    await eventually(settled)  # STAGED is acknowledged before it is flushed.
    for tenant in rig.client.tenants:
        assert await stored(rig, tenant) == list(range(ROUNDS * 1_000))


async def test_a_producer_killed_with_its_spool_full_of_batches_loses_none(
    rig: Rig, ingest: Service, tmp_path: Path
) -> None:
    acme, globex = rig.client.tenants
    spools = {tenant: tmp_path / tenant for tenant in (acme, globex)}

    def spooled(tenant: str) -> int:
        return sum(path.stat().st_size for path in spools[tenant].glob("*.segment"))

    with producing(ingest, acme, spools[acme]), producing(ingest, globex, spools[globex]):
        # In full swing, then without a platform, then dead themselves.
        await eventually(lambda: rig.count(acme))
        await eventually(lambda: rig.count(globex))
        ingest.kill()
        await eventually(lambda: min(map(spooled, spools)) > 20_000)
    await asyncio.to_thread(ingest.start)
    for tenant, spool in spools.items():
        again = command(ingest, tenant, spool, 10_000_000, 10)
        await asyncio.to_thread(subprocess.run, again, check=True, timeout=60)
        assert spooled(tenant) == 0
        found = await stored(rig, tenant)
        assert found[-10:] == list(range(10_000_000, 10_000_010))
        assert found[:-10] == list(range(len(found) - 10))
        assert len(found) > 100


async def test_a_stopped_ingest_sends_its_producers_to_the_next(rig: Rig, ingest: Service) -> None:
    acme, globex = rig.client.tenants
    async with (
        client_to(ingest, acme) as client,
        Producer(client, "gw", batch_points=20) as one,
        Producer(client, "gw", batch_points=20, tenant=globex) as other,
    ):
        for first in range(0, 2_000, 1_000):
            for producer in (one, other):
                await producer.send_many(numbers(first, 1_000))
            await asyncio.to_thread(ingest.restart)
        for producer in (one, other):
            await producer.flush(60)
    for tenant in (acme, globex):
        assert await stored(rig, tenant) == list(range(2_000))


async def test_two_producers_of_one_name_do_not_take_each_others_numbers(
    rig: Rig, ingest: Service
) -> None:
    acme, globex = rig.client.tenants
    async with (
        client_to(ingest, acme) as client,
        Producer(client, "gw", batch_points=20) as one,
        Producer(client, "gw", batch_points=20) as zombie,
        Producer(client, "gw", batch_points=20, tenant=globex) as other,
    ):
        await asyncio.gather(
            one.send_many(numbers(0, 1_000)),
            zombie.send_many(numbers(1_000, 1_000)),
            other.send_many(numbers(0, 10)),
        )
        for producer in (one, zombie, other):
            await producer.flush(60)
    assert await stored(rig, acme) == list(range(2_000))
    assert await stored(rig, globex) == list(range(10))


async def test_replays_through_two_processes_at_once_store_one_copy(
    rig: Rig, ingest: Service
) -> None:
    """A half-dead stream's batches and their repetitions race through different lanes."""
    acme, globex = rig.client.tenants
    async with grpc.aio.insecure_channel(ingest.target, [("grpc.enable_http_proxy", 0)]) as channel:
        other: Client = client_on(channel)
        other.acme, other.globex = acme, globex
        async with (
            stream_of(rig.client, acme, producer_id="p") as first,
            stream_of(other, acme, producer_id="p") as second,
            stream_of(other, globex, producer_id="p") as third,
        ):
            with rig.flushes_held():
                for number in range(1, 41):
                    for stream in (first, second, third):
                        await stream.send(number, [point("count", int_value=number)])
            acks = await first.end() + await second.end()
            assert len(await third.end()) == 40
    assert sum(ack.accepted_count for ack in acks) == 40
    assert sum(ack.duplicate for ack in acks) == 40
    for tenant in (acme, globex):
        assert sorted(await stored(rig, tenant)) == list(range(1, 41))


async def test_a_session_reads_what_its_producer_wrote(rig: Rig, ingest: Service) -> None:
    async with client_to(ingest, rig.client.acme) as client:
        session = client.session()
        refused: list[RefusedBatch] = []
        options = {"session": session, "on_refused": refused.append}
        async with Producer(client, "gw", **options) as producer:  # type: ignore[arg-type]
            await producer.send("pump-1", "pressure", 50.0)
            await producer.send("pump-1", "pressure", 101.0)
            await producer.flush(30)
            position = await client.producer_position(producer.life)
    assert position.sequence == 1
    assert [each.errors[0].reason for each in refused] == ["VALUE_OUT_OF_RANGE"]
    assert refused[0].points[1].double_value == 101.0
    tenant_id = (await rig.query("SELECT tenant_id FROM tenants WHERE key = %s", rig.client.acme))[
        0
    ][0]
    assert await rig.query("SELECT count(*) FROM tenants WHERE key = %s", rig.client.globex)
    assert session.token == producer.token == position.token
    assert session.token[1:5] == int(tenant_id).to_bytes(4, "big")


def command(ingest: Service, tenant: str, spool: Path, first: int, count: int) -> list[str]:
    where = [ingest.target, tenant, str(spool)]
    return [sys.executable, str(PRODUCING), *where, str(first), str(count)]


@contextmanager
def producing(ingest: Service, tenant: str, spool: Path) -> Iterator[None]:
    """A producer in a process of its own, which is killed at the end."""
    process = subprocess.Popen(command(ingest, tenant, spool, 0, 0))
    try:
        yield
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
