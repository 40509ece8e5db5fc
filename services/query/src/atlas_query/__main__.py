"""The query service's process."""

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from atlas.hotcache.v1 import hotcache_service_pb2
from atlas.hotcache.v1.hotcache_service_pb2_grpc import HotCacheServiceStub
from atlas.query.v1 import query_service_pb2, query_service_pb2_grpc
from atlas.reconciler.v1 import reconciler_service_pb2
from atlas.reconciler.v1.reconciler_service_pb2_grpc import ReconcilerServiceStub
from atlas_common import telemetry
from atlas_common.breaker import Breaker
from atlas_common.catalog import Catalog
from atlas_common.config import DatabaseConfig, load
from atlas_common.db import Database, PostgresTenants, PrimaryClock, PrimaryClockPoller
from atlas_common.rpc import (
    authenticator,
    interceptors,
    new_server,
    open_channel,
    run,
    serve,
)
from atlas_common.token import TokenSigner
from atlas_query.access.flusher import AccessFlusher
from atlas_query.access.sampler import AccessSampler
from atlas_query.admission import Admission
from atlas_query.analytics import Aggregates
from atlas_query.config import AccessConfig, Config, RouterConfig
from atlas_query.downsampled import DownsampledHistory
from atlas_query.endpoint import Endpoint
from atlas_query.explain import Explainer
from atlas_query.freshness import FreshnessTracker
from atlas_query.hot import HotCache
from atlas_query.near import NearCache
from atlas_query.polling import PrimaryPoller, ReplicaPoller
from atlas_query.readiness import any_reachable
from atlas_query.reads import Reads
from atlas_query.router import QueryRouter
from atlas_query.servicer import QueryServicer
from atlas_query.survey import Survey
from atlas_query.tenants import FirstAnswer
from atlas_query.tiers import Tiers
from atlas_query.waiting import Waits
from atlas_query.warehouse import Warehouse
from atlas_query.watch.watches import Watches
from atlas_query.watched import WatchedDatabase

SERVICE = query_service_pb2.DESCRIPTOR.services_by_name["QueryService"].full_name
TENANTLESS = frozenset({f"/{SERVICE}/ListTiers"})


async def main() -> None:
    """Serve until SIGTERM."""
    config = load(Config)  # The environment is read here and nowhere else.
    async with AsyncExitStack() as stack:
        stack.enter_context(telemetry.setup("query", config.telemetry, instance=config.instance))
        primary = await _endpoint(stack, config.primary, "primary", config.router)
        replicas = [
            await _endpoint(stack, replica, replica.name, config.router)
            for replica in config.replicas
        ]
        databases = [endpoint.database for endpoint in (primary, *replicas)]
        clock = PrimaryClock()
        tracker = FreshnessTracker([replica.name for replica in replicas], clock, time.monotonic)
        router = QueryRouter(primary, replicas, tracker, _admission(config.router), time.monotonic)
        catalog = Catalog(databases)
        hot = await _hotcache(stack, config)
        warehouse = await _warehouse(stack, config)
        survey = Survey(router, tracker, hot, warehouse, config.router.status_timeout_seconds)
        watches = Watches(router, catalog, tracker, config.watch)
        access = _access(config.access)
        servicer = QueryServicer(
            Reads(router, catalog, hot, cold_find_seconds_max=config.router.cold_find_seconds_max),
            near=NearCache(config.router.near_seconds, len, time.monotonic),
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
        chain = interceptors(
            config.rpc,
            authenticator=authenticator(config.environment),
            tenants=FirstAnswer([PostgresTenants(database) for database in databases]),
            tenantless=TENANTLESS,
        )
        server = new_server(config.rpc, chain)
        query_service_pb2_grpc.add_QueryServiceServicer_to_server(servicer, server)
        pollers = [ReplicaPoller(replica, tracker, config.router) for replica in replicas]
        await serve(
            server,
            config.rpc,
            services=[SERVICE],
            readiness={"postgres": any_reachable(databases)},
            on_drain=watches.drain,
            background={
                "primary": PrimaryPoller(
                    primary, PrimaryClockPoller(primary.database, clock), tracker, config.router
                ).run,
                "watches": watches.run,
                **_flushing(access, primary.database, config.access),
                **{poller.endpoint.name: poller.run for poller in pollers},
            },
        )


async def _endpoint(
    stack: AsyncExitStack, config: DatabaseConfig, name: str, router: RouterConfig
) -> Endpoint:
    database = await stack.enter_async_context(WatchedDatabase.open(config, name=name))
    assert isinstance(database, WatchedDatabase)
    # The primary has no one to stand in for it: there a slow answer is better than none.
    open_timeout = None if name == "primary" else router.replica_open_timeout_seconds
    return Endpoint(database, _breaker(router), open_timeout)


async def _hotcache(stack: AsyncExitStack, config: Config) -> HotCache | None:
    if config.hotcache is None:
        return None
    service = hotcache_service_pb2.DESCRIPTOR.services_by_name["HotCacheService"]
    channel = await stack.enter_async_context(open_channel(config.hotcache, services=[service]))
    router = config.router
    return HotCache(HotCacheServiceStub(channel), _breaker(router), router.hotcache_timeout_seconds)


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
    access: AccessSampler | None, primary: Database, config: AccessConfig
) -> dict[str, Callable[[], Awaitable[None]]]:
    if access is None:
        return {}
    return {"access": AccessFlusher(access, primary, config.flush_seconds).run}


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
