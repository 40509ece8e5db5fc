"""What callers do, by the client there is: `python release_walk.py ENDPOINTS.json`.

Two tenants, in a process of its own, since it runs with the client and the stubs of either release.
"""

import asyncio
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from atlas_client import (
    AggregateFunction,
    AtlasClient,
    Attribute,
    DataType,
    Endpoints,
    Point,
    analytics,
    at_least_as_fresh,
    strong,
)

COUNT = 5
PATIENCE = timedelta(seconds=30)


async def walk(client: AtlasClient, tenant: str, speed: int) -> None:
    """Define, write, read at every tier, compare the copies. Raises AssertionError, AtlasError."""
    await client.create_tenant(tenant)
    own = client.for_tenant(tenant)
    await own.upsert_attributes(
        [Attribute("speed", DataType.INT, hot=True), Attribute("noise", DataType.DOUBLE)]
    )
    moments = [datetime.now(UTC) - timedelta(seconds=COUNT - n) for n in range(COUNT)]
    written = await own.write(
        [Point("pump-1", "speed", speed, moment) for moment in moments]
        + [Point("pump-1", "noise", speed / 2, moments[-1])]
    )
    for consistency in (strong(), at_least_as_fresh(written.token)):
        found = await own.get_entities(["pump-1"], consistency=consistency)
        assert found["pump-1"].values == {"speed": speed}, found["pump-1"].values
    entities = own.find_entities({"speed": speed}, consistency=strong())
    assert [state.entity async for state in entities] == ["pump-1"]
    history = own.history("pump-1", attributes=["speed"], consistency=strong())
    assert [reading.value async for reading in history] == [speed] * COUNT
    fresh = analytics(token=written.token, wait_timeout=PATIENCE)
    counting = own.aggregate(["speed"], [AggregateFunction.COUNT], consistency=fresh)
    assert [row.results async for row in counting] == [{AggregateFunction.COUNT: COUNT}]
    summary = await own.reconcile().summary()
    assert summary.matched
    assert summary.warehouse.row_count == COUNT + 1


async def main(endpoints: Endpoints) -> None:
    """Walk as one tenant, then as the other, whose entity has the same key."""
    run = secrets.token_hex(4)
    async with AtlasClient.connect(endpoints, timeout=60) as client:
        await walk(client, f"acme-{run}", 1480)
        await walk(client, f"globex-{run}", 990)


if __name__ == "__main__":
    asyncio.run(main(Endpoints.from_json(Path(sys.argv[1]).read_text())))
