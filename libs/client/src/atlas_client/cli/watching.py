"""atlas watch."""

from datetime import timedelta
from typing import Annotated

import typer

from atlas_client.cli import exits, literals
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json, shown
from atlas_client.records import WatchEvent

app = typer.Typer()


@app.command(epilog=exits.EPILOG)
@connected()
async def watch(
    context: Context,
    *,
    entities: Annotated[list[str], typer.Argument(metavar="ENTITY...")],
    attributes: Annotated[
        list[str] | None, typer.Option("--attribute", "-a", help="Only these; may be repeated.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Cold attributes, too, not only the hot ones.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Go on after this resume_token, or any token (base64)."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Stop after so many readings; 0: never.")
    ] = 0,
    heartbeat: Annotated[
        str, typer.Option("--heartbeat", help="Sign of life while nothing changes.")
    ] = "5s",
) -> int:
    """Show the latest values of entities, then every change, until interrupted.

    With --json, one object per message, signs of life included; its resume_token is for --resume.

    Example: atlas watch pump-1 pump-2 -a rpm --tenant acme
    """
    stream = context.client.watch(
        entities,
        attributes=attributes or (),
        include_cold=everything,
        resume_token=literals.decode_token(resume),
        heartbeat=literals.span(heartbeat),
        patience=timedelta(minutes=1),
    )
    seen = 0
    try:
        async for event in stream:
            if context.as_json:
                print_json(event)
            else:
                _show(event)
            seen += sum(len(state.readings) for state in event.entities)
            if limit and seen >= limit:
                break
    finally:
        await stream.aclose()
    return exits.OK


def _show(event: WatchEvent) -> None:
    if event.snapshot_reason:
        note(f"a snapshot, since {event.snapshot_reason}")
    if event.coalesced_count:
        note(f"{event.coalesced_count} changes were left out: this reader is too slow")
    for state in event.entities:
        for reading in state.readings:
            mark = "=" if event.snapshot else "+"
            typer.echo(
                f"{mark} {shown(reading.time)}  {state.entity}  {reading.attribute}"
                f"  {shown(reading.value)}"
            )
