"""A server from its first breath to its last."""

import asyncio
import gc
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from atlas_common.background import Supervisor, Work
from atlas_common.config import RpcConfig
from atlas_common.errors import FatalError
from atlas_common.rpc.health import HealthServicer
from atlas_common.rpc.readiness import Check, Readiness
from atlas_common.rpc.scope import Scope, ScopedServer
from atlas_common.rpc.tls import server_credentials
from atlas_common.telemetry.logs import logger

_log = logger(__name__)
_YOUNG_OBJECTS_MAX = 10_000  # A call makes hundreds: by default every other one is held up.
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def new_server(config: RpcConfig, scopes: Sequence[Scope] = ()) -> grpc.aio.Server:
    """A server with our bounds, whose calls run in the scopes.

    Bound to the running loop, so make it inside main().
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            # Two processes on one port would share the calls between them without a word.
            ("grpc.so_reuseport", 0),
            # Peers ping every 20 s to notice a connection that died silently: let them.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # And so do we: who takes nothing off the wire, or is gone without a word, would keep
            # what is sent to him in memory, and his calls at work.
            ("grpc.keepalive_time_ms", int(config.keepalive_seconds * 1000)),
            ("grpc.http2.ping_timeout_ms", int(config.keepalive_timeout_seconds * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
        ],
    )
    return ScopedServer(server, scopes, stalled_seconds=config.stalled_reader_seconds)


async def serve(
    server: grpc.aio.Server,
    config: RpcConfig,
    *,
    services: Sequence[str],
    readiness: Mapping[str, Check] | None = None,
    background: Mapping[str, Work] | None = None,
    on_drain: Callable[[], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT (or `stop`), then drain: NOT_SERVING, finish calls, stop.

    `services` are full names, for health and reflection. Background tasks start before the first
    call and stop after the last. `on_drain` is called as the drain begins, to end streams that
    would not end by themselves. A second signal ends the drain at once. Raises FatalError if the
    address cannot be bound, or when a check or a background task raises it.
    """
    health = HealthServicer(services)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    plain = _health_server(health, config)
    reflection.enable_server_reflection([*services, _HEALTH, reflection.SERVICE_NAME], server)
    address = _bind(server, config)
    stopping = stop or asyncio.Event()
    hurry = asyncio.Event()
    with _signals(stopping, hurry):
        async with Supervisor() as tasks:
            for name, work in (background or {}).items():
                tasks.start(name, work)
            try:
                _spare_garbage_collection()
                await server.start()
                if plain is not None:
                    await plain.start()
                tasks.start("readiness", Readiness(readiness or {}, health, config).run)
                _announce(address, config)
                await stopping.wait()
            finally:
                # Also when a fatal error or a cancellation ends the wait.
                if on_drain is not None:
                    on_drain()
                await _drain(server, health, hurry, config.grace_seconds)
                if plain is not None:
                    await plain.stop(None)
    _log.info("stopped", address=address)


async def _drain(
    server: grpc.aio.Server, health: HealthServicer, hurry: asyncio.Event, grace_seconds: float
) -> None:
    _log.info("draining", grace_seconds=grace_seconds)
    await health.close()
    stopped = asyncio.ensure_future(server.stop(grace_seconds))
    hurried = asyncio.ensure_future(hurry.wait())
    try:
        await asyncio.wait({stopped, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await server.stop(None)  # Calls under way are cancelled.
        await stopped
    finally:
        hurried.cancel()


def _spare_garbage_collection() -> None:
    """Never again look through what lives as long as the process.

    Modules, contracts and configuration are 90,000 objects: a full collection that goes through
    them holds all calls up for 70 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS_MAX, *gc.get_threshold()[1:])


def _health_server(health: HealthServicer, config: RpcConfig) -> grpc.aio.Server | None:
    """A server for probes, which have no certificate: those of Docker and Kubernetes."""
    if config.health_port is None:
        return None
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    _listen(server, config.host, config.health_port, None, "ATLAS_RPC__HEALTH_PORT")
    return server


def _bind(server: grpc.aio.Server, config: RpcConfig) -> str:
    own: grpc.ServerCredentials | None = None
    if config.tls is not None:
        is_shared = config.tls.client_ca_file is not None and config.peer_port is None
        own = server_credentials(config.tls, asks_for_certificates=is_shared)
        if config.peer_port is not None:
            peers = server_credentials(config.tls, asks_for_certificates=True)
            _listen(server, config.host, config.peer_port, peers, "ATLAS_RPC__PEER_PORT")
    port = _listen(server, config.host, config.port, own, "ATLAS_RPC__PORT")
    return f"{config.host}:{port}"


def _listen(
    server: grpc.aio.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials | None,
    variable: str,
) -> int:
    address = f"{host}:{port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise FatalError(f"ATLAS_RPC__HOST, {variable}: cannot listen on {address}") from error


def _announce(address: str, config: RpcConfig) -> None:
    if config.port_file is not None:
        path = Path(config.port_file)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(f"{address}\n", encoding="utf-8")
        partial.replace(path)  # Whoever waits for the file never sees half of it.
    _log.info("serving", address=address)


@contextmanager
def _signals(stopping: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stopping`, the second one `hurry`."""

    def received() -> None:
        (hurry if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, received)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
