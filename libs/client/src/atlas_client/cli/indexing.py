"""atlas projection index, drop-index, indexes: indexes of cold attributes."""

from collections.abc import Sequence
from typing import Annotated

import typer

from atlas_client.cli import exits
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json, print_table
from atlas_client.projection import AttributeIndex, IndexState

app = typer.Typer()
"""Its commands become commands of `atlas projection`."""

AttributeArgument = Annotated[str, typer.Argument(help="Its name.")]
DetachOption = Annotated[
    bool, typer.Option("--detach", "-d", help="Do not wait: the work goes on without us.")
]


@app.command(epilog=exits.EPILOG)
@connected()
async def index(
    context: Context,
    attribute: AttributeArgument,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate what it costs, and change nothing.")
    ] = False,
    detach: DetachOption = False,
) -> int:
    """Index a cold attribute, online, so that `atlas find` can ask for it.

    Interrupted, the work goes on; the same call follows it, and begins anew what failed.

    Example: atlas projection index serial --tenant acme --dry-run

    Example: atlas projection index serial --tenant acme
    """
    found = await context.client.projection.index(attribute, dry_run=dry_run)
    if dry_run:
        _answer(context, found)
        note(
            f"it would read about {found.scanned_point_estimate:,} points of"
            f" {found.partition_count:,} partitions and hold about"
            f" {found.indexed_point_estimate:,}"
        )
        return exits.OK
    return await _end(context, found, wanted=IndexState.READY, detach=detach)


@app.command(epilog=exits.EPILOG)
@connected()
async def drop_index(
    context: Context, attribute: AttributeArgument, *, detach: DetachOption = False
) -> int:
    """Drop the index of a cold attribute, online, or stop its being built.

    Example: atlas projection drop-index serial --tenant acme
    """
    found = await context.client.projection.drop_index(attribute)
    return await _end(context, found, wanted=IndexState.NONE, detach=detach)


@app.command(epilog=exits.EPILOG)
@connected()
async def indexes(context: Context) -> int:
    """List the indexes of cold attributes, and how far they are.

    Example: atlas projection indexes --tenant acme --json
    """
    found = await context.client.projection.indexes()
    if context.as_json:
        print_json(found)
    else:
        _show(found)
    return exits.OK


async def _end(context: Context, found: AttributeIndex, *, wanted: IndexState, detach: bool) -> int:
    if not found.is_over and detach:
        _answer(context, found)
        note(f"it goes on: atlas projection indexes, for {found.attribute}")
        return exits.OK
    said = ""
    async for seen in context.client.projection.follow_index(found.attribute):
        found = seen
        progress = _progress(found)
        if progress != said and not found.is_over:
            note(progress)
            said = progress
    _answer(context, found)
    if found.state is not wanted:
        note(f"the index of {found.attribute} is {found.state}: {found.message}")
        return exits.REFUSED
    return exits.OK


def _progress(found: AttributeIndex) -> str:
    done = f"{found.partitions_done:,} of {found.partition_count:,} partitions"
    waits = f", {found.message}" if found.message else ""
    return f"index of {found.attribute}: {found.state}, {done}{waits}"


def _answer(context: Context, found: AttributeIndex) -> None:
    if context.as_json:
        print_json(found)
    else:
        _show([found])


def _show(found: Sequence[AttributeIndex]) -> None:
    print_table(
        ("attribute", "state", "partitions", "bytes", "message", "since"),
        [
            (
                one.attribute,
                one.state,
                f"{one.partitions_done}/{one.partition_count}",
                one.byte_count,
                one.message,
                one.create_time,
            )
            for one in found
        ],
    )
