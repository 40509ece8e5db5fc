"""Somebody forgot a transaction that has read everything: maintenance gives way, writers go on."""

import asyncio

from .arena import Arena

DELIVERY_SECONDS_MAX = 20.0  # A restart of ingest lies within; behind a lock it would be for ever.


async def test_writers_go_on_beside_maintenance(arena: Arena) -> None:
    process = await arena.start_ingest()
    with arena.admin() as forgotten, forgotten.transaction():
        forgotten.execute("SELECT count(*) FROM entity_values_ts, write_requests, entity_jsonb")
        async with arena.load():
            # Its first act is to maintain the partitions.
            await asyncio.to_thread(process.restart)
            await arena.more_traffic()
            with arena.admin() as maintenance:
                await asyncio.to_thread(
                    maintenance.execute, "SELECT maintain_partitions(days_ahead => 9)"
                )
            await arena.more_traffic()
    await arena.verify()
    assert max(arena.ledger.delivery_seconds()) < DELIVERY_SECONDS_MAX
