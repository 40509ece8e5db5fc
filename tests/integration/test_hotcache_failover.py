"""Whatever becomes of Valkey, no answer is older than it says, and hits come back unaided.

Every answer of the load is judged: by the lag it states, by its token, by its tenant.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from atlas_devstack.database import Database
from atlas_devstack.proxy import FaultProxy
from atlas_devstack.valkey import Valkey
from atlas_devstack.valkey_cluster import ValkeyCluster
from atlas_devstack.valkey_sentinel import ValkeySentinels
from atlas_devstack.waiting import Patience
from atlas_hotcache.layout import Layout

from .hotcache_load import under_load
from .hotcache_rig import (
    ACME,
    GLOBEX,
    ClusterServers,
    OneServer,
    Rig,
    flushall,
    pressure,
    start_rig,
    start_valkey,
)
from .waiting import eventually

# As deployed: outages must not be hidden by patience.
AS_DEPLOYED = {"call_timeout_seconds": 0.2, "connect_timeout_seconds": 0.2}


class SentinelServers:
    """A rig's servers behind sentinels."""

    def __init__(self, sentinels: ValkeySentinels) -> None:
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        return self.sentinels.url

    @property
    def nodes(self) -> list[Valkey]:
        return self.sentinels.servers

    def owner(self, layout: Layout) -> Valkey:
        return self.sentinels.master()

    def flushall(self) -> None:
        flushall(self.sentinels.master())


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[ValkeySentinels]:
    sentinels = ValkeySentinels(tmp_path / "sentinels", Patience())
    try:
        yield sentinels
    finally:
        sentinels.stop()


@asynccontextmanager
async def rig_on(
    database: Database, directory: Path, sentinels: ValkeySentinels, url: str | None = None
) -> AsyncIterator[Rig]:
    async with start_rig(
        database,
        directory,
        watch=True,
        servers=SentinelServers(sentinels),
        url=url,
        valkey_fields=AS_DEPLOYED,
    ) as rig:
        yield rig


async def run(function: object, *arguments: object) -> None:
    """Beside the event loop, which serves the calls."""
    await asyncio.to_thread(function, *arguments)  # type: ignore[arg-type]


async def another_master(sentinels: ValkeySentinels, than: Valkey) -> None:
    await eventually(lambda: asyncio.to_thread(lambda: sentinels.master() is not than))


# Sentinel ------------------------------------------------------------------------------------


async def test_the_master_is_killed_and_comes_back(
    fresh_database: Database, tmp_path: Path, sentinels: ValkeySentinels
) -> None:
    await run(sentinels.start)
    async with rig_on(fresh_database, tmp_path, sentinels) as rig, under_load(rig) as load:
        first = sentinels.master()
        await run(first.kill)
        await load.more_answers()  # From the primary.
        await another_master(sentinels, first)
        await load.more_hits()
        await run(first.start)
        await is_now(first, "slave")
        await load.more_hits()


def role(server: Valkey) -> str:
    """What it takes itself for; "" if it does not say."""
    with redis.Redis.from_url(server.url, socket_timeout=2, decode_responses=True) as client:
        try:
            return str(client.role()[0])
        except redis.RedisError:
            return ""


async def is_now(server: Valkey, wanted: str) -> None:
    await eventually(lambda: asyncio.to_thread(lambda: role(server) == wanted), 30)


async def test_a_replica_that_lost_acknowledged_writes_becomes_the_master(
    fresh_database: Database, tmp_path: Path, sentinels: ValkeySentinels
) -> None:
    await run(sentinels.start)
    async with rig_on(fresh_database, tmp_path, sentinels) as rig, under_load(rig) as load:
        first, replica = sentinels.servers
        assert sentinels.master() is first
        replica.pause()
        await load.more_hits()  # Entries, tombstones and marks that the replica does not get.
        await run(first.kill)
        replica.resume()
        await another_master(sentinels, first)
        await load.more_hits()


async def test_a_stalled_master_is_replaced_and_wakes_up(
    fresh_database: Database, tmp_path: Path, sentinels: ValkeySentinels
) -> None:
    """For a moment there are two masters, and the old one's connections are still there."""
    await run(sentinels.start)
    async with rig_on(fresh_database, tmp_path, sentinels) as rig, under_load(rig) as load:
        first = sentinels.master()
        first.pause()
        await load.more_answers()
        await another_master(sentinels, first)
        await load.more_hits()
        first.resume()
        await load.more_hits()


async def test_a_master_behind_a_broken_network_is_replaced_and_found_again(
    fresh_database: Database, tmp_path: Path, sentinels: ValkeySentinels
) -> None:
    async with FaultProxy.listen(sentinels.master_port) as proxy:
        await asyncio.to_thread(lambda: sentinels.start(reached_at=proxy.port))
        async with rig_on(fresh_database, tmp_path, sentinels) as rig, under_load(rig) as load:
            first = sentinels.master()
            assert proxy.connections > 0
            proxy.stall()
            await load.more_answers()
            await another_master(sentinels, first)
            await load.more_hits()
            proxy.resume()
            await load.more_hits()


async def test_sentinels_that_do_not_answer_hold_nobody_up(
    fresh_database: Database, tmp_path: Path, sentinels: ValkeySentinels
) -> None:
    await run(sentinels.start)
    silent, *others = sentinels.sentinels
    async with FaultProxy.listen(silent.port) as proxy:
        proxy.stall()
        ports = [proxy.port, *(one.port for one in others)]
        url = sentinels.url_by(",".join(f"127.0.0.1:{port}" for port in ports))
        async with rig_on(fresh_database, tmp_path, sentinels, url) as rig, under_load(rig) as load:
            first = sentinels.master()
            await run(first.kill)
            await another_master(sentinels, first)
            await load.more_hits()


# Cluster -------------------------------------------------------------------------------------


@asynccontextmanager
async def rig_on_cluster(
    database: Database, directory: Path, cluster: ValkeyCluster
) -> AsyncIterator[Rig]:
    async with start_rig(
        database,
        directory,
        watch=True,
        servers=ClusterServers(cluster),
        valkey_fields=AS_DEPLOYED,
    ) as rig:
        try:
            yield rig
        finally:
            for node in cluster.nodes:  # Others use it.
                await run(node.resume)
                await run(node.relaunch_if_dead)
                await run(node.wait_ready)
            await eventually(lambda: asyncio.to_thread(cluster.is_whole), 30)


def replica_of(cluster: ValkeyCluster, master: Valkey) -> Valkey:
    (replica,) = (
        node
        for node in cluster.nodes
        if (told := cluster.ask(node, "ROLE"))[0] == "slave" and told[2] == master.port
    )
    return replica


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_a_clusters_node_fails_and_only_its_tenants_notice(
    fresh_database: Database, tmp_path: Path, valkey_cluster: ValkeyCluster, fault: str
) -> None:
    async with (
        rig_on_cluster(fresh_database, tmp_path, valkey_cluster) as rig,
        under_load(rig) as load,
    ):
        node = rig.servers.owner(rig.layout)
        replica = replica_of(valkey_cluster, node)
        await run(getattr(node, fault))
        await load.more_hits(GLOBEX)
        await is_now(replica, "master")
        await load.more_hits()
        await run(node.resume if fault == "pause" else node.start)
        await is_now(node, "slave")
        await load.more_hits()


async def test_a_clusters_replica_that_lost_acknowledged_writes_takes_over(
    fresh_database: Database, tmp_path: Path, valkey_cluster: ValkeyCluster
) -> None:
    async with (
        rig_on_cluster(fresh_database, tmp_path, valkey_cluster) as rig,
        under_load(rig) as load,
    ):
        node = rig.servers.owner(rig.layout)
        replica = replica_of(valkey_cluster, node)
        replica.pause()
        await load.more_hits()
        await run(node.kill)
        replica.resume()
        await is_now(replica, "master")
        await load.more_hits()


# One server ----------------------------------------------------------------------------------


async def test_a_server_comes_back_with_an_old_dump(
    fresh_database: Database, tmp_path: Path
) -> None:
    async with (
        start_rig(fresh_database, tmp_path, watch=True, valkey_fields=AS_DEPLOYED) as rig,
        under_load(rig) as load,
    ):
        await run(rig.direct.save)
        await load.more_hits()
        await run(rig.valkey.kill)
        await run(rig.valkey.start)
        await load.more_hits()
        assert await rig.generations() >= 2


async def test_a_fill_that_began_on_another_server_is_not_believed_for_lack_of_tombstones(
    fresh_database: Database, tmp_path: Path
) -> None:
    """Read, flushed, tombstone evicted, dumped, killed, started: nothing evicted as it seems."""
    async with start_rig(fresh_database, tmp_path) as rig:
        lane = rig.lane()
        await rig.write_through(lane, 1.0)
        await rig.settle()

        async def flush_evict_and_start_again() -> None:
            rig.store.after_read = None
            await rig.write_through(lane, 2.0)
            direct = rig.direct
            direct.delete(rig.layout.entity_key(1, 1))  # As an eviction would.
            direct.save()
            direct.close()
            rig.valkey.kill()
            rig.valkey.start()

        rig.store.after_read = flush_evict_and_start_again
        assert pressure(await rig.get(ACME)) == 1.0  # It was so when the call was made.
        response = await rig.get(ACME, token=rig.token(ACME, lane))
        assert pressure(response) == 2.0
        assert pressure(await rig.get(GLOBEX)) == -2.0


async def test_flushall_again_and_again(fresh_database: Database, tmp_path: Path) -> None:
    async with (
        start_rig(fresh_database, tmp_path, watch=True, valkey_fields=AS_DEPLOYED) as rig,
        under_load(rig) as load,
    ):
        for _ in range(3):
            rig.flushall()
            await load.more_hits()


async def test_a_server_stalls_and_goes_on(fresh_database: Database, tmp_path: Path) -> None:
    async with (
        start_rig(fresh_database, tmp_path, watch=True, valkey_fields=AS_DEPLOYED) as rig,
        under_load(rig) as load,
    ):
        rig.valkey.pause()
        await load.more_answers()
        rig.valkey.resume()
        await load.more_hits()


@pytest.mark.parametrize("fault", ["stall", "half_open", "cut", "refuse"])
async def test_the_network_to_a_server_fails_and_works_again(
    fresh_database: Database, tmp_path: Path, fault: str
) -> None:
    server = OneServer(start_valkey(tmp_path / "valkey"))
    try:
        async with FaultProxy.listen(server.server.port) as proxy:
            url = server.url.replace(f":{server.server.port}/", f":{proxy.port}/")
            async with (
                start_rig(
                    fresh_database,
                    tmp_path,
                    watch=True,
                    servers=server,
                    url=url,
                    valkey_fields=AS_DEPLOYED,
                ) as rig,
                under_load(rig) as load,
            ):
                getattr(proxy, fault)()
                await load.more_answers()
                proxy.resume()
                await load.more_hits()
    finally:
        server.server.stop()
