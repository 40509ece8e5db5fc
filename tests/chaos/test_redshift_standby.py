"""Two instances that feed one cluster: when one dies or hangs the other takes over, and is alone.

Against a real Postgres through a shim: see redshift_shim.py for what that shows and what not.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from atlas_devstack.database import another
from atlas_devstack.stack import Stack
from atlas_devstack.waiting import wait_until
from tests.integration.lane_writer import LaneWriter
from tests.integration.reconciler_rig import points
from tests.integration.sink_sites import RedshiftSite, redshift_site, source_history

from .test_reconciler_standby import PATIENCE, TENANTS, Load, Pair

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
pytestmark = pytest.mark.timeout(300)  # Two processes, servers, and a lease that runs out.


@pytest.fixture
def site(chaos_stack: Stack, aws: str, aws_credentials: None) -> Iterator[RedshiftSite]:
    with redshift_site(chaos_stack.database.admin_dsn, aws) as site:
        yield site


@pytest.fixture
def pair(chaos_stack: Stack, site: RedshiftSite, tmp_path: Path) -> Iterator[Pair]:
    with another(chaos_stack.database) as database:
        with ExitStack() as cleanup:
            environment = {**CREDENTIALS, **site.environment()}
            yield Pair(database, tmp_path, cleanup, environment)
        with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
                " WHERE active AND database = current_database()"
            )
            admin.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE database = current_database()"
            )


def assert_caught_up(pair: Pair, site: RedshiftSite) -> None:
    """The cluster comes to have what the primary has, once."""
    wait_until(
        lambda: len(site.history_now()) >= len(source_history(pair.admin)),
        "the cluster has all rows",
        patience=PATIENCE,
    )
    assert site.history_now() == source_history(pair.admin)


def started(pair: Pair) -> None:
    """The first works, the second stands by."""
    first, second = pair.processes
    first.start()
    second.launch()
    pair.wait_phase(first, "streaming")


def stop_between_transactions(pid: int, site: RedshiftSite) -> None:
    """In the middle of one it would keep its lock, and nobody else could claim: see ADR 30."""

    def stopped() -> bool:
        os.kill(pid, signal.SIGSTOP)
        open_ones = site.query(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND xact_start IS NOT NULL"
            " AND pid <> pg_backend_pid()"
        )
        if open_ones == [(0,)]:
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(stopped, "it is between two transactions", patience=PATIENCE)


def epoch(site: RedshiftSite) -> int:
    """That of the last claim."""
    ((epoch, _),) = site.query("SELECT epoch, owner FROM cdc_owner")
    return int(epoch)


def test_a_standby_goes_on_where_a_killed_instance_was(pair: Pair, site: RedshiftSite) -> None:
    started(pair)
    first, second = pair.processes
    with Load(pair.database):
        wait_until(lambda: len(site.history_now()) > 200, "it applies", patience=PATIENCE)
        first.kill()
        pair.wait_phase(second, "streaming")
        seen = len(site.history_now())
        wait_until(lambda: len(site.history_now()) > seen, "it applies", patience=PATIENCE)
    assert_caught_up(pair, site)
    assert epoch(site) == 2
    assert pair.status(second).dead_lettered_total == 0


def test_an_instance_that_hung_stores_nothing_when_it_comes_back(
    pair: Pair, site: RedshiftSite
) -> None:
    started(pair)
    first, second = pair.processes
    stop_between_transactions(first.pid, site)
    try:
        pair.wait_phase(second, "streaming")
        assert epoch(site) == 2
        with psycopg.connect(pair.database.dsn("atlas_ingest"), autocommit=True) as connection:
            writer = LaneWriter(connection)
            for _ in range(20):
                writer.write([row for tenant, _ in TENANTS for row in points(tenant, 30)])
    finally:
        os.kill(first.pid, signal.SIGCONT)
    wait_until(lambda: not first.is_running(), "it has stepped down", patience=PATIENCE)
    assert_caught_up(pair, site)
    assert epoch(site) == 2
    assert pair.status(second).leader == "instance-2"
