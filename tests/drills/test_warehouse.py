"""The warehouse's file is gone: it is made anew from the primary and from retention's archives."""

import asyncio
import sys
from pathlib import Path

import duckdb
import pytest

from atlas_devstack.platform import MAINTENANCE_ROLE
from tests.chaos.arena import TENANTS
from tests.integration.partition_rig import fill, keep, make_day, midnight

from .durations import Drill
from .site import Site, libpq_environment

pytestmark = pytest.mark.timeout(400)

OLD_DAYS, OLD_ROWS = 40, 700
CONTENT = """
SELECT tenant_id, count(*), bit_xor(hash(
    tenant_id, attribute_id, entity_id, event_time, ingested_at, quality, value_bool, value_int,
    value_double, value_decimal, value_text, value_time, value_json))
FROM entity_values_ts WHERE ingested_at < ? GROUP BY ALL ORDER BY ALL
"""


async def test_the_warehouse_is_rebuilt_from_the_primary_and_from_archives(
    site: Site, drill: Drill, tmp_path: Path
) -> None:
    warehouse = Path(site.stack.endpoints.warehouse)
    reconciler = site.stack.services["cdc-reconciler"]
    async with site.load():
        await retention_archives(site, tmp_path)
        await asyncio.to_thread(reconciler.kill)
        before = content(warehouse)
        assert [count for _, count, _ in before] == [OLD_ROWS] * len(TENANTS)
        drill.disaster()
        for part in warehouse.parent.glob(f"{warehouse.name}*"):
            part.unlink()
        await site.operate(
            "rebuild-warehouse",
            "--warehouse",
            str(warehouse),
            "--archives",
            str(tmp_path),
            "--stop",
            site.manager.command("stop", "cdc-reconciler"),
            "--start",
            site.manager.command("launch", "cdc-reconciler"),
            environment=libpq_environment(site.stack.database.dsn(MAINTENANCE_ROLE)),
        )
        # Whoever writes did not notice.
        await site.acknowledged(drill.began)
    drill.proven("warehouse lost", await site.verify())
    await asyncio.to_thread(reconciler.stop)
    try:
        assert content(warehouse) == before
    finally:
        await asyncio.to_thread(reconciler.start)


async def retention_archives(site: Site, directory: Path) -> None:
    """Days ago every kind of value was stored; the warehouse has it, and the primary no more."""
    with site.admin() as admin:
        tenants = dict(admin.execute("SELECT key, tenant_id FROM tenants").fetchall())
        make_day(admin, OLD_DAYS)
        for key in TENANTS:
            fill(admin, tenants[key], midnight(OLD_DAYS), OLD_ROWS)
        await site.copied()
        keep(admin, "month", 30, "archive", *(tenants[key] for key in TENANTS))
    job = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "atlas_ingest.maintenance",
        "run",
        env={
            "ATLAS_MAINTENANCE__RETENTION__DSN": site.stack.database.dsn(MAINTENANCE_ROLE),
            "ATLAS_MAINTENANCE__ARCHIVE_DIRECTORY": str(directory),
            "ATLAS_IDENTITY__MODE": "insecure",
        },
    )
    assert await job.wait() == 0
    with site.admin() as admin:
        left = admin.execute(
            "SELECT count(*) FROM entity_values_ts WHERE ingested_at < %s", [midnight(30)]
        )
        assert left.fetchone() == (0,)


def content(warehouse: Path) -> list[tuple[int, int, int]]:
    """Rows and digest of what the primary has no more, by tenant."""
    with duckdb.connect(str(warehouse)) as file:
        return file.execute(CONTENT, [midnight(30)]).fetchall()
