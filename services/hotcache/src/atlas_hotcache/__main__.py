"""`python -m atlas_hotcache`: the service, wired."""

import time
from contextlib import AsyncExitStack

from atlas.hotcache.v1 import hotcache_service_pb2_grpc, projection_service_pb2_grpc
from atlas_common import telemetry
from atlas_common.catalog import Catalog
from atlas_common.config import load
from atlas_common.db import AuditLog, Database, PostgresTenants, rights
from atlas_common.maintenance import PolicyStore
from atlas_common.maintenance import Runner as PolicyRunner
from atlas_common.metering import QuotaMeters
from atlas_common.rpc import authenticator, call_chain, declared_access, new_server, run, serve
from atlas_common.secrets.opened import secrets_opened
from atlas_common.telemetry.breakers import show_breakers
from atlas_hotcache import metrics, policies
from atlas_hotcache.cache_store import ValkeyCache
from atlas_hotcache.config import Config
from atlas_hotcache.indexing.builder import Builder
from atlas_hotcache.projection.servicer import SERVICE as PROJECTION_SERVICE
from atlas_hotcache.projection.wiring import wire_projection
from atlas_hotcache.servicer import SERVICE
from atlas_hotcache.store import PrimaryStore
from atlas_hotcache.wiring import wire


async def main() -> None:
    """Serve until told to stop."""
    config = load(Config)  # The environment is read here and nowhere else.
    async with AsyncExitStack() as stack:
        stack.enter_context(
            telemetry.setup(
                "hotcache", config.telemetry, instance=config.instance, settings=config.describe()
            )
        )
        await stack.enter_async_context(secrets_opened(config))
        identity = authenticator(config)
        primary = await stack.enter_async_context(Database.open(config.primary, name="primary"))
        caches = await stack.enter_async_context(ValkeyCache.open(config.valkey, config.cache))
        store = PrimaryStore(primary)
        catalog = Catalog(
            [primary],
            attributes_ttl_seconds=config.projection.catalog_ttl_seconds,
            attributes_age_max_seconds=config.projection.catalog_age_max_seconds,
        )
        parts = wire(config, store, caches, catalog, time.monotonic)
        show_breakers(lambda: {f"valkey-{n}": cache.breaker for n, cache in enumerate(caches)})
        metrics.show_lag(lambda: parts.watcher.proof().lag_seconds)
        projection = wire_projection(
            config.projection,
            config.promotion,
            primary,
            parts,
            primary=store,
            catalog=catalog,
            indexing=config.indexing,
        )
        due = [
            policies.promotion(projection.evaluator, config.promotion),
            policies.verification(projection.store, projection.runner, config.projection),
        ]
        policy_runner = PolicyRunner(PolicyStore(primary), due, config.policies, config.instance)
        builder = config.indexing.builder
        chain = call_chain(
            config.rpc,
            authenticator=identity,
            tenants=PostgresTenants(primary),
            accesses=declared_access([SERVICE, PROJECTION_SERVICE]),
            meters=QuotaMeters(config.quota),
            audit=AuditLog(primary),
        )
        server = new_server(config.rpc, chain)
        hotcache_service_pb2_grpc.add_HotCacheServiceServicer_to_server(parts.servicer, server)
        projection_service_pb2_grpc.add_ProjectionServiceServicer_to_server(
            projection.servicer, server
        )
        await serve(
            server,
            config.rpc,
            services=[SERVICE.full_name, PROJECTION_SERVICE.full_name],
            # Not Valkey: without it every read is answered from the primary, within bounds.
            readiness={
                "primary": primary.check,
                "rights": rights.guard(primary),
                **identity.readiness,
            },
            background={
                **identity.background,
                "watcher": parts.watcher.run,
                "checker": parts.checker.run,
                "projection": projection.runner.run,
                **policy_runner.background,
                **({"indexing": Builder(builder, config.indexing).run} if builder else {}),
            },
        )


if __name__ == "__main__":
    run(main)
