"""Ingest dies between a commit and its announcement, or the announcement is lost on its way.

The cache is made good from the primary's own record, without forgetting anything else.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import pytest

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.hotcache.v1 import hotcache_service_pb2 as hot_pb
from atlas.hotcache.v1 import hotcache_service_pb2_grpc
from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas.type.v1 import value_pb2
from atlas_client.call import open_channel
from atlas_common.rpc import TENANT_KEY
from atlas_devstack.credentials import Credentials
from atlas_devstack.platform import SERVICES
from atlas_devstack.ports import free_port
from atlas_devstack.proxy import FaultProxy
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from atlas_devstack.services import Service, Wiring
from atlas_devstack.stack import Stack
from atlas_devstack.waiting import Patience
from tests.integration.waiting import eventually

TENANTS = {"acme": 1.0, "globex": -1.0}
KEYS = ("pump-1", "pump-2")


@dataclass
class Road:
    """Ingest, hotcache, and a proxy on the way from the one to the other."""

    stack: Stack
    proxy: FaultProxy
    process: Service
    ingest: Any
    hotcache: Any
    entity_ids: dict[str, dict[str, int]] = field(default_factory=dict)

    async def write(self, value: float, keys: tuple[str, ...] = KEYS) -> None:
        """The pressure of these pumps, acme's positive, globex' negative; answered when told."""
        for tenant, sign in TENANTS.items():
            points = [
                value_pb2.Point(entity_key=key, attribute="pressure", double_value=sign * value)
                for key in keys
            ]
            request = pb.WriteRequest(points=points)
            await self.ingest.Write(request, metadata=((TENANT_KEY, tenant),))

    async def read(self, tenant: str, key: str, staleness: float = 30.0) -> tuple[float, bool]:
        """The pressure, and whether it came from the cache."""
        request = hot_pb.GetEntitiesRequest(entity_ids=[self.entity_ids[tenant][key]])
        request.max_staleness.FromNanoseconds(round(staleness * 1e9))
        response = await self.hotcache.GetEntities(request, metadata=((TENANT_KEY, tenant),))
        (value,) = response.entities[0].values
        return value.value.double_value, response.hit_count == 1

    async def hits(self) -> bool:
        found = [await self.read(tenant, key) for tenant in TENANTS for key in KEYS]
        return all(hit for _, hit in found)

    async def status(self) -> hot_pb.GetCacheStatusResponse:
        answer: hot_pb.GetCacheStatusResponse = await self.hotcache.GetCacheStatus(
            hot_pb.GetCacheStatusRequest()
        )
        return answer

    def flush_count(self) -> int:
        with psycopg.connect(self.stack.database.admin_dsn) as connection:
            row = connection.execute("SELECT sum(sequence) FROM atlas.flush_positions").fetchone()
        assert row is not None
        return int(row[0] or 0)


@asynccontextmanager
async def road(
    start_stack: StartStack, server_options: ServerOptions, directory: Path, *, timeout_ms: int
) -> AsyncIterator[Road]:
    """The entities of both tenants are in the cache. Announcements give up after the timeout."""
    servers = replace(
        server_options, postgres=replace(server_options.postgres, replicas=0), replica_dsns=()
    )
    stack = await asyncio.to_thread(
        lambda: start_stack(services=("hotcache",), servers=servers, heal_services=False)
    )
    hotcache = stack.services["hotcache"]
    async with FaultProxy.listen(int(hotcache.target.rpartition(":")[2])) as proxy:
        ingest = make_ingest(stack, directory, proxy.port, timeout_ms)
        await asyncio.to_thread(ingest.start)
        try:
            async with (
                open_channel(ingest.target, None) as to_ingest,
                open_channel(hotcache.target, None) as to_hotcache,
            ):
                await set_up_tenants(to_ingest)
                stub = hotcache_service_pb2_grpc.HotCacheServiceStub(to_hotcache)
                road = Road(stack, proxy, ingest, writer(to_ingest), stub)
                await road.write(1.0)
                road.entity_ids = entity_ids(stack)
                await eventually(road.hits)
                yield road
        finally:
            proxy.resume()
            await asyncio.to_thread(ingest.stop)


def make_ingest(stack: Stack, directory: Path, hotcache_port: int, timeout_ms: int) -> Service:
    """An ingest process that reaches hotcache by this port."""
    for name in ("logs", "run"):
        (directory / name).mkdir(parents=True)
    wiring = Wiring(
        database=stack.database,
        replicas={},
        valkey_url=None,
        credentials=Credentials(),
        ports={name: free_port(set()) for name in SERVICES},
        warehouse=directory / "warehouse",
        log_directory=directory / "logs",
        run_directory=directory / "run",
        spans=False,
    )
    extra = {
        "ATLAS_HOTCACHE__TARGET": f"127.0.0.1:{hotcache_port}",
        "ATLAS_FLUSH__INVALIDATE_TIMEOUT_MS": str(timeout_ms),
    }
    return Service(SERVICES["ingest"], wiring, extra, Patience(30.0))


def writer(channel: grpc.aio.Channel) -> Any:
    return ingest_service_pb2_grpc.IngestServiceStub(channel)


async def set_up_tenants(channel: grpc.aio.Channel) -> None:
    catalog: Any = catalog_service_pb2_grpc.CatalogServiceStub(channel)
    pressure = catalog_pb.Attribute(name="pressure", data_type=value_pb2.DATA_TYPE_DOUBLE, hot=True)
    for tenant in TENANTS:
        await catalog.CreateTenant(catalog_pb.CreateTenantRequest(key=tenant))
        await catalog.BatchUpsertAttributes(
            catalog_pb.BatchUpsertAttributesRequest(attributes=[pressure]),
            metadata=((TENANT_KEY, tenant),),
        )


def entity_ids(stack: Stack) -> dict[str, dict[str, int]]:
    with psycopg.connect(stack.database.admin_dsn) as connection:
        rows = connection.execute(
            "SELECT t.key, e.key, e.entity_id FROM atlas.entities AS e"
            " JOIN atlas.tenants AS t USING (tenant_id)"
        ).fetchall()
    found: dict[str, dict[str, int]] = {tenant: {} for tenant in TENANTS}
    for tenant, key, entity_id in rows:
        found[tenant][key] = entity_id
    return found


async def is_followed(road: Road, flushes: int) -> bool:
    """Whether what nobody told of has been made up for."""
    status = await road.status()
    return status.caught_up_flushes_total >= flushes and status.lag.ToNanoseconds() < 1e9


async def test_ingest_is_killed_between_commit_and_announcement(
    start_stack: StartStack, server_options: ServerOptions, tmp_path: Path
) -> None:
    async with road(start_stack, server_options, tmp_path / "i", timeout_ms=60_000) as on:
        generations = (await on.status()).generations_total
        flushes = on.flush_count()
        on.proxy.stall()
        writing = asyncio.create_task(on.write(2.0, ("pump-1",)))
        await eventually(lambda: on.flush_count() > flushes)  # Acme's is committed, and not told.
        await asyncio.to_thread(on.process.kill)
        with pytest.raises(grpc.aio.AioRpcError):
            await writing
        await eventually(lambda: is_followed(on, 1))
        assert await on.read("acme", "pump-1") == (2.0, False)
        assert await on.read("acme", "pump-2") == (1.0, True)
        assert await on.read("globex", "pump-1") == (-1.0, True)
        # It comes back, and goes on under another epoch: without a gap.
        on.proxy.resume()
        await asyncio.to_thread(on.process.start)
        await eventually(lambda: can_write(on, 3.0))
        assert (await on.read("acme", "pump-1", staleness=0))[0] == 3.0
        assert (await on.read("globex", "pump-1", staleness=0))[0] == -3.0
        await eventually(on.hits)
        assert await on.read("acme", "pump-2") == (1.0, True)
        assert (await on.status()).generations_total == generations


async def can_write(road: Road, value: float) -> bool:
    try:
        await road.write(value, ("pump-1",))
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_announcements_that_do_not_arrive_are_made_up_for(
    start_stack: StartStack, server_options: ServerOptions, tmp_path: Path
) -> None:
    async with road(start_stack, server_options, tmp_path / "i", timeout_ms=200) as on:
        generations = (await on.status()).generations_total
        on.proxy.stall()
        await on.write(2.0, ("pump-1",))  # Answered, once the announcement was given up.
        await eventually(lambda: is_followed(on, 1))
        for tenant, sign in TENANTS.items():
            assert (await on.read(tenant, "pump-1", staleness=1))[0] == sign * 2.0
            assert await on.read(tenant, "pump-2") == (sign * 1.0, True)
        on.proxy.resume()
        await on.write(3.0, ("pump-1",))
        await eventually(on.hits)
        for tenant, sign in TENANTS.items():
            assert await on.read(tenant, "pump-1") == (sign * 3.0, True)
        assert (await on.status()).generations_total == generations
