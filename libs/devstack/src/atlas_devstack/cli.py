"""`atlas up`, `atlas down`, `atlas status`: the platform on this machine."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from atlas_devstack.endpoints import Endpoints
from atlas_devstack.errors import CancelledError, DevstackError
from atlas_devstack.platform import DEFAULT_TENANTS, SERVICES
from atlas_devstack.request import UpRequest

if TYPE_CHECKING:
    from atlas_devstack.stack import Stack
    from atlas_devstack.status import StackStatus

EXIT_FAILED = 1
EXIT_NOT_READY = 1
EXIT_NOT_RUNNING = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, add_completion=False)

StateOption = Annotated[
    Path, typer.Option("--state", help="Directory with the stack's data, logs and secrets.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def up(  # noqa: PLR0917 - typer makes options of them.
    state: StateOption = Path(".atlas"),
    as_json: JsonOption = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when ready; `atlas down` stops it.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh/--keep", help="Begin empty, or with the data of last time.")
    ] = False,
    tenants: Annotated[str, typer.Option(help="Tenants to make, separated by commas.")] = ",".join(
        DEFAULT_TENANTS
    ),
    services: Annotated[
        str, typer.Option(help="Services to start, separated by commas.")
    ] = ",".join(SERVICES),
    pg_dsn: Annotated[
        str | None,
        typer.Option(
            envvar="ATLAS_UP_PG_DSN", help="Administrator's DSN of a primary that runs already."
        ),
    ] = None,
    replica_dsn: Annotated[
        list[str] | None, typer.Option(help="A replica of that primary; may be repeated.")
    ] = None,
    valkey_url: Annotated[
        str | None,
        typer.Option(envvar="ATLAS_UP_VALKEY_URL", help="A Valkey or Redis that runs already."),
    ] = None,
    pg_bin_dir: Annotated[
        Path | None, typer.Option(help="Postgres' programs, instead of the wheel's.")
    ] = None,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="A Kafka broker too, with a topic that ingest reads.")
    ] = False,
    containers: Annotated[
        bool, typer.Option("--containers", help="Take the servers from a Docker engine.")
    ] = False,
    spans: Annotated[
        bool, typer.Option("--spans", help="Let services write spans to logs/*.spans.jsonl.")
    ] = False,
) -> None:
    """Start the whole platform on this machine."""
    # Imported where it is used: every `atlas` command loads this module, and a second of imports.
    from atlas_devstack.supervisor import start_detached, supervise  # noqa: PLC0415

    request = UpRequest(
        state=str(state.absolute()),
        services=_names(services),
        tenants=_names(tenants),
        pg_dsn=pg_dsn,
        replica_dsns=tuple(replica_dsn or ()),
        valkey_url=valkey_url,
        pg_bin_dir=str(pg_bin_dir.absolute()) if pg_bin_dir else None,
        kafka=kafka,
        containers=containers,
        fresh=fresh,
        spans=spans,
    )
    with _errors_told():
        if detach:
            _show_endpoints(start_detached(request), as_json=as_json)
            return
        _log_to_stderr()

        def announce(stack: "Stack") -> None:
            _show_endpoints(stack.endpoints, as_json=as_json)

        supervise(request, announce)


@app.command()
def down(
    state: StateOption = Path(".atlas"),
    purge: Annotated[bool, typer.Option("--purge", help="Delete the state with all data.")] = False,
) -> None:
    """Stop the platform of a state directory, and whatever a crash of it left."""
    from atlas_devstack.shutdown import shut_down  # noqa: PLC0415 - see up().

    with _errors_told():
        was_running = shut_down(state, purge=purge)
    print("stopped" if was_running else "nothing was running", file=sys.stderr)


@app.command()
def status(state: StateOption = Path(".atlas"), as_json: JsonOption = False) -> None:
    """Show what runs: exit code 0 when all is ready, 1 when not yet, 3 when nothing runs."""
    from atlas_devstack.status import read_status  # noqa: PLC0415 - see up().

    found = read_status(state)
    if as_json:
        print(found.to_json())
    else:
        _show_status(found)
    if not found.ready:
        raise typer.Exit(EXIT_NOT_READY if found.running else EXIT_NOT_RUNNING)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except CancelledError as error:
        print("atlas: interrupted; everything is stopped", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except DevstackError as error:
        print(f"atlas: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from error


def _log_to_stderr() -> None:
    began = time.monotonic()

    class Elapsed(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"{time.monotonic() - began:6.1f} s  {record.getMessage()}"

    handler = logging.StreamHandler()
    handler.setFormatter(Elapsed())
    logging.getLogger("atlas_devstack").addHandler(handler)


def _show_endpoints(endpoints: Endpoints, *, as_json: bool) -> None:
    if as_json:
        print(endpoints.to_json(), flush=True)
        return
    lines = {
        **endpoints.services,
        "postgres primary": endpoints.primary,
        **{f"replica-{number}": dsn for number, dsn in enumerate(endpoints.replicas, 1)},
        "valkey": endpoints.valkey or "-",
        **({"kafka": f"{endpoints.kafka} {endpoints.topic}"} if endpoints.kafka else {}),
        "warehouse": endpoints.warehouse,
        "tenants": ", ".join(endpoints.tenants) or "-",
    }
    for name, address in lines.items():
        print(f"{name:<18}{address}", flush=True)


def _show_status(found: "StackStatus") -> None:
    if not found.running:
        print("not running")
    table = Table("part", "pid", "state", "restarts", "memory", box=None, header_style="bold")
    for name, part in found.components.items():
        word = "ready" if part.ready else "running, not ready" if part.running else "dead"
        if part.gave_up:
            word = "dead, given up"
        table.add_row(
            name, str(part.pid), word, str(part.restarts), _mebibytes(part.resident_bytes)
        )
    if found.components:
        table.add_row("all", "", "", "", _mebibytes(found.resident_bytes))
        Console().print(table)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
