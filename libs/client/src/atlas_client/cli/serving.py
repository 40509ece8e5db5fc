"""atlas console: the page for operators."""

import asyncio
import ipaddress
import signal
import ssl
from pathlib import Path
from typing import Annotated

import typer

from atlas_client.cli import exits
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note

app = typer.Typer()


@app.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def console(
    context: Context,
    *,
    listen: Annotated[str, typer.Option("--listen", help="host:port")] = "127.0.0.1:7080",
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="host[:port] in browsers' addresses; may be repeated."),
    ] = None,
    listen_certificate: Annotated[
        Path | None, typer.Option("--listen-certificate", help="To serve the page by TLS.")
    ] = None,
    listen_key: Annotated[Path | None, typer.Option("--listen-key", help="Its key.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy beside it serves the page by TLS.")
    ] = False,
) -> int:
    """Serve a read-only page that shows the platform, until Ctrl-C or SIGTERM.

    It has no rights of its own: each browser's bearer token (scopes telemetry.read and
    platform.status) is handed on to the services, and nothing else is. --ca-file says whom of
    the services to believe; a token or certificate of this command line is not used.

    Example: atlas console --listen 127.0.0.1:7080
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise exits.fail(f"--listen {listen!r} is not host:port", exits.USAGE)
    tls = _tls(listen_certificate, listen_key)
    if tls is None and not behind_proxy and not _is_loopback(host):
        problem = f"tokens would cross the network to {host} in the clear"
        way_out = "give --listen-certificate and --listen-key, or --behind-proxy"
        raise exits.fail(f"{problem}: {way_out}", exits.USAGE)
    try:
        # An extra of the package: only here it has to be there.
        from aiohttp import web  # noqa: PLC0415

        from atlas_client.console.server import ConsoleOptions, application  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise exits.fail(f"install atlas-client[console]: {error}", exits.USAGE) from None
    names = frozenset(name or ()) | {listen}
    if _is_loopback(host):
        names |= {f"localhost:{port}"}
    runner = web.AppRunner(application(ConsoleOptions(context.endpoints, names)), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, int(port), ssl_context=tls).start()
        note(f"console on {'http' if tls is None else 'https'}://{listen}")
        await _terminated()
    except OSError as error:
        raise exits.fail(f"cannot listen on {listen}: {error}", exits.USAGE) from None
    finally:
        await runner.cleanup()
    return exits.OK


async def _terminated() -> None:
    """Return after SIGTERM: a container's first process that does not take it has to be killed."""
    signalled = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signalled.set)
    await signalled.wait()


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise exits.fail("--listen-certificate and --listen-key belong together", exits.USAGE)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise exits.fail(f"{certificate}, {key}: {error}", exits.USAGE) from None
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
