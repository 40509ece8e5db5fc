"""The query service's process."""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from atlas.hotcache.v1 import hotcache_service_pb2
from atlas.hotcache.v1.hotcache_service_pb2_grpc import HotCacheServiceStub
from atlas.query.v1 import query_service_pb2, query_service_pb2_grpc
from atlas.reconciler.v1 import reconciler_service_pb2
from atlas.reconciler.v1.reconciler_service_pb2_grpc import ReconcilerServiceStub
from atlas_common import errors, telemetry
from atlas_common.breaker import Breaker
from atlas_common.catalog import Catalog
from atlas_common.config import DatabaseConfig, load
from atlas_common.db import Database, PrimaryClock
from atlas_common.metering import QuotaMeters
from atlas_common.rpc import (
    Check,
    authenticator,
    call_chain,
    declared_access,
    new_server,
    open_channel,
    run,
    serve,
)
from atlas_common.secrets.opened import secrets_opened
from atlas_common.telemetry.breakers import show_breakers
from atlas_common.token import TokenSigner
from atlas_query import metrics
from atlas_query.access.flusher import AccessFlusher
from atlas_query.access.sampler import AccessSampler
from atlas_query.admission import Admission
from atlas_query.analytics import Aggregates
from atlas_query.config import AccessConfig, Config, RouterConfig
from atlas_query.discovery import Discovery, DnsName, ReplicaFile
from atlas_query.downsampled import DownsampledHistory
from atlas_query.election import Election
from atlas_query.endpoint import Endpoint
from atlas_query.explain import Explainer
from atlas_query.freshness import FreshnessTracker
from atlas_query.hot import HotCache
from atlas_query.near import NearCache
from atlas_query.polling import Pollers
from atlas_query.readiness import any_reachable
from atlas_query.reads import Reads
from atlas_query.roster import OpenEndpoint, Roster
from atlas_query.router import QueryRouter
from atlas_query.servers import LiveDatabases, Servers
from atlas_query.servicer import QueryServicer
from atlas_query.survey import Survey
from atlas_query.tenants import FirstAnswer
from atlas_query.tiers import Tiers
from atlas_query.waiting import Waits
from atlas_query.warehouse import Warehouse
from atlas_query.watch.watches import Watches
from atlas_query.watched import WatchedDatabase

SERVICE = query_service_pb2.DESCRIPTOR.services_by_name["QueryService"]


async def main() -> None:
    """Serve until SIGTERM."""
    config = load(Config)  # The environment is read here and nowhere else.
    async with AsyncExitStack() as stack:
        stack.enter_context(
            telemetry.setup(
                "query", config.telemetry, instance=config.instance, settings=config.describe()
            )
        )
        await stack.enter_async_context(secrets_opened(config))
        identity = authenticator(config)
        roster = Roster(_opener(config.router), _discovery(config), config.discovery)
        first = await stack.enter_async_context(roster.opened(config.primary, config.replicas))
        clock = PrimaryClock()
        tracker = FreshnessTracker(clock, time.monotonic)
        servers = Servers(first, tracker, Election(endpoint.name for endpoint in first))
        router = QueryRouter(servers, tracker, _admission(config.router), time.monotonic)
        databases = LiveDatabases(servers, router.is_current)
        catalog = Catalog(databases)
        tenants = FirstAnswer(databases)
        near: NearCache[bytes] = NearCache(config.router.near_seconds, len, time.monotonic)
        servers.on_new_history = _forgetting(catalog, tenants, near)
        hot = await _hotcache(stack, config)
        warehouse = await _warehouse(stack, config)
        metrics.show_replicas(lambda: servers.lags_seconds)
        show_breakers(lambda: servers.breakers | _breakers(hotcache=hot, warehouse=warehouse))
        survey = Survey(router, tracker, hot, warehouse, config.router.status_timeout_seconds)
        watches = Watches(router, catalog, tracker, config.watch)
        access = _access(config.access)
        servicer = QueryServicer(
            Reads(router, catalog, hot, cold_find_seconds_max=config.router.cold_find_seconds_max),
            near=near,
            downsampled=DownsampledHistory(router, catalog),
            aggregates=Aggregates(warehouse, catalog),
            tiers=Tiers(router, hot, warehouse, config.router.status_timeout_seconds),
            watches=watches,
            waits=Waits(survey, time.monotonic),
            explainer=Explainer(survey, config.router.primary_reads_max, time.monotonic),
            access=access,
            signer=TokenSigner.from_config(config.token),
            message_bytes_max=config.rpc.max_message_bytes,
        )
        chain = call_chain(
            config.rpc,
            authenticator=identity,
            tenants=tenants,
            accesses=declared_access([SERVICE]),
            meters=QuotaMeters(config.quota),
        )
        server = new_server(config.rpc, chain)
        query_service_pb2_grpc.add_QueryServiceServicer_to_server(servicer, server)
        pollers = Pollers(servers, tracker, clock, config.router)
        await serve(
            server,
            config.rpc,
            services=[SERVICE.full_name],
            readiness={
                "postgres": any_reachable([endpoint.database for endpoint in first], databases),
                "roles": _known(servers),
                **identity.readiness,
            },
            on_drain=watches.drain,
            background={
                "servers": partial(roster.run, pollers),
                "watches": watches.run,
                **_flushing(access, servers, config.access),
                **identity.background,
            },
        )


def _opener(router: RouterConfig) -> OpenEndpoint:
    @asynccontextmanager
    async def opened(config: DatabaseConfig, name: str) -> AsyncIterator[Endpoint]:
        async with WatchedDatabase.open(config, name=name) as database:
            assert isinstance(database, WatchedDatabase)
            yield Endpoint(database, _breaker(router), router.replica_open_timeout_seconds)

    return opened


def _discovery(config: Config) -> Discovery | None:
    settings = config.discovery
    if settings.file is not None:
        return ReplicaFile(Path(settings.file), config.environment)
    if settings.dns is not None:
        return DnsName(settings.dns, time.monotonic)
    return None


def _forgetting(
    catalog: Catalog, tenants: FirstAnswer, near: NearCache[bytes]
) -> Callable[[], None]:
    def forget() -> None:
        catalog.forget_all()
        tenants.forget_all()
        near.forget()

    return forget


def _known(servers: Servers) -> Check:
    async def check() -> None:
        if not servers.is_known:
            raise errors.unavailable("DEPENDENCY_UNAVAILABLE", "not all servers were asked yet")

    return check


async def _hotcache(stack: AsyncExitStack, config: Config) -> HotCache | None:
    if config.hotcache is None:
        return None
    service = hotcache_service_pb2.DESCRIPTOR.services_by_name["HotCacheService"]
    channel = await stack.enter_async_context(open_channel(config.hotcache, services=[service]))
    router = config.router
    return HotCache(
        HotCacheServiceStub(channel),
        _breaker(router),
        TokenSigner.from_config(config.token),
        router.hotcache_timeout_seconds,
    )


async def _warehouse(stack: AsyncExitStack, config: Config) -> Warehouse | None:
    if config.reconciler is None:
        return None
    service = reconciler_service_pb2.DESCRIPTOR.services_by_name["ReconcilerService"]
    channel = await stack.enter_async_context(open_channel(config.reconciler, services=[service]))
    return Warehouse(ReconcilerServiceStub(channel), _breaker(config.router))


def _access(config: AccessConfig) -> AccessSampler | None:
    if config.sample_every == 0:
        return None
    return AccessSampler(config.sample_every, config.names_max, random.random)


def _flushing(
    access: AccessSampler | None, servers: Servers, config: AccessConfig
) -> dict[str, Callable[[], Awaitable[None]]]:
    if access is None:
        return {}

    def primary() -> Database:
        return servers.primary.database

    return {"access": AccessFlusher(access, primary, config.flush_seconds).run}


def _breakers(**behind: HotCache | Warehouse | None) -> dict[str, Breaker]:
    """Of what is behind other services."""
    return {name: tier.breaker for name, tier in behind.items() if tier is not None}


def _breaker(config: RouterConfig) -> Breaker:
    return Breaker(config.breaker_failures_max, config.breaker_open_seconds)


def _admission(config: RouterConfig) -> Admission:
    return Admission(
        config.primary_reads_max,
        config.primary_reads_waiting_max,
        config.primary_reads_wait_seconds,
        "no replica can serve this read, and the primary has all the reads it takes from others",
    )


if __name__ == "__main__":
    run(main)
