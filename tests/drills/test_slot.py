"""The warehouse's slot is dropped, then loses its log: nothing is lost, nothing is there twice."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from atlas_devstack.platform import MONITOR_ROLE
from tests.integration.waiting import eventually

from .durations import Drill
from .site import Site, libpq_environment

pytestmark = pytest.mark.timeout(400)

KEPT_MB = 64
SLOT = "atlas_warehouse"
Admin = psycopg.Connection[Any]


async def test_somebody_dropped_the_slot(site: Site, drill: Drill) -> None:
    """Pipelines make that good by themselves; whoever is on call looks on and proves it."""
    async with site.load():
        await site.copied()
        with site.admin() as admin:
            drill.disaster()
            await eventually(lambda: is_dropped(admin))
            await site.operate("resync-slot", "--quick", environment=monitor(site))
            assert slot(admin) == ("reserved", True)
        await site.acknowledged(drill.began)
    drill.proven("slot dropped", await site.verify())


async def test_the_slot_lost_its_log(site: Site, drill: Drill) -> None:
    """A reconciler that was down for too long, and the second loss within the hour: it stops."""
    reconciler = site.stack.services["cdc-reconciler"]
    async with site.load():
        await site.copied()
        with site.admin() as admin, little_log(admin):
            drill.disaster()
            await asyncio.to_thread(reconciler.kill)
            # What is new is not all that it misses.
            admin.execute("UPDATE entity_values_ts SET quality = 7 WHERE value_int % 10 = 0")
            await eventually(lambda: is_lost(admin), 60.0)
        start = site.manager.command("launch", reconciler.name)
        said = await site.operate("resync-slot", "--start", start, environment=monitor(site))
        assert "order the recovery" in said
        with site.admin() as admin:
            assert slot(admin) == ("reserved", True)
        await site.acknowledged(drill.began)
    drill.proven("slot lost its log", await site.verify())


def monitor(site: Site) -> dict[str, str]:
    return libpq_environment(site.stack.database.dsn(MONITOR_ROLE))


def slot(admin: Admin) -> tuple[str, bool] | None:
    return admin.execute(
        "SELECT wal_status, active FROM pg_replication_slots WHERE slot_name = %s", [SLOT]
    ).fetchone()


def is_dropped(admin: Admin) -> bool:
    """Its reader comes back at once, so that it takes more than one attempt."""
    admin.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
        [SLOT],
    )
    try:
        admin.execute("SELECT pg_drop_replication_slot(%s)", [SLOT])
    except psycopg.errors.ObjectInUse:
        return False
    return True


@contextmanager
def little_log(admin: Admin) -> Iterator[None]:
    """A server that keeps little log for slots."""
    admin.execute(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{KEPT_MB}MB'")
    admin.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        admin.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        admin.execute("SELECT pg_reload_conf()")


async def is_lost(admin: Admin) -> bool:
    def write() -> None:
        for _ in range(16):
            admin.execute("SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1048576))")
        admin.execute("CHECKPOINT")

    await asyncio.to_thread(write)
    return slot(admin) == ("lost", False)
