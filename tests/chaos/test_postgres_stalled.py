"""Postgres stands still: memory is bounded, callers are told to come back, nothing is lost."""

import time

from tests.integration.waiting import eventually

from .arena import OVERLOADED, RSS_BYTES_MAX, Arena, resident_bytes_max

STALL_SECONDS = 3.0


async def test_stopped_under_full_load(arena: Arena) -> None:
    process = await arena.start_ingest(environment={"ATLAS_FLUSH__PENDING_POINTS_MAX": "10000"})
    async with arena.load(writers=16, points=500):
        began = time.monotonic()
        arena.primary.pause()
        try:
            await eventually(lambda: arena.ledger.failures[OVERLOADED] > 0)
            await eventually(lambda: time.monotonic() > began + STALL_SECONDS)
        finally:
            arena.primary.resume()
        await arena.recovered(time.monotonic())
        await arena.verify_now()
    await arena.verify()
    assert resident_bytes_max(process) < RSS_BYTES_MAX
