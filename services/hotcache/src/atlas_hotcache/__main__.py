"""`python -m atlas_hotcache`: the service, wired."""

import time
from contextlib import AsyncExitStack

from atlas.hotcache.v1 import hotcache_service_pb2_grpc
from atlas_common import telemetry
from atlas_common.catalog import Catalog
from atlas_common.config import load
from atlas_common.db import Database, PostgresTenants, rights
from atlas_common.rpc import authenticator, interceptors, new_server, run, serve
from atlas_hotcache.cache_store import ValkeyCache
from atlas_hotcache.config import Config
from atlas_hotcache.servicer import SERVICE, TENANTLESS
from atlas_hotcache.store import PrimaryStore
from atlas_hotcache.wiring import wire


async def main() -> None:
    """Serve until told to stop."""
    config = load(Config)  # The environment is read here and nowhere else.
    async with AsyncExitStack() as stack:
        stack.enter_context(telemetry.setup("hotcache", config.telemetry, instance=config.instance))
        primary = await stack.enter_async_context(Database.open(config.primary, name="primary"))
        caches = await stack.enter_async_context(ValkeyCache.open(config.valkey, config.cache))
        parts = wire(config, PrimaryStore(primary), caches, Catalog([primary]), time.monotonic)
        chain = interceptors(
            config.rpc,
            authenticator=authenticator(config.environment),
            tenants=PostgresTenants(primary),
            tenantless=TENANTLESS,
        )
        server = new_server(config.rpc, chain)
        hotcache_service_pb2_grpc.add_HotCacheServiceServicer_to_server(parts.servicer, server)
        await serve(
            server,
            config.rpc,
            services=[SERVICE.full_name],
            # Not Valkey: without it every read is answered from the primary, within bounds.
            readiness={"primary": primary.check, "rights": rights.guard(primary)},
            background={"watcher": parts.watcher.run, "checker": parts.checker.run},
        )


if __name__ == "__main__":
    run(main)
