"""`python -m atlas_ingest`: the ingest service."""

from contextlib import AsyncExitStack

from atlas_common import telemetry
from atlas_common.config import load
from atlas_common.rpc import authenticator, call_chain, declared_access, new_server, run, serve
from atlas_common.secrets.opened import secrets_opened
from atlas_ingest.config import Config
from atlas_ingest.wiring import SERVICES, wire


async def main() -> None:
    """Serve until SIGTERM."""
    config = load(Config)  # The environment is read here and nowhere else.
    async with AsyncExitStack() as stack:
        stack.enter_context(
            telemetry.setup(
                "ingest", config.telemetry, instance=config.instance, settings=config.describe()
            )
        )
        await stack.enter_async_context(secrets_opened(config))
        identity = authenticator(config)
        ingest = await stack.enter_async_context(wire(config))
        chain = call_chain(
            config.rpc,
            authenticator=identity,
            tenants=ingest.tenants,
            accesses=declared_access(SERVICES),
            meters=ingest.meters,
            audit=ingest.audit,
        )
        server = new_server(config.rpc, chain)
        ingest.add_to(server)
        await serve(
            server,
            config.rpc,
            services=[service.full_name for service in SERVICES],
            readiness={**ingest.readiness, **identity.readiness},
            background={**ingest.background, **identity.background},
            on_drain=ingest.streams.drain,
        )


if __name__ == "__main__":
    run(main)
