"""kill -9 of ingest at every step of a write: what it acknowledged is stored once, in the end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from atlas_devstack.proxy import FaultProxy
from tests.integration.waiting import eventually

from .arena import RECOVERY_SECONDS_MAX, TENANTS, Arena
from .audit import audit
from .ledger import Level, Outcome
from .load import Burst

POINTS = 64
"""So many that every batch has every entity."""


@asynccontextmanager
async def burst(arena: Arena) -> AsyncIterator[Burst]:
    async with arena.door() as door, Burst.to(door, TENANTS, points=POINTS) as burst:
        yield burst


async def test_after_the_copy(arena: Arena) -> None:
    """One half waits for its flush to begin, the other is filled behind it."""
    process = await arena.start_ingest()
    async with burst(arena) as clients:
        with arena.flushes_held():
            clients.send(4)
            await eventually(lambda: arena.waiting_flushes("advisory"))
            clients.send(4, Level.STAGED)
            await eventually(lambda: arena.staged_points() == len(arena.ledger.points()))
            # Nobody repeats these: what lies in staging is all there is of them.
            await eventually(lambda: len(arena.ledger.promised(Level.STAGED)) == 8)
            assert not arena.ledger.promised(Level.COMMITTED)
            await asyncio.to_thread(process.kill)
        await asyncio.to_thread(process.start)
    await arena.verify()
    assert arena.staged_points() == 0


async def test_inside_the_flush(arena: Arena) -> None:
    """Ledger and rows are inserted, the projection waits: nothing of it may remain by itself."""
    process = await arena.start_ingest()
    async with burst(arena) as clients:
        clients.send(1)
        await eventually(lambda: not arena.ledger.with_outcome(Outcome.UNKNOWN))
        with arena.projection_held():
            clients.send(4)
            await eventually(lambda: arena.waiting_flushes("row"))
            await asyncio.to_thread(process.kill)
        await asyncio.to_thread(process.start)
    await arena.verify()


async def test_after_the_commit_and_before_the_answer(arena: Arena) -> None:
    """Ingest has not heard that it is stored: the repeated calls find themselves stored."""
    async with FaultProxy.listen(arena.primary.port) as proxy:
        process = await arena.start_ingest(port=proxy.port)
        async with burst(arena) as clients:
            with arena.flushes_held():
                clients.send(4)
                await eventually(lambda: arena.waiting_flushes("advisory"))
                flushes = arena.flush_count()
                (port,) = arena.ports_of_waiting_flushes()
                held = proxy.hold_answers_to(b"COMMIT", client_port=port)
            await held.wait()
            await eventually(lambda: arena.flush_count() > flushes)
            assert not arena.ledger.with_outcome(Outcome.ACKNOWLEDGED)
            assert (await audit(arena.database, arena.ledger, Level.DURABLE)).stored > 0
            await asyncio.to_thread(process.kill)
            await asyncio.to_thread(process.start)
    await arena.verify()
    assert any(batch.repeated_answers for batch in arena.ledger.batches)


async def test_under_load(arena: Arena) -> None:
    process = await arena.start_ingest()
    async with arena.load(levels=(Level.DURABLE, Level.COMMITTED)):
        await asyncio.to_thread(process.kill)
        fault_ended = time.monotonic()
        await asyncio.to_thread(process.start)
        await arena.recovered(fault_ended)
        await arena.verify_now()
        await arena.more_traffic()
    await arena.verify()


async def test_another_process_adopts_what_one_that_never_returns_left(arena: Arena) -> None:
    dying = await arena.start_ingest()
    async with arena.door() as door, Burst.to(door, TENANTS, points=POINTS) as clients:
        await arena.start_ingest()
        with arena.flushes_held():
            clients.send(4, Level.STAGED)
            await eventually(lambda: len(arena.ledger.promised(Level.STAGED)) == 8)
            await asyncio.to_thread(dying.kill)
            fault_ended = time.monotonic()
    # Both halves of its lane, and nobody to repeat anything.
    findings = await arena.verify()
    assert findings.stored == len(arena.ledger.points())
    assert time.monotonic() - fault_ended < RECOVERY_SECONDS_MAX
