"""SIGKILL of Postgres under load: it recovers its WAL, ingest brings back what was not in it."""

import asyncio
import time

import pytest

from atlas_devstack.postgres import PostgresNode
from tests.integration.waiting import eventually

from .arena import TENANTS, Arena
from .doors import ArrowWriter
from .ledger import Level
from .load import Burst

WAL_LAG_SECONDS = 2.0
"""A commit that is not waited for is on disk after three rounds of the WAL writer, 0.6 s."""


async def crash(primary: PostgresNode) -> float:
    """Kill the server and start it again as a supervisor does; the moment of the start."""
    await asyncio.to_thread(primary.kill)
    started = time.monotonic()
    await asyncio.to_thread(primary.start)
    return started


async def lose_a_backend(arena: Arena) -> float:
    """One session dies; Postgres ends all others, and what is unlogged is empty."""
    return await arena.lose_backend(lambda connection: connection.info.backend_pid)


@pytest.mark.parametrize("fault", ["postmaster", "backend"])
async def test_nothing_acknowledged_is_lost_while_ingest_lives(arena: Arena, fault: str) -> None:
    await arena.start_ingest()
    async with arena.load():
        if fault == "postmaster":
            fault_ended = await crash(arena.primary)
        else:
            fault_ended = await lose_a_backend(arena)
        await arena.recovered(fault_ended)
        await arena.verify_now()
        await arena.more_traffic()
    await arena.verify()


async def test_staging_wiped_before_its_flush_is_filled_again(arena: Arena) -> None:
    """STAGED was answered for rows that exist in memory alone when Postgres is back."""
    await arena.start_ingest()
    async with arena.door() as door, Burst.to(door, TENANTS, points=64) as clients:
        with arena.flushes_held():
            clients.send(4, Level.STAGED)
            await eventually(lambda: len(arena.ledger.promised(Level.STAGED)) == 8)
            clients.send(4, Level.COMMITTED)
            clients.send(4, Level.DURABLE)
            await eventually(lambda: arena.waiting_flushes("advisory"))
            await asyncio.to_thread(arena.primary.kill)
        await asyncio.to_thread(arena.primary.start)
    findings = await arena.verify()
    assert findings.stored == len(arena.ledger.points())


async def test_both_at_once(arena: Arena) -> None:
    """Durable is durable, committed but for the last moments; clients repeat the rest."""
    process = await arena.start_ingest()
    began = time.monotonic()
    async with arena.load() as load:
        load.door.patience_seconds = 1.0  # Nobody is left who could bring back what is missing.
        await eventually(lambda: time.monotonic() > began + WAL_LAG_SECONDS + 1)
        fault_began = time.monotonic()
        await asyncio.gather(asyncio.to_thread(arena.primary.kill), asyncio.to_thread(process.kill))
        fault_ended = time.monotonic()
        await asyncio.to_thread(arena.primary.start)
        await asyncio.to_thread(process.start)
        await arena.recovered(fault_ended)
        await arena.verify_now()
    await arena.verify(Level.DURABLE)
    await arena.verify(Level.COMMITTED, until=fault_began - WAL_LAG_SECONDS)
    for batch, acknowledged_at in arena.ledger.lost:  # Producers have sent these again already.
        assert batch.level is Level.STAGED or acknowledged_at > fault_began - WAL_LAG_SECONDS
    arena.ledger.lost.clear()
    async with arena.door() as door, asyncio.TaskGroup() as clients:
        for batch in arena.ledger.promised(Level.STAGED):
            if batch.level is not Level.DURABLE and batch.key.startswith("writer"):
                clients.create_task(door.deliver(batch))
            elif batch.level is not Level.DURABLE and batch.key.startswith("arrow"):
                clients.create_task(door.settle(batch, ArrowWriter(door, batch.tenant).write))
    await arena.verify()
