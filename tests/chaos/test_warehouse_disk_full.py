"""The warehouse's disk is full: it says so, and goes on by itself once there is space."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atlas_devstack.database import Database
from atlas_devstack.disk import SmallDisk
from atlas_devstack.errors import DevstackError
from tests.integration.reconciler_rig import ACME, GLOBEX, make_rig, points

TENANTS = (ACME, GLOBEX)
SIZE_MB = 64
ROUNDS = 20


@contextmanager
def small_disk(path: Path) -> Iterator[SmallDisk]:
    """Skips the test where it cannot be made."""
    mounting = SmallDisk.mounted(path, SIZE_MB, None)
    try:
        disk = mounting.__enter__()
    except DevstackError as error:
        pytest.skip(f"no small disk can be made here: {error}")
    try:
        yield disk
    finally:
        disk.free()
        mounting.__exit__(None, None, None)


async def test_of_the_warehouse(fresh_database: Database, tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        make_rig(fresh_database, disk.path) as rig,
        rig.writer() as writer,
    ):

        def write(size: int, value: float) -> None:
            for tenant in TENANTS:
                writer.write(points(tenant.id, size, value))

        async with rig.running() as running:
            await asyncio.to_thread(write, 10, 1.0)
            await running.caught_up()
            disk.fill()
            for number in range(ROUNDS):
                await asyncio.to_thread(write, 1000, 1000.0 * number)
            standing = await running.until(lambda standing: standing.reason != "")
            assert "space" in standing.reason.lower()
            disk.free()
            await running.caught_up()
            await running.assert_equal(rig)
            assert (await running.auditor.audit()).discrepancies == ()
