"""No false alarm while ingest writes and old rows are corrected.

A few seconds by default; ATLAS_TEST_QUIET_SECONDS=600 for the ten minutes of a release.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from atlas_devstack.database import Database

from .reconciler_rig import ACME, GLOBEX, Rig, make_rig, points

SECONDS = float(os.environ.get("ATLAS_TEST_QUIET_SECONDS", "8"))
ROWS = 2_000
# What flushes store, many rows at a time: staging them one by one would be no load at all.
STAGE = (
    "INSERT INTO staging.lane_1_a_points (batch_no, tenant_id, entity_id, attribute_id, event_time,"
    " quality, value_double) SELECT 1, 1 + n %% 2, 1 + n %% 3, 1, clock_timestamp(), 0, n"
    " FROM generate_series(1, %s) AS n"
)
CORRECT = "UPDATE entity_values_ts SET quality = mod(quality + 1, 200) WHERE value_double = -1"

pytestmark = pytest.mark.timeout(SECONDS * 2 + 120)


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


@contextmanager
def steady_load(rig: Rig) -> Iterator[list[int]]:
    """Ten thousand rows a second at most; gives the number of rows flushed, once it is over."""
    stopped, flushed = threading.Event(), [0]

    def write() -> None:
        with rig.writer(1) as writer:  # Lane 0 may still be held by a session that ends.
            while not stopped.wait(0.2):
                writer.connection.execute(STAGE, [ROWS])
                flushed[0] += writer.flush().point_count

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield flushed
    finally:
        stopped.set()
        thread.join()


async def test_nothing_is_called_wrong_under_load(rig: Rig) -> None:
    with rig.writer() as writer:
        writer.write([*points(ACME.id, 1, -1.0), *points(GLOBEX.id, 1, -1.0)])
    rounds = 0
    async with rig.running() as running:
        sweeping = asyncio.create_task(running.sweep_again(0.2))
        with (
            psycopg.connect(rig.server.admin_dsn, autocommit=True) as admin,
            steady_load(rig) as flushed,
        ):
            end = time.monotonic() + SECONDS
            while time.monotonic() < end or rounds == 0:
                await asyncio.to_thread(admin.execute, CORRECT)
                for tenant in (ACME, GLOBEX):
                    rows, _ = await running.findings(tenant, from_start=rounds % 3 == 2)
                    assert rows == []
                rounds += 1
        sweeping.cancel()
        await asyncio.wait({sweeping})
        await running.assert_equal(rig)
        named = await running.query("SELECT count(*) FROM cdc_differences")
        alarms = await running.query("SELECT count(*) FROM cdc_reports WHERE cause <> 'call'")
    assert named == [(0,)]
    assert alarms == [(0,)]
    assert flushed[0] >= ROWS
