"""Random faults for as long as asked: `make chaos SECONDS=600 SEED=7`. Not part of the suite.

Round after round: a fresh database, two ingest processes, clients at every door, a few faults one
after the other, an audit after each and at the end. The seed that is logged repeats the order of
the faults, not their exact moments.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas_devstack.stack import Stack
from tests.integration.waiting import eventually

from .arena import OVERLOADED, RSS_BYTES_MAX, TENANTS, Arena, arena_on, resident_bytes_max
from .ledger import Level
from .load import Burst

FAULTS_PER_ROUND = 4
STALL_SECONDS = 20.0
_LANE_SESSIONS = (
    "SELECT {} FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'atlas ingest lane%'"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """What faults are done to, and the dice."""

    arena: Arena
    dice: random.Random


Fault = Callable[[Scene], Awaitable[float]]
"""Breaks something and mends it; the moment from which on recovery is the platform's own."""


async def ingest_killed(scene: Scene) -> float:
    process = scene.dice.choice(scene.arena.processes)
    await asyncio.to_thread(process.kill)
    await asyncio.sleep(
        scene.dice.uniform(0, 3)
    )  # Long enough for others to adopt its lanes, or not.
    process.launch()
    ended = time.monotonic()
    await asyncio.to_thread(process.wait_ready)
    return ended


async def ingest_restarted(scene: Scene) -> float:
    for process in scene.arena.processes:
        await asyncio.to_thread(process.restart)
    return time.monotonic()


async def ingest_stopped(scene: Scene) -> float:
    process = scene.dice.choice(scene.arena.processes)
    process.pause()
    await asyncio.sleep(scene.dice.uniform(0, 6))
    process.resume()
    return time.monotonic()


async def postmaster_killed(scene: Scene) -> float:
    primary = scene.arena.primary
    await asyncio.to_thread(primary.kill)
    await asyncio.sleep(scene.dice.uniform(0, 3))
    primary.launch()
    ended = time.monotonic()
    await asyncio.to_thread(primary.wait_ready)
    return ended


async def backend_killed(scene: Scene) -> float:
    def victim(connection: "psycopg.Connection[Any]") -> int:
        pids = connection.execute(_LANE_SESSIONS.format("pid")).fetchall()
        return int(scene.dice.choice(pids)[0])

    return await scene.arena.lose_backend(victim)


async def sessions_ended(scene: Scene) -> float:
    await asyncio.to_thread(scene.arena.query, _LANE_SESSIONS.format("pg_terminate_backend(pid)"))
    return time.monotonic()


async def postgres_stopped(scene: Scene) -> float:
    scene.arena.primary.pause()
    await asyncio.sleep(scene.dice.choice([0.5, 3, STALL_SECONDS]))
    scene.arena.primary.resume()
    return time.monotonic()


FAULTS: tuple[Fault, ...] = (
    ingest_killed,
    ingest_restarted,
    ingest_stopped,
    postmaster_killed,
    backend_killed,
    sessions_ended,
    postgres_stopped,
)


@asynccontextmanager
async def scene_on(stack: Stack, directory: Path, dice: random.Random) -> AsyncIterator[Scene]:
    with arena_on(stack, directory) as arena:
        await arena.start_ingests(2)
        yield Scene(arena, dice)


async def one_round(scene: Scene) -> None:
    arena = scene.arena
    async with arena.load(writers=scene.dice.choice([1, 4, 16]), points=scene.dice.choice([1, 20])):
        for fault in scene.dice.choices(FAULTS, k=FAULTS_PER_ROUND):
            log.info("  %s", fault.__name__)
            seconds = await arena.recovered(await fault(scene))
            log.info("  recovered after %.2f s", seconds)
            await arena.verify_now()
            await arena.more_traffic()
    findings = await arena.verify()
    for process in arena.processes:
        assert resident_bytes_max(process) < RSS_BYTES_MAX
    log.info("  %d points sound; %s", findings.stored, arena.ledger.summary())


@pytest.mark.timeout(0)  # As long as asked.
async def test_random_faults(
    chaos_stack: Stack, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seconds = pytestconfig.getoption("--soak-seconds")
    seed = pytestconfig.getoption("--soak-seed")
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    log.info("SEED=%d, for %d s", seed, seconds)
    dice = random.Random(seed)
    began = time.monotonic()
    number = 0
    while number == 0 or time.monotonic() - began < seconds:
        number += 1
        log.info("round %d", number)
        async with scene_on(chaos_stack, tmp_path / str(number), dice) as scene:
            await one_round(scene)
    log.info("%d rounds with SEED=%d are sound", number, seed)


@pytest.mark.timeout(300)
async def test_a_long_stall_at_the_bounds_of_production(chaos_stack: Stack, tmp_path: Path) -> None:
    """Under full load, with the defaults: all the memory that there may be is taken, not more."""
    with arena_on(chaos_stack, tmp_path) as arena:
        process = await arena.start_ingest()
        async with arena.door() as door, Burst.to(door, TENANTS, points=8_000) as clients:
            clients.send(1)
            await eventually(lambda: len(arena.ledger.promised(Level.DURABLE)) == len(TENANTS))
            began = time.monotonic()
            arena.primary.pause()
            clients.send(40)
            await eventually(lambda: arena.ledger.failures[OVERLOADED] > 0, 60)
            await eventually(lambda: time.monotonic() > began + STALL_SECONDS, 60)
            arena.primary.resume()
            log.info("recovered after %.2f s", await arena.recovered(time.monotonic()))
        await arena.verify()
        log.info("%d MiB at most", resident_bytes_max(process) // 2**20)
        assert resident_bytes_max(process) < RSS_BYTES_MAX
