"""A region is gone with its disks: another brings the platform up from backup and archived log."""

import logging
import shutil
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from atlas_devstack.database import Database
from atlas_devstack.reach import remove_server_directory
from atlas_devstack.servers import ServerOptions
from tests.integration.waiting import eventually

from .aftermath import losses_are_made_good, works_again
from .durations import Drill
from .region import Region, region_below
from .site import libpq_environment

pytestmark = pytest.mark.timeout(300)

ARCHIVE_SECONDS = 3
log = logging.getLogger(__name__)
RPO = timedelta(hours=1)


@pytest.fixture
def region(tmp_path: Path, server_options: ServerOptions) -> Iterator[Region]:
    with region_below(
        tmp_path, server_options, replicas=1, archive_seconds=ARCHIVE_SECONDS
    ) as region:
        yield region


async def test_another_region_takes_over(region: Region, drill: Drill, tmp_path: Path) -> None:
    async with region.writing("before") as writers:
        await region.back_up()
        archived = region.vault.segments()
        await eventually(lambda: region.vault.segments() > archived, 60)
        await region.acknowledged(time.monotonic())
        clock = time.time() - time.monotonic()
        drill.disaster()
        lose(region)
        await writers.break_off()
    await a_hole_is_refused(region)
    async with region.restored("region-b", "--target", "latest") as cluster:
        assert "takes writes" in await region.restore(cluster, "--target", "latest")  # Once more.
        recovered = last_commit(cluster.database)
        # What was acknowledged before the last commit in the archive has a commit before that one.
        await region.verify(cluster.database, until=recovered.timestamp() - clock)
        lost_for = timedelta(seconds=drill.began + clock - recovered.timestamp())
        assert lost_for < RPO
        log.info("lost: the last %.1f s", lost_for.total_seconds())
        # It takes writes by itself, so no superuser is needed.
        await region.operate(
            "open-restored", environment=libpq_environment(cluster.database.dsn("atlas_ingest"))
        )
        with region.taken_over(tmp_path / "region-b", cluster, keeping_copies=False) as after:
            assert await losses_are_made_good(after) > 0
            drill.proven("region lost", await works_again(after))


async def a_hole_is_refused(region: Region) -> None:
    """A file of the log is missing: recovery would end there, and nobody would know."""
    segments = sorted(region.vault.segments())
    hidden = region.vault.archive / segments[-2]
    hidden.rename(hidden.with_suffix(".hidden"))
    with pytest.raises(AssertionError, match=f"lacks log before {segments[-1][8:]}"):
        async with region.restored("holey", "--target", "latest"):
            pass
    hidden.with_suffix(".hidden").rename(hidden)


def lose(region: Region) -> None:
    """Everything at once, and what it had on disk."""
    stack = region.stack
    for component in (*stack.postgres.nodes, stack.valkey, *stack.services.values()):
        component.kill()
    remove_server_directory(stack.state.path)
    for directory in (stack.state.warehouse.parent, stack.state.run):
        shutil.rmtree(directory)


def last_commit(database: Database) -> datetime:
    """Of the last transaction that was replayed."""
    with psycopg.connect(database.admin_dsn) as connection:
        rows = connection.execute("SELECT pg_last_xact_replay_timestamp()").fetchall()
    moment = rows[0][0]
    assert isinstance(moment, datetime)
    return moment
