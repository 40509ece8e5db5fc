"""The primary is lost: a replica takes its place, and the former primary comes back behind it."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from atlas_client import AtlasClient, Endpoints, Source, strong
from atlas_devstack.account import server_account, write_private
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database
from atlas_devstack.platform import DATABASE, ROLES
from atlas_devstack.postgres import PostgresNode
from atlas_devstack.postgres.settings import REPLICATION_USER, SUPERUSER
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from tests.chaos.arena import TENANTS
from tests.chaos.audit import token_states
from tests.chaos.ledger import Outcome
from tests.integration.waiting import eventually

from .durations import Drill
from .site import ENVIRONMENT, Site, site_on

pytestmark = pytest.mark.timeout(400)

TAIL_SECONDS_MAX = 30.0
"""What the promoted replica may lack, on a crowded machine; far below the RPO."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions) -> Iterator[Site]:
    """A primary with two replicas, services that were told all three. Each drill goes on where the
    one before ended."""
    servers = replace(server_options.embedded(), valkey=False)
    options = StackOptions(
        services=("ingest", "query", "cdc-reconciler"),
        servers=servers,
        environment=ENVIRONMENT,
        follows_failover=True,
        heal_services=False,  # They have to live through it.
    )
    directory = tmp_path_factory.mktemp("failover")
    stack = Stack.start(directory / "state", options)
    try:
        with site_on(stack, directory) as site:
            yield site
    finally:
        stack.remove()


@pytest.fixture(scope="module")
def logins(site: Site) -> dict[str, str]:
    """The operator's, in a file that the server's account can read."""
    known = Credentials.load_or_make(site.stack.state.secrets_file, ROLES)
    path = site.stack.postgres.primary.data_directory.parent / "pgpass"
    lines = (
        f"*:*:*:{SUPERUSER}:{known.postgres_superuser}",
        f"*:*:*:{REPLICATION_USER}:{known.postgres_replication}",
    )
    write_private(path, "\n".join(lines) + "\n", server_account())
    return {"PGPASSFILE": str(path), "PGUSER": SUPERUSER}


async def test_the_primary_is_lost_with_its_disk(
    site: Site, drill: Drill, logins: dict[str, str]
) -> None:
    lost = site.stack.postgres.primary
    async with site.load(streams=False):
        await slots_are_synced(site, lost)
        drill.disaster()
        await asyncio.to_thread(lost.kill)
        await asyncio.to_thread(lost.remove)
        promoted = await failed_over(site, logins, lost)
        rows, _ = await stored(site, promoted, drill.began)
        drill.proven("primary lost with its disk", rows)
        again = await site.operate("failover", *failover_arguments(site, lost), environment=logins)
        assert f"{where(promoted)} is a primary already" in again
        assert "promote" not in again
        await rejoined(site, logins, lost, promoted)
    assert not list(lost.data_directory.parent.glob("*.making"))


async def test_the_primary_dies_and_its_disk_comes_back(
    site: Site, drill: Drill, logins: dict[str, str]
) -> None:
    """It was cut off from its replicas before: what it took then is lost, and clients are told."""
    dead = next(node for node in site.stack.postgres.nodes if is_primary(node))
    async with site.load(streams=False):
        await slots_are_synced(site, dead)
        cut = time.monotonic()
        await asyncio.to_thread(cut_off_replicas, dead)
        await site.acknowledged(time.monotonic())
        await site.copied(dead)  # The warehouse knows what is about to be lost.
        drill.disaster()
        await asyncio.to_thread(dead.kill)
        promoted = await failed_over(site, logins, dead)
        rows, lost = await stored(site, promoted, cut)
        drill.proven("primary dead, its disk left, a tail lost", rows)
        assert lost, "no tail was lost: this proves nothing"
        said = await rejoined(site, logins, dead, promoted)
        assert "rewind" in said


async def failed_over(site: Site, logins: dict[str, str], lost: PostgresNode) -> PostgresNode:
    """By the operator's script; who was promoted. Services go on by themselves."""
    pids = {name: service.pid for name, service in site.stack.services.items()}
    left = [node for node in site.stack.postgres.nodes if node is not lost]
    said = await site.operate("failover", *failover_arguments(site, lost), environment=logins)
    (promoted,) = [node for node in left if is_primary(node)]
    assert f"promote {where(promoted)}" in said
    await site.acknowledged(time.monotonic())
    await reads_are_answered(site)
    assert {name: service.pid for name, service in site.stack.services.items()} == pids
    assert all(service.is_running() for service in site.stack.services.values())
    return promoted


def failover_arguments(site: Site, lost: PostgresNode) -> list[str]:
    left = [node for node in site.stack.postgres.nodes if node is not lost]
    replicas = [word for node in left for word in ("--replica", where(node))]
    fence = site.manager.command("stop", lost.node_name)
    return ["--primary", where(lost), *replicas, "--fence", fence]


async def rejoined(
    site: Site, logins: dict[str, str], node: PostgresNode, upstream: PostgresNode
) -> str:
    """By the operator's script; what it said."""
    said = await site.operate(
        "rejoin-replica",
        "--pgdata",
        str(node.data_directory),
        "--upstream",
        where(upstream),
        "--name",
        node.node_name,
        "--start",
        site.manager.command("start", node.node_name),
        environment=logins,
        account=server_account(),
    )
    assert not is_primary(node)
    return said


async def stored(site: Site, promoted: PostgresNode, cut: float) -> tuple[int, int]:
    """All that was acknowledged is there, once, but a tail whose tokens say that it is lost.

    `cut`: when replicas could still have everything, by time.monotonic(). Answers how many rows
    there are, and how many batches were lost.
    """
    database = Database(promoted.superuser_dsn(DATABASE), {})
    tail = site.ledger.acknowledged_since(cut - TAIL_SECONDS_MAX)
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute("SET search_path = atlas")
        states = token_states(connection, [batch.token for batch in tail])
    lost = [batch for batch in tail if states[batch.token] == "lost"]
    for batch in lost:
        batch.outcome = Outcome.UNKNOWN  # Its client can find that out, and send it again.
    return await site.verify(database), len(lost)


def cut_off_replicas(primary: PostgresNode) -> None:
    """Nobody may stream from it any more; everybody else may come in."""
    rules = primary.data_directory / "pg_hba.conf"
    rules.write_text(f"host replication all 127.0.0.1/32 reject\n{rules.read_text()}")
    with psycopg.connect(primary.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute("SELECT pg_reload_conf()")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_replication"
            " WHERE application_name LIKE 'replica%' OR application_name = 'primary'"
        )


async def slots_are_synced(site: Site, primary: PostgresNode) -> None:
    """All others stream from it, and could go on with the warehouse's slot."""

    def is_synced(node: PostgresNode) -> bool:
        with psycopg.connect(node.superuser_dsn("postgres"), autocommit=True) as connection:
            found = connection.execute(
                "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver"
                " WHERE status = 'streaming' AND sender_port = %s)"
                " AND EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'atlas_warehouse'"
                " AND synced AND NOT temporary AND invalidation_reason IS NULL)",
                [primary.port],
            )
            return found.fetchall() == [(True,)]

    others = [node for node in site.stack.postgres.nodes if node is not primary]
    await eventually(lambda: all(is_synced(node) for node in others), 60.0)


async def reads_are_answered(site: Site) -> None:
    """STRONG, for both tenants: the newest value of what was written since."""
    targets = {name: service.target for name, service in site.stack.services.items()}
    endpoints = Endpoints(ingest=targets["ingest"], query=targets["query"])
    async with AtlasClient.connect(endpoints) as anyone:
        for tenant in TENANTS:
            found = await anyone.for_tenant(tenant).get_entities(
                ["asset-0"], consistency=strong(), timeout=20.0
            )
            assert found.entities
            assert found.metadata.source is Source.PRIMARY


def is_primary(node: PostgresNode) -> bool:
    with psycopg.connect(node.superuser_dsn("postgres"), autocommit=True) as connection:
        return connection.execute("SELECT pg_is_in_recovery()").fetchall() == [(False,)]


def where(node: PostgresNode) -> str:
    """As scripts are told."""
    return f"host=127.0.0.1 port={node.port}"
