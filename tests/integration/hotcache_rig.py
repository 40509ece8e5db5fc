"""A hotcache service in the test's process, on a real Postgres and a real Valkey."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import grpc.aio
import psycopg
import redis

from atlas.hotcache.v1 import hotcache_service_pb2 as pb
from atlas.hotcache.v1 import hotcache_service_pb2_grpc, projection_service_pb2_grpc
from atlas_common.catalog import Catalog
from atlas_common.db import AuditLog, Database, PostgresTenants
from atlas_common.rpc import TENANT_KEY, Insecure, call_chain, declared_access
from atlas_common.testing import serving
from atlas_common.token import Position, TokenSigner
from atlas_devstack.database import Database as OwnDatabase
from atlas_devstack.ports import free_port
from atlas_devstack.valkey import Valkey, ValkeySite
from atlas_devstack.valkey_cluster import ValkeyCluster
from atlas_devstack.waiting import Patience
from atlas_hotcache.cache_store import ValkeyCache
from atlas_hotcache.checker import Checker
from atlas_hotcache.config import Config
from atlas_hotcache.flights import Flights
from atlas_hotcache.layout import Layout, slot
from atlas_hotcache.ports import PrimaryRead
from atlas_hotcache.projection.runner import Runner
from atlas_hotcache.projection.servicer import SERVICE as PROJECTION_SERVICE
from atlas_hotcache.projection.store import JobStore
from atlas_hotcache.projection.wiring import ProjectionParts, wire_projection
from atlas_hotcache.promotion.evaluator import Evaluator
from atlas_hotcache.reader import Reader
from atlas_hotcache.servicer import SERVICE
from atlas_hotcache.store import PrimaryStore
from atlas_hotcache.watcher import Watcher
from atlas_hotcache.wiring import wire

from .conftest import connector, make_two_tenants
from .lane_writer import Flushed, LaneWriter, RawPoint
from .waiting import eventually

ACME, GLOBEX = "acme", "globex"
TENANT_IDS = {ACME: 1, GLOBEX: 2}
PRESSURE, STATE = 1, 2
SHARDS = 3
"""In a cluster: the two tenants' entries are on different nodes."""
T0 = datetime(2026, 3, 1, tzinfo=UTC)
_KEY = base64.b64encode(b"sixteen bytes, ok").decode()


class MovableClock:
    """Monotonic seconds that a test can move forward."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.offset


class GatedStore(PrimaryStore):
    """The real store; `after_read` runs between a read's snapshot and whatever is done with it."""

    after_read: Callable[[], Any] | None = None
    read_count = 0

    async def read(self, *arguments: Any) -> PrimaryRead:
        read = await super().read(*arguments)
        self.read_count += 1
        if self.after_read is not None:
            await self.after_read()
        return read


@dataclass
class Rig:
    """The service's stub and everything around it."""

    stub: "hotcache_service_pb2_grpc.HotCacheServiceAsyncStub"
    watcher: Watcher
    caches: Sequence[ValkeyCache]
    checker: Checker
    store: GatedStore
    database: Database
    clock: MovableClock
    servers: "Servers"
    admin: "psycopg.Connection[Any]"
    connect: Callable[[str], "psycopg.Connection[Any]"]
    signer: TokenSigner
    projection: "projection_service_pb2_grpc.ProjectionServiceAsyncStub"
    jobs: JobStore
    new_runner: Callable[[], Runner]
    """Another process that works on jobs; the test moves it."""
    catalog: Catalog
    new_evaluator: Callable[..., Evaluator]
    """Another process that evaluates, with these settings of its own; the test moves it."""
    reader: Reader
    _event_count: int = 0

    @property
    def flights(self) -> Flights[tuple[int, int], Any]:
        """Reads of the primary under way."""
        return self.reader.flights

    @property
    def valkey(self) -> Valkey:
        """The server, where there is one only."""
        (server,) = self.servers.nodes
        return server

    @property
    def cache(self) -> ValkeyCache:
        """Acme's shard."""
        return self.caches[TENANT_IDS[ACME] % len(self.caches)]

    @property
    def layout(self) -> Layout:
        """Where acme's entries are."""
        return self.cache._layout

    @property
    def direct(self) -> "redis.Redis":
        """The Valkey that has acme's entries, without the service."""
        return redis.Redis.from_url(self.servers.owner(self.layout).url)

    def flushall(self) -> None:
        """Empty every server."""
        self.servers.flushall()

    async def status(self) -> pb.GetCacheStatusResponse:
        """GetCacheStatus."""
        return await self.stub.GetCacheStatus(pb.GetCacheStatusRequest())

    async def generations(self) -> int:
        """How often the cache was begun anew, by the shard where that was most often.

        Counted over all shards together: the first time they all begin, later perhaps one only.
        """
        total = (await self.status()).generations_total
        return -(-total // len(self.caches))

    def lane(self, lane: int = 0) -> LaneWriter:
        """The owner of a lane."""
        return LaneWriter(self.connect("atlas_ingest"), lane)

    def write(self, lane: LaneWriter, value: float, entity_ids: Sequence[int] = (1,)) -> Flushed:
        """One flush: acme's entities get this pressure, globex' of the same ids its negative."""
        self._event_count += 1
        when = T0 + timedelta(seconds=self._event_count)
        return lane.write(
            RawPoint(tenant_id, entity_id, PRESSURE, when, sign * value)
            for tenant_id, sign in ((1, 1), (2, -1))
            for entity_id in entity_ids
        )

    async def invalidate(self, lane: LaneWriter, flushed: Flushed) -> None:
        """What ingest says after this flush."""
        await self.stub.InvalidateEntities(invalidation(lane, flushed))

    async def write_through(
        self, lane: LaneWriter, value: float, entity_ids: Sequence[int] = (1,)
    ) -> Flushed:
        """Write and invalidate."""
        flushed = self.write(lane, value, entity_ids)
        await self.invalidate(lane, flushed)
        return flushed

    def token(self, tenant: str, lane: LaneWriter, sequence: int | None = None) -> bytes:
        """The token of a lane's flush, the last one if none is named."""
        position = Position(lane.lane, lane.epoch, lane.sequence if sequence is None else sequence)
        return self.signer.seal(TENANT_IDS[tenant], [position])

    async def get(
        self, tenant: str = ACME, entity_ids: Sequence[int] = (1,), **fields: Any
    ) -> pb.GetEntitiesResponse:
        """GetEntities as this tenant."""
        staleness = fields.pop("staleness", None)
        request = pb.GetEntitiesRequest(entity_ids=entity_ids, **fields)
        if staleness is not None:
            request.max_staleness.FromNanoseconds(round(staleness * 1e9))
        return await self.stub.GetEntities(request, metadata=((TENANT_KEY, tenant),))

    async def settle(self) -> None:
        """Let the watcher look until it believes what it sees."""
        for _ in range(3):
            await self.watcher.step()

    async def hit(self, tenant: str = ACME, entity_id: int = 1) -> pb.GetEntitiesResponse:
        """Read until the cache answers; fails if it does not on the second time."""
        await self.get(tenant, [entity_id])
        response = await self.get(tenant, [entity_id])
        assert response.hit_count == 1, response
        return response


def pressure(response: pb.GetEntitiesResponse, at: int = 0) -> float | None:
    """The pressure of one of the entities, None if it has none."""
    for value in response.entities[at].values:
        if value.attribute == "pressure":
            return value.value.double_value
    return None


def invalidation(lane: LaneWriter, flushed: Flushed) -> pb.InvalidateEntitiesRequest:
    """What ingest sends after a flush."""
    request = pb.InvalidateEntitiesRequest(
        lane=lane.lane, epoch=lane.epoch, sequence=flushed.sequence
    )
    for tenant_id in sorted({change[0] for change in flushed.changed}):
        mine = [change for change in flushed.changed if change[0] == tenant_id]
        request.changes.add(
            tenant_id=tenant_id,
            entity_ids=[change[1] for change in mine],
            versions=[change[2] for change in mine],
        )
    return request


class Servers(Protocol):
    """What a rig's cache is on."""

    @property
    def url(self) -> str: ...

    @property
    def nodes(self) -> Sequence[Valkey]: ...

    def owner(self, layout: Layout) -> Valkey:
        """The server that has a shard's keys."""

    def flushall(self) -> None:
        """Forget everything, everywhere."""


@dataclass
class OneServer:
    """A cache on one server."""

    server: Valkey

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def nodes(self) -> Sequence[Valkey]:
        return [self.server]

    def owner(self, layout: Layout) -> Valkey:
        return self.server

    def flushall(self) -> None:
        flushall(self.server)


@dataclass
class ClusterServers:
    """A cache on a cluster."""

    cluster: ValkeyCluster

    @property
    def url(self) -> str:
        return self.cluster.url

    @property
    def nodes(self) -> Sequence[Valkey]:
        return self.cluster.nodes

    def owner(self, layout: Layout) -> Valkey:
        return self.cluster.owner(slot(layout.tag))

    def flushall(self) -> None:
        for node in self.nodes:
            if self.cluster.role(node) == "master":
                flushall(node)


def flushall(server: Valkey) -> None:
    """Empty a server."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


def start_valkey(directory: Path) -> Valkey:
    """A server of the test's own; stop it."""
    directory.mkdir(parents=True, exist_ok=True)
    site = ValkeySite(directory, directory, directory, free_port(set()), "secret")
    valkey = Valkey(site, Patience(20.0))
    valkey.start()
    return valkey


@asynccontextmanager
async def start_rig(
    own: OwnDatabase,
    directory: Path,
    *,
    watch: bool = False,
    projection: Mapping[str, float] | None = None,
    promotion: Mapping[str, Any] | None = None,
    servers: Servers | None = None,
    url: str | None = None,
    valkey_fields: dict[str, Any] | None = None,
    **cache_fields: Any,
) -> AsyncIterator[Rig]:
    """A service on this database and a Valkey of its own, or on these servers, emptied.

    `watch`: run the watcher in the background, as the service does; else the test moves it. `url`:
    another way to the servers.
    """
    with ExitStack() as cleanup:
        connect = connector(own, cleanup)
        admin = connect("admin")
        make_two_tenants(admin)
        if servers is None:
            valkey = start_valkey(directory / "valkey")
            cleanup.callback(valkey.stop)
            servers = OneServer(valkey)
        servers.flushall()
        config = Config.model_validate(
            {
                "primary": {"dsn": own.dsn("atlas_hotcache")},
                "token": {"keys": {1: _KEY}, "active_key": 1},
                # Patient: a busy machine must not make the server look slow to a test.
                "valkey": {
                    "url": url or servers.url,
                    "call_timeout_seconds": 0.5,
                    "open_seconds": 0.2,
                    "shards": SHARDS,
                    **(valkey_fields or {}),
                },
                # Sampling off: reads of the primary are counted.
                "cache": {"poll_interval_seconds": 0.05, "checked_share": 0, **cache_fields},
                "projection": {"poll_seconds": 0.05, "lease_seconds": 3, **(projection or {})},
                "promotion": dict(promotion or {}),
            }
        )
        async with (
            Database.open(config.primary, name="primary") as database,
            ValkeyCache.open(config.valkey, config.cache) as caches,
        ):
            clock = MovableClock()
            store = GatedStore(database, clock)
            catalog = Catalog(
                [database],
                attributes_ttl_seconds=config.projection.catalog_ttl_seconds,
                attributes_age_max_seconds=config.projection.catalog_age_max_seconds,
            )
            parts = wire(config, store, caches, catalog, clock)

            def new_projection(**changed: Any) -> ProjectionParts:
                return wire_projection(
                    config.projection,
                    config.promotion.model_copy(update=changed),
                    database,
                    parts,
                    primary=store,
                    catalog=catalog,
                    indexing=config.indexing,
                )

            administration = new_projection()
            chain = call_chain(
                config.rpc,
                authenticator=Insecure("dev"),
                tenants=PostgresTenants(database),
                accesses=declared_access([SERVICE, PROJECTION_SERVICE]),
                audit=AuditLog(database),
            )

            def add(servicer: Any, server: grpc.aio.Server) -> None:
                hotcache_service_pb2_grpc.add_HotCacheServiceServicer_to_server(servicer, server)
                projection_service_pb2_grpc.add_ProjectionServiceServicer_to_server(
                    administration.servicer, server
                )

            async with serving(parts.servicer, add=add, chain=chain) as channel:
                rig = Rig(
                    stub=stub_of(channel),
                    watcher=parts.watcher,
                    caches=caches,
                    checker=parts.checker,
                    store=store,
                    database=database,
                    clock=clock,
                    servers=servers,
                    admin=admin,
                    connect=connect,
                    signer=TokenSigner.from_config(config.token),
                    projection=projection_service_pb2_grpc.ProjectionServiceStub(channel),
                    jobs=administration.store,
                    new_runner=lambda: new_projection().runner,
                    catalog=catalog,
                    new_evaluator=lambda **changed: new_projection(**changed).evaluator,
                    reader=parts.reader,
                )
                work = [parts.watcher.run, parts.checker.run] if watch else []
                working = [asyncio.create_task(one()) for one in work]
                try:
                    if watch:
                        await eventually(lambda: parts.watcher.proof().lag_seconds < 1)
                    else:
                        await rig.settle()
                    yield rig
                finally:
                    for task in working:
                        task.cancel()
                    await asyncio.gather(*working, return_exceptions=True)


def stub_of(channel: grpc.aio.Channel) -> "hotcache_service_pb2_grpc.HotCacheServiceAsyncStub":
    """The typed stub of a channel."""
    return hotcache_service_pb2_grpc.HotCacheServiceStub(channel)
