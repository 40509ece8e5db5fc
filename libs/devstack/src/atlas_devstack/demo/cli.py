"""`atlas demo`."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

EXIT_WRONG = 1
EXIT_FAILED = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command(
    epilog="Exit codes: 0 everything holds; 1 something does not; 3 the platform could not be"
    " started or did not answer; 130 interrupted."
)
def demo(
    *,
    seconds: Annotated[float, typer.Option(min=1, help="How long to feed telemetry.")] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            help="State directory: the stack that runs there is used and left running, else one is"
            " started there. Without: one in a directory of its own, deleted at the end."
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave the stack running; `atlas down --state DIR` stops it."),
    ] = False,
    endpoints: Annotated[
        Path | None,
        typer.Option(
            help="File with what `atlas up --json` prints: the platform that runs there is used,"
            " and nothing is started."
        ),
    ] = None,
    tenants: Annotated[
        str, typer.Option(help="Tenants to feed, separated by commas; at least two.")
    ] = "acme,globex,initech",
) -> None:
    """Feed the platform with this host's own live telemetry, and prove that all of it is right.

    Starts everything (or uses --state), writes what psutil shows of every process, disk,
    interface, CPU and sensor for three tenants, reads it back at every tier while it goes, and
    compares every copy at the end.

    Example: atlas demo --seconds 60

    Example: atlas demo --seconds 20 --json | jq .points

    Example: atlas demo --endpoints ops/compose/endpoints.json
    """
    from atlas_devstack.demo.session import Where, run_session  # noqa: PLC0415 - see atlas --help's time.

    names = tuple(dict.fromkeys(name for part in tenants.split(",") if (name := part.strip())))
    if len(names) < 2:
        raise typer.BadParameter("at least two tenants, or nothing can be isolated")
    if endpoints is not None and (state is not None or keep):
        raise typer.BadParameter("--endpoints names what runs already: without --state, --keep")
    # A polite end is the same as Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = run_session(Where(state, keep, endpoints), names, seconds, quiet_stdout=as_json)
    except KeyboardInterrupt:
        typer.echo("atlas: interrupted", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if outcome is None:
        raise typer.Exit(EXIT_FAILED)
    if as_json:
        sys.stdout.write(json.dumps(outcome.to_json()) + "\n")
    if not outcome.ok:
        raise typer.Exit(EXIT_WRONG)
