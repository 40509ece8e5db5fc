"""A process that produces: `producing.py TARGET TENANT SPOOL FIRST COUNT`; COUNT 0: without an end.

Points of pump-1's attribute "count" are the numbers from FIRST on, in their order.
"""

import asyncio
import itertools
import sys
from datetime import UTC, datetime, timedelta

from atlas_client import AtlasClient, Endpoints, Point, Producer

START = datetime(2024, 1, 1, tzinfo=UTC)


async def main(target: str, tenant: str, spool: str, first: int, count: int) -> None:
    """Send, and say when all is acknowledged."""
    numbers = itertools.count(first) if not count else range(first, first + count)
    options = {"spool_directory": spool, "durable": True, "batch_points": 20, "linger_ms": 2}
    async with (
        AtlasClient.connect(Endpoints(ingest=target), tenant=tenant) as client,
        Producer(client, "gw", **options) as producer,  # type: ignore[arg-type]
    ):
        for number in numbers:
            moment = START + timedelta(milliseconds=number)
            await producer.send_many([Point("pump-1", "count", number, moment)])
            if number % 100 == 99:
                await asyncio.sleep(0.005)
        await producer.flush(60)
        stats = producer.stats()
        assert stats.lost_batches == 0, stats


if __name__ == "__main__":
    target, tenant, spool, first, count = sys.argv[1:]
    asyncio.run(main(target, tenant, spool, int(first), int(count)))
