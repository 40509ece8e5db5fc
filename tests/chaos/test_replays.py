"""The same batches from many clients at once, at two processes: stored once, answered alike."""

import asyncio
import itertools
from functools import partial

from tests.integration.waiting import eventually

from .arena import TENANTS, Arena
from .doors import StreamWriter
from .ledger import Level, Outcome
from .load import Burst

CLIENTS = 6
BATCHES = 20
SEQUENCES = 60


async def test_concurrent_and_later_repetitions(arena: Arena) -> None:
    await arena.start_ingests(2)
    async with arena.door() as door, Burst.to(door, TENANTS, points=16) as clients:
        clients.send(BATCHES, clients=CLIENTS)
    tokens = {batch.token for batch in arena.ledger.batches}
    async with arena.door() as door, Burst.to(door, TENANTS, points=16) as clients:
        for batch in arena.ledger.batches:
            clients.send_again(batch)
    assert len(arena.ledger.batches) == BATCHES * len(TENANTS)
    for batch in arena.ledger.batches:
        assert (batch.first_answers, batch.repeated_answers) == (1, CLIENTS)
        assert batch.token in tokens
    findings = await arena.verify()
    assert findings.stored == len(arena.ledger.points())


async def test_producers_of_one_name_at_two_processes(arena: Arena) -> None:
    """Zombies that were replaced and send on: each number is stored once, whoever is first."""
    await arena.start_ingests(2)
    async with arena.door() as door, asyncio.TaskGroup() as writers:
        for tenant, level in itertools.product(TENANTS, Level):
            name = f"zombie-{level.name}"
            batches = [
                arena.ledger.new_batch(tenant, f"{name}-{number}", level, 16)
                for number in range(SEQUENCES)
            ]
            for _ in range(3):
                new = partial(next, iter(batches), None)
                writers.create_task(StreamWriter(door, tenant, name, level, new).run())
    findings = await arena.verify()
    assert findings.stored == len(arena.ledger.points())


async def test_repetitions_while_the_first_is_killed(arena: Arena) -> None:
    """The answers of one process are lost: the other has the repetitions meanwhile."""
    first, _ = await arena.start_ingests(2)
    async with arena.door() as door, Burst.to(door, TENANTS, points=16) as clients:
        with arena.flushes_held():
            clients.send(BATCHES, clients=CLIENTS)
            await eventually(lambda: arena.waiting_flushes("advisory") >= 2)
            await asyncio.to_thread(first.kill)
    assert not arena.ledger.with_outcome(Outcome.UNKNOWN)
    await arena.verify()
