"""A hotcache service in the test's process, on a real Postgres and a real Valkey."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
import redis

from atlas.hotcache.v1 import hotcache_service_pb2 as pb
from atlas.hotcache.v1 import hotcache_service_pb2_grpc, projection_service_pb2_grpc
from atlas_common.catalog import Catalog
from atlas_common.db import Database, PostgresTenants
from atlas_common.rpc import TENANT_KEY, DevAuthenticator, interceptors
from atlas_common.testing import serving
from atlas_common.token import Position, TokenSigner
from atlas_devstack.database import Database as OwnDatabase
from atlas_devstack.ports import free_port
from atlas_devstack.valkey import Valkey, ValkeySite
from atlas_devstack.waiting import Patience
from atlas_hotcache.cache_store import ValkeyCache
from atlas_hotcache.config import Config
from atlas_hotcache.flights import Flights
from atlas_hotcache.ports import PrimaryRead
from atlas_hotcache.projection.runner import Runner
from atlas_hotcache.projection.store import JobStore
from atlas_hotcache.projection.wiring import ProjectionParts, wire_projection
from atlas_hotcache.servicer import TENANTLESS
from atlas_hotcache.store import PrimaryStore
from atlas_hotcache.watcher import Watcher
from atlas_hotcache.wiring import wire

from .conftest import connector, make_two_tenants
from .lane_writer import Flushed, LaneWriter, RawPoint
from .waiting import eventually

ACME, GLOBEX = "acme", "globex"
TENANT_IDS = {ACME: 1, GLOBEX: 2}
PRESSURE, STATE = 1, 2
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
    cache: ValkeyCache
    store: GatedStore
    database: Database
    clock: MovableClock
    valkey: Valkey
    admin: "psycopg.Connection[Any]"
    connect: Callable[[str], "psycopg.Connection[Any]"]
    signer: TokenSigner
    flights: Flights[tuple[int, int], Any]
    projection: "projection_service_pb2_grpc.ProjectionServiceAsyncStub"
    jobs: JobStore
    new_runner: Callable[[], Runner]
    """Another process that works on jobs; the test moves it."""
    catalog: Catalog
    _event_count: int = 0

    @property
    def direct(self) -> "redis.Redis":
        """Valkey without the service."""
        return redis.Redis.from_url(self.valkey.url)

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
    **cache_fields: Any,
) -> AsyncIterator[Rig]:
    """A service on this database and a Valkey of its own.

    `watch`: run the watcher in the background, as the service does; else the test moves it.
    """
    with ExitStack() as cleanup:
        connect = connector(own, cleanup)
        admin = connect("admin")
        make_two_tenants(admin)
        valkey = start_valkey(directory / "valkey")
        cleanup.callback(valkey.stop)
        config = Config.model_validate(
            {
                "primary": {"dsn": own.dsn("atlas_hotcache")},
                "token": {"keys": {1: _KEY}, "active_key": 1},
                # Patient: a busy machine must not make the server look slow to a test.
                "valkey": {"url": valkey.url, "call_timeout_seconds": 0.5, "open_seconds": 0.2},
                "cache": {"poll_interval_seconds": 0.05, **cache_fields},
                "projection": {"poll_seconds": 0.05, "lease_seconds": 3, **(projection or {})},
            }
        )
        async with (
            Database.open(config.primary, name="primary") as database,
            ValkeyCache.open(config.valkey, config.cache) as cache,
        ):
            clock = MovableClock()
            store = GatedStore(database, clock)
            catalog = Catalog(
                [database],
                attributes_ttl_seconds=config.projection.catalog_ttl_seconds,
                attributes_age_max_seconds=config.projection.catalog_age_max_seconds,
            )
            parts = wire(config, store, cache, catalog, clock)

            def new_projection() -> ProjectionParts:
                return wire_projection(
                    config.projection,
                    database,
                    parts,
                    primary=store,
                    cache=cache,
                    catalog=catalog,
                    indexing=config.indexing,
                )

            administration = new_projection()
            chain = interceptors(
                config.rpc,
                authenticator=DevAuthenticator(config.environment),
                tenants=PostgresTenants(database),
                tenantless=TENANTLESS,
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
                    cache=cache,
                    store=store,
                    database=database,
                    clock=clock,
                    valkey=valkey,
                    admin=admin,
                    connect=connect,
                    signer=TokenSigner.from_config(config.token),
                    flights=parts.reader.flights,
                    projection=projection_service_pb2_grpc.ProjectionServiceStub(channel),
                    jobs=administration.store,
                    new_runner=lambda: new_projection().runner,
                    catalog=catalog,
                )
                watching = asyncio.create_task(parts.watcher.run()) if watch else None
                try:
                    if watch:
                        await eventually(lambda: parts.watcher.proof().lag_seconds < 1)
                    else:
                        await rig.settle()
                    yield rig
                finally:
                    if watching is not None:
                        watching.cancel()
                        await asyncio.wait([watching])


def stub_of(channel: grpc.aio.Channel) -> "hotcache_service_pb2_grpc.HotCacheServiceAsyncStub":
    """The typed stub of a channel."""
    return hotcache_service_pb2_grpc.HotCacheServiceStub(channel)
