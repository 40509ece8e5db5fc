"""`python -m atlas_ingest`: the ingest service."""

from contextlib import AsyncExitStack

from atlas_common import telemetry
from atlas_common.config import load
from atlas_common.rpc import authenticator, call_chain, new_server, run, serve
from atlas_ingest.config import Config
from atlas_ingest.wiring import CATALOG, INGEST, TENANTLESS, wire


async def main() -> None:
    """Serve until SIGTERM."""
    config = load(Config)  # The environment is read here and nowhere else.
    async with AsyncExitStack() as stack:
        stack.enter_context(telemetry.setup("ingest", config.telemetry, instance=config.instance))
        ingest = await stack.enter_async_context(wire(config))
        chain = call_chain(
            config.rpc,
            authenticator=authenticator(config.environment),
            tenants=ingest.tenants,
            tenantless=TENANTLESS,
        )
        server = new_server(config.rpc, chain)
        ingest.add_to(server)
        await serve(
            server,
            config.rpc,
            services=[INGEST, CATALOG],
            readiness=ingest.readiness,
            background=ingest.background,
            on_drain=ingest.streams.drain,
        )


if __name__ == "__main__":
    run(main)
