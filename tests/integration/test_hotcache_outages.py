"""What callers get while Valkey is dead, stalled or restarted, and when they give up themselves."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import psycopg
import pytest
import redis

from atlas.hotcache.v1 import hotcache_service_pb2 as pb
from atlas_common.config import DatabaseConfig
from atlas_common.db import Database as Store
from atlas_common.tenant import Tenant
from atlas_devstack.database import Database
from atlas_devstack.postgres import PostgresOptions
from atlas_devstack.proxy import FaultProxy
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from atlas_devstack.valkey import Valkey
from atlas_hotcache import convert
from atlas_hotcache.cache_store import ValkeyCache
from atlas_hotcache.config import CacheConfig, ValkeyConfig
from atlas_hotcache.ports import CacheUnavailableError, PrimaryUnavailableError
from atlas_hotcache.reader import Demand
from atlas_hotcache.store import PrimaryStore

from .hotcache_rig import (
    ACME,
    GLOBEX,
    TENANT_IDS,
    ClusterServers,
    Rig,
    pressure,
    start_rig,
    start_valkey,
)
from .test_hotcache_reads import refusal
from .waiting import eventually

CONNECTIONS_MAX = 32
AT_ONCE_BY_RPC = 20
"""More cancelled at once, and gRPC takes its own connection down for the flood of resets."""
AT_ONCE = 60
BY_RPC = 1_000
"""So many of the calls go through gRPC, the others begin behind it."""
"""Fewer than reads of the primary are let through."""


@pytest.fixture
async def rig(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with start_rig(fresh_database, tmp_path, watch=True) as rig:
        yield rig


async def test_a_crash_of_the_primary_begins_another_history(start_stack: StartStack) -> None:
    """Also one that the postmaster survives: recovery loses the newest asynchronous commits."""
    servers = ServerOptions(postgres=PostgresOptions(replicas=0), valkey=False)
    stack = start_stack(services=(), servers=servers)
    primary, own = stack.postgres.primary, stack.database
    config = DatabaseConfig.model_validate({"dsn": own.dsn("atlas_hotcache")})
    async with Store.open(config, name="primary") as database:
        store = PrimaryStore(database)

        async def source() -> str:
            try:
                return (await store.view()).source
            except PrimaryUnavailableError:
                return ""

        first = await source()
        assert first
        primary.restart()
        await eventually(source)
        assert await source() == first  # A clean stop loses nothing.
        with psycopg.connect(own.admin_dsn) as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)
        await eventually(lambda: is_another(source, first))
        second = await source()
        primary.kill()
        primary.start()
        await eventually(lambda: is_another(source, second))


async def test_the_cache_is_not_closed_under_a_call(tmp_path: Path) -> None:
    """A call that goes on would connect again, and nobody would close that connection."""
    server = start_valkey(tmp_path)
    try:
        async with FaultProxy.listen(server.port) as proxy:
            proxy.stall()
            url = server.url.replace(f":{server.port}/", f":{proxy.port}/")
            config = ValkeyConfig.model_validate({"url": url, "call_timeout_seconds": 0.2})
            async with ValkeyCache.open(config, CacheConfig()) as (cache,):
                call = asyncio.create_task(cache.status())
                await eventually(lambda: proxy.connections > 0)
            assert call.done()
            with pytest.raises(CacheUnavailableError):
                await call
    finally:
        server.stop()


async def is_another(source: Callable[[], Awaitable[str]], than: str) -> bool:
    return await source() not in {"", than}


async def is_connected(rig: Rig) -> bool:
    return (await rig.status()).connected


async def hits_again(rig: Rig) -> bool:
    return (await rig.get(ACME)).hit_count == 1


async def test_the_primary_answers_while_valkey_is_dead(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await rig.hit(ACME)
    rig.valkey.kill()
    rig.write(lane, 2.0)
    for _ in range(20):
        response = await rig.get(ACME)
        assert (pressure(response), response.hit_count) == (2.0, 0)
        assert response.bypass_reason.startswith("the cache")
    assert pressure(await rig.get(GLOBEX)) == -2.0
    await eventually(lambda: not rig.watcher.is_connected)
    assert not await is_connected(rig)
    rig.valkey.start()
    await eventually(lambda: hits_again(rig))
    assert pressure(await rig.get(ACME, token=rig.token(ACME, lane))) == 2.0
    assert pressure(await rig.get(GLOBEX, token=rig.token(GLOBEX, lane))) == -2.0
    assert await is_connected(rig)


async def test_a_stalled_valkey_costs_little_and_leaves_no_old_value_behind(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await rig.hit(ACME)
    rig.valkey.pause()
    flushed = rig.write(lane, 2.0)
    refused = await refusal(rig.invalidate(lane, flushed))
    assert refused.reason == "DEPENDENCY_UNAVAILABLE"
    began = time.monotonic()
    for _ in range(30):
        response = await rig.get(ACME)
        assert (pressure(response), response.hit_count) == (2.0, 0)
    # Without the breaker each of them would wait for the time limit.
    assert time.monotonic() - began < 30 * 0.5 / 2
    rig.valkey.resume()
    await eventually(lambda: hits_again(rig))
    token = rig.token(ACME, lane)
    assert pressure(await rig.get(ACME, token=token)) == 2.0
    assert pressure(await rig.get(GLOBEX)) == -2.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "calls"), [("standalone", 10_000), ("cluster", 3_000)])
async def test_thousands_of_cancelled_calls_leave_pools_and_replies_in_order(
    request: pytest.FixtureRequest, fresh_database: Database, tmp_path: Path, kind: str, calls: int
) -> None:
    servers = None
    if kind == "cluster":
        servers = ClusterServers(request.getfixturevalue("valkey_cluster"))
    async with start_rig(
        fresh_database,
        tmp_path,
        watch=True,
        servers=servers,
        primary_reads_max=2 * AT_ONCE,  # None is refused: on a busy machine they pile up.
    ) as rig:
        lane = rig.lane()
        ids = list(range(1, 41))
        for entity_id in ids:
            await rig.write_through(lane, float(entity_id), [entity_id])
        await rig.get(ACME, [1])
        chance = random.Random(11)

        async def give_up(number: int) -> bool:
            """Some within the look-up, some within the read of the primary, some in the fill."""
            tenant, sign = (ACME, 1) if number % 2 else (GLOBEX, -1)
            entity_id = 1 + number % 40
            asked = [entity_id, 1_000 + number]
            by_rpc = number < BY_RPC
            call = asyncio.ensure_future(
                rig.get(tenant, asked) if by_rpc else read_body(rig, tenant, asked)
            )
            await asyncio.sleep(chance.random() * (0.03 if by_rpc else 0.1))
            call.cancel()
            try:
                response = await call
            except asyncio.CancelledError:
                return True
            assert pressure(response) == sign * entity_id
            return False

        cancelled = done = 0
        while done < calls:
            numbers = range(done, done + (AT_ONCE_BY_RPC if done < BY_RPC else AT_ONCE))
            cancelled += sum(await asyncio.gather(*map(give_up, numbers)))
            done += len(numbers)
        assert 0.3 * calls < cancelled < 0.99 * calls
        await eventually(lambda: rig.database.stats().in_use == 0)
        assert len(rig.flights) == 0
        await eventually(lambda: rig.cache._slots._value == CONNECTIONS_MAX)
        # As many connections as may be, and none that waits for an answer nobody takes.
        for node in rig.servers.nodes:
            assert connections(node) <= CONNECTIONS_MAX
        for tenant, sign in ((ACME, 1), (GLOBEX, -1)):
            for _ in range(2):
                response = await rig.get(tenant, ids)
                assert [pressure(response, at) for at in range(40)] == [sign * id_ for id_ in ids]
            assert (response.hit_count, response.bypass_reason) == (40, "")


async def read_body(rig: Rig, tenant: str, entity_ids: Sequence[int]) -> pb.GetEntitiesResponse:
    """What GetEntities does behind gRPC."""
    whose = Tenant(TENANT_IDS[tenant], tenant)
    answer = await rig.reader.get(whose, entity_ids, Demand(max_staleness_seconds=3.0))
    return convert.entities_response(answer, convert.Shown())


def connections(server: Valkey) -> int:
    """Those of the service."""
    with redis.Redis.from_url(server.url) as client:
        return sum(one["name"] == "atlas-hotcache" for one in client.client_list())


async def test_a_cancelled_caller_does_not_take_others_with_it(rig: Rig) -> None:
    await rig.write_through(rig.lane(), 1.5)
    await rig.get(ACME, [9])
    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await go.wait()

    rig.store.after_read = hold
    reads = rig.store.read_count
    first = asyncio.create_task(rig.get(ACME))
    await arrived.wait()
    second = asyncio.create_task(rig.get(ACME))
    await eventually(lambda: rig.flights.waiter_count((1, 1)) == 2)
    first.cancel()
    await asyncio.wait([first])
    await eventually(lambda: rig.flights.waiter_count((1, 1)) == 1)
    go.set()
    assert pressure(await second) == 1.5
    assert rig.store.read_count == reads + 1
    assert pressure(await rig.get(GLOBEX)) == -1.5


async def test_reads_of_the_primary_are_bounded(fresh_database: Database, tmp_path: Path) -> None:
    async with start_rig(fresh_database, tmp_path, primary_reads_max=2) as rig:
        await rig.write_through(rig.lane(), 1.5, [1, 2, 3])
        await rig.hit(ACME, 3)
        held = 0
        go = asyncio.Event()

        async def hold() -> None:
            nonlocal held
            held += 1
            await go.wait()

        rig.store.after_read = hold
        running = [
            asyncio.create_task(rig.get(ACME, [1])),
            asyncio.create_task(rig.get(GLOBEX, [2])),
        ]
        await eventually(lambda: held == 2)
        refused = await refusal(rig.get(ACME, [2]))
        assert (refused.code.name, refused.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert refused.retry_after
        assert (await rig.get(ACME, [3])).hit_count == 1  # The cache goes on answering.
        go.set()
        assert [pressure(await task) for task in running] == [1.5, -1.5]
