"""atlas projection pin, report, decisions."""

from typing import Annotated

import typer

from atlas_client.cli import exits
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json, print_table
from atlas_client.projection import Pin, PromotionDecision, PromotionReport

commands = typer.Typer()
"""What `atlas projection` can do besides jobs."""


@commands.command(epilog=exits.EPILOG)
@connected()
async def pin(
    context: Context,
    attribute: Annotated[str, typer.Argument(help="Its name.")],
    how: Annotated[Pin, typer.Argument(metavar="hot|cold|none", help="none: the policy decides.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="For the audit log.")] = "",
) -> int:
    """Tell the automatic policy never to touch an attribute. This alone moves nothing.

    Example: atlas projection pin serial hot --reason "on the wall" --tenant acme

    Example: atlas projection pin serial none --tenant acme
    """
    pinned = await context.client.projection.pin(attribute, how, reason=reason)
    if context.as_json:
        print_json(pinned)
        return exits.OK
    state = "hot" if pinned.is_hot else "cold"
    print_table(("attribute", "pin", "is"), [(pinned.attribute, pinned.pin, state)])
    if pinned.pin is not Pin.NONE and pinned.pin != state:
        call = "promote" if pinned.pin is Pin.HOT else "demote"
        note(f"it stays {state} until: atlas projection {call} {attribute}")
    return exits.OK


@commands.command(epilog=exits.EPILOG)
@connected()
async def report(
    context: Context,
    *,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1000, help="Attributes, hot ones first.")
    ] = 50,
) -> int:
    """Show how attributes are read and written, and what the automatic policy makes of it.

    Example: atlas projection report --tenant acme

    Example: atlas projection report --limit 500 --json --tenant acme
    """
    found = await context.client.projection.report(limit=limit)
    if context.as_json:
        print_json(found)
    else:
        _show_report(found)
    return exits.OK


@commands.command(epilog=exits.EPILOG)
@connected()
async def decisions(
    context: Context,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Of the list.")] = 20,
) -> int:
    """Show who promoted, demoted and pinned what, and why, the newest first.

    Example: atlas projection decisions --tenant acme

    Example: atlas projection decisions --limit 200 --json --tenant acme
    """
    found: list[PromotionDecision] = []
    async for decision in context.client.projection.decisions():
        found.append(decision)
        if len(found) == limit:
            break
    if context.as_json:
        print_json(found)
    else:
        _show_decisions(found)
    return exits.OK


def _show_report(found: PromotionReport) -> None:
    print_table(
        (
            "attribute",
            "is",
            "pin",
            "reads",
            "filters",
            "refused",
            "points/h",
            "score",
            "does",
            "why",
        ),
        [
            (
                one.attribute,
                "hot" if one.is_hot else "cold",
                one.pin,
                one.read_count,
                one.filter_count,
                one.refused_filter_count,
                round(one.figures.points_per_hour),
                f"{one.figures.demote_score if one.is_hot else one.figures.promote_score:.2f}",
                one.action,
                one.why,
            )
            for one in found.attributes
        ],
    )
    note(
        f"promotion is {found.mode}; {found.hot_count} of at most {found.hot_max} attributes are"
        f" hot; {found.scope_read_count:,} reads of whatever is hot in {found.window_hours} h;"
        f" promotes from score {found.promote_score:g} on, demotes at {found.demote_score:g}"
    )


def _show_decisions(found: list[PromotionDecision]) -> None:
    print_table(
        ("decision", "at", "by", "action", "attribute", "outcome", "job", "why"),
        [
            (
                one.decision_id,
                one.decide_time,
                one.actor,
                one.action,
                one.attribute,
                one.outcome,
                one.job_id or "",
                one.why,
            )
            for one in found
        ],
    )
