"""AtlasClient.write_arrow against ingest in a process of its own, which is killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atlas_client import AtlasClient, AtlasError, Endpoints
from atlas_client.bulk import melt
from atlas_devstack.database import Database
from atlas_devstack.services import Service

from .ingest_rig import Rig, ingest_process, start_rig
from .waiting import eventually

POINTS = 50_000
START_US = round(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1_000_000)


@pytest.fixture
async def rig(fresh_database: Database) -> AsyncIterator[Rig]:
    """For a look at the database, and to adopt lanes; the writes go to the other process."""
    async with start_rig(fresh_database, interval_ms=20) as rig:
        yield rig


@pytest.fixture
async def ingest(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Service]:
    async with ingest_process(fresh_database, tmp_path / "ingest") as process:
        yield process


def wide() -> pa.Table:
    """A row per second and a column per attribute; every count is another."""
    numbers = np.arange(POINTS // 2)
    return pa.table(
        {
            "asset": pa.array(np.char.add("pump-", (numbers % 100).astype(str))),
            "at": pa.array(START_US + numbers, pa.timestamp("us", "UTC")),
            "count": numbers,
            "ratio": numbers / 8,
        }
    )


async def counts(rig: Rig, tenant: str) -> list[tuple[Any, ...]]:
    """By attribute: how many points, and how many different values."""
    return await rig.query(
        "SELECT a.name, count(*), count(DISTINCT coalesce(value_int, value_double * 8))"
        " FROM entity_values_ts AS v JOIN tenants AS t USING (tenant_id)"
        " JOIN attributes AS a USING (tenant_id, attribute_id)"
        " WHERE t.key = %s GROUP BY 1 ORDER BY 1",
        tenant,
    )


EACH = [("count", POINTS // 2, POINTS // 2), ("ratio", POINTS // 2, POINTS // 2)]


async def test_kill_9_of_ingest_in_the_middle_of_a_stream_stores_every_point_once(
    rig: Rig, ingest: Service
) -> None:
    """The client sends all of it again by itself; what was staged by then is not stored twice."""
    async with AsyncExitStack() as stack:
        endpoints = Endpoints(ingest=ingest.target)
        clients = [
            await stack.enter_async_context(AtlasClient.connect(endpoints, tenant=tenant))
            for tenant in rig.client.tenants
        ]
        data = melt(wide(), entity="asset", time="at")
        with rig.flushes_held():
            writing = [
                asyncio.create_task(client.write_arrow(data, timeout=60)) for client in clients
            ]
            await eventually(rig.waiting_flushes)
            ingest.kill()
        await asyncio.to_thread(ingest.start)
        for result in await asyncio.gather(*writing):
            assert (result.accepted_count, result.rejected_count) == (POINTS, 0)
    await rig.service.adoption.adopt()  # What the dead process had staged is known to be stored.
    for tenant in rig.client.tenants:
        assert await counts(rig, tenant) == EACH


async def test_a_bad_row_far_into_a_large_stream_is_told_as_it_is(
    rig: Rig, ingest: Service
) -> None:
    """The stream goes on being sent when the service has already refused it."""
    points = wide().rename_columns(["entity_key", "event_time", "int_value", "x"])
    good = points.drop_columns("x").append_column("attribute", [["count"] * len(points)])
    bad = good.set_column(good.column_names.index("int_value"), "int_value", [[0.5] * len(points)])
    endpoints = Endpoints(ingest=ingest.target)
    tenant, other = rig.client.tenants
    async with AtlasClient.connect(endpoints, tenant=tenant) as client:
        for _ in range(5):
            renamed = bad.rename_columns(["entity_key", "event_time", "double_value", "attribute"])
            with pytest.raises(AtlasError) as caught:
                await client.write_arrow(pa.concat_tables([renamed] * 20))
            assert caught.value.reason == "TYPE_MISMATCH"
            assert caught.value.field == "rows[0].double_value"
            assert caught.value.metadata["stored_messages"] == "0"
    assert await counts(rig, tenant) == await counts(rig, other) == []
