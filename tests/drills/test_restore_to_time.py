"""A mistake at a known time: back to just before it, and two ways on from there."""

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import redis

from atlas_devstack.account import server_account
from atlas_devstack.servers import ServerOptions

from .aftermath import losses_are_made_good, newest_arrival, works_again
from .durations import Drill
from .region import Region, region_below
from .site import libpq_environment

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def region(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Region]:
    directory = tmp_path_factory.mktemp("restore")
    with region_below(directory, server_options, replicas=0, archive_seconds=60) as region:
        yield region


async def test_a_deleted_tenant_is_copied_back_while_all_goes_on(
    region: Region, drill: Drill
) -> None:
    async with region.writing("first"):
        await region.back_up()
        await region.acknowledged(time.monotonic())
        before = time.monotonic()
        drill.disaster()
        xid, committed = delete_tenant(region, "acme")
        await region.acknowledged(drill.began)
        await region.put_log_away()
        assert await first_suspect(region) == xid
        async with region.restored("beside", "--target-xid", xid) as cluster:
            await region.verify(cluster.database, until=before)
            assert newest_arrival(cluster.database) < committed
            environment = {
                "ATLAS_RESTORED_DSN": cluster.database.admin_dsn,
                "ATLAS_ADMIN_DSN": region.stack.database.admin_dsn,
            }
            for outcome in ("", " 0 points of acme copied"):
                said = await region.operate(
                    "copy-tenant", "--tenant", "acme", environment=environment
                )
                assert outcome in said
        await region.atlas("projection", "rebuild", "--tenant", "acme")
    await region.operate("prove", "--wait", "60")
    drill.proven("mistake: a tenant copied back", await region.verify())


async def test_a_restored_cluster_takes_over(region: Region, drill: Drill, tmp_path: Path) -> None:
    services, primary = region.stack.services.values(), region.stack.postgres.primary
    async with region.writing("second"):
        await region.back_up()  # The next night: what only the first one needs is removed.
        assert len(list(region.vault.backups.iterdir())) == 1
        before = time.monotonic()
        target = region.ask("SELECT clock_timestamp()")
        await region.acknowledged(time.monotonic())
        drill.disaster()
        with region.admin() as admin:
            admin.execute("UPDATE entity_values_ts SET value_int = -1 WHERE value_int IS NOT NULL")
        await region.acknowledged(drill.began)
    # Two histories must not both get writes: services and the old primary stop, the cache forgets.
    await asyncio.gather(*(asyncio.to_thread(service.stop) for service in services))
    await asyncio.to_thread(primary.stop)
    async with region.restored("instead", "--target", target.isoformat()) as cluster:
        assert newest_arrival(cluster.database) <= target
        await region.verify(cluster.database, until=before)
        await region.operate(
            "open-restored", environment=libpq_environment(cluster.database.admin_dsn)
        )
        with redis.Redis.from_url(region.stack.valkey.url) as cache:
            cache.flushall()
        with region.taken_over(tmp_path / "state", cluster, keeping_copies=True) as after:
            assert await losses_are_made_good(after) > 0
            drill.proven("mistake: a restored cluster takes over", await works_again(after))
    # It archives as the old one did, under a name of its own.
    assert (region.vault.archive / "00000002.history").exists()


async def first_suspect(region: Region) -> str:
    """The number of the transaction that find-mistake names first."""
    said = await region.operate(
        "find-mistake",
        *("--archive", str(region.vault.archive), "--since", "10 minutes ago", "--top", "1"),
        account=server_account(),
    )
    return said.splitlines()[-1].split()[0]


def delete_tenant(region: Region, tenant: str) -> tuple[str, datetime]:
    """All that is stored of it, by mistake; that transaction's number, and when it was over."""
    with region.admin() as admin:
        with admin.transaction():
            # A flush and we would wait for each other's rows.
            admin.execute("LOCK TABLE entity_jsonb IN EXCLUSIVE MODE")
            rows = admin.execute("SELECT pg_current_xact_id()::text").fetchall()
            for table in ("entity_jsonb", "entity_values_ts", "entities"):
                admin.execute(
                    f"DELETE FROM {table} USING tenants AS t"
                    f" WHERE {table}.tenant_id = t.tenant_id AND t.key = %s",
                    [tenant],
                )
        moments = admin.execute("SELECT clock_timestamp()").fetchall()
    return rows[0][0], moments[0][0]
