"""Two ingest processes are replaced one after the other under load: no repeatable call fails."""

import asyncio

from .arena import Arena
from .load import CALL_SECONDS_MAX

# Two processes start meanwhile, for seconds each on a crowded machine. Who is left waiting waits to
# the end of its call at least.
DELIVERY_SECONDS_MAX = CALL_SECONDS_MAX


async def test_no_repeatable_call_fails(arena: Arena) -> None:
    processes = await arena.start_ingests(2)
    async with arena.load():
        for process in processes:
            await asyncio.to_thread(process.restart)
            await arena.verify_now()
            await arena.more_traffic()
    await arena.verify()
    # Clients were told to go elsewhere, never left waiting.
    assert set(arena.ledger.failures) <= {
        "UNAVAILABLE",
        "CANCELLED",
        "INTERNAL",  # gRPC's own word for a stream that ended while it was sending.
        "UNAVAILABLE DEPENDENCY_UNAVAILABLE",
        "INVALID_ARGUMENT VALUE_OUT_OF_RANGE",
    }
    slowest = max(arena.ledger.delivery_seconds())
    assert slowest < DELIVERY_SECONDS_MAX
