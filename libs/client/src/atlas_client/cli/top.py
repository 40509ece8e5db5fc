"""atlas top: the platform, live."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from atlas_client import overview
from atlas_client.cli import exits
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import print_json
from atlas_client.cli.policies import ago_text, every_text, next_text, span_text
from atlas_client.overview import Overview, lag_text

app = typer.Typer()
_COLOURS = {"critical": "bold white on red", "warning": "black on yellow"}
_STATUS = {"success": "green", "failed": "bold red", "unfinished": "yellow", "running": "cyan"}


@app.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def top(
    context: Context,
    *,
    every: Annotated[
        float, typer.Option("--every", min=0.5, max=60, help="Seconds between two looks.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; implied by --json.")] = False,
) -> int:
    """Show tiers, staging, pipeline, proofs and policies, live, until Ctrl-C.

    With --once, exit code 1 if something is critical.

    Example: atlas top

    Example: atlas top --once --json
    """
    try:
        if context.as_json or once:
            return _told(context, await overview.take(context.client))
        with Live(console=Console(markup=False), screen=True, auto_refresh=False) as live:
            while True:
                live.update(render(await overview.take(context.client)), refresh=True)
                await asyncio.sleep(every)
    except overview.SignedOutError as error:
        raise exits.fail(str(error), exits.REFUSED) from None


def _told(context: Context, found: Overview) -> int:
    if context.as_json:
        print_json(found)
    else:
        Console(markup=False).print(render(found))
    return exits.REFUSED if found.is_critical else exits.OK


def render(found: Overview) -> RenderableType:
    """All of it, one below the other."""
    parts: list[RenderableType] = [_head(found)]
    parts += [_tiers(found), _numbers(found), _verifications(found), _policies(found)]
    return Group(*parts)


def _head(found: Overview) -> RenderableType:
    at = found.taken_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = Text(f"atlas · {at}\n", style="bold")
    if not found.banners:
        lines.append("all within budget", style="green")
    for banner in found.banners:
        lines.append(f" {banner.text} ", style=_COLOURS[banner.severity])
        lines.append("\n")
    return lines


def _tiers(found: Overview) -> RenderableType:
    table = _table("tier", "endpoint", "lag", "budget", "breaker", "note")
    for each in found.tiers or ():
        tier = each.tier
        is_well = tier.available and not each.over_budget
        table.add_row(
            tier.source or "?",
            tier.endpoint,
            Text(lag_text(tier.lag), style="green" if is_well else "bold red"),
            lag_text(each.budget),
            tier.breaker,
            tier.note,
        )
    return _panel("tiers", table, found.tiers)


def _numbers(found: Overview) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    staging, pipeline, cache = found.staging, found.pipeline, found.cache
    if staging is not None:
        table.add_row(
            "staging",
            f"{staging.backlog_points:,} points staged, lanes: {len(staging.lanes)},"
            f" {staging.pending_points:,} of {staging.pending_points_max:,} not durable yet",
        )
    if pipeline is not None:
        table.add_row(
            "pipeline",
            f"{pipeline.phase}, {pipeline.applied_total:,} of {pipeline.read_total:,} changes"
            f" applied, {pipeline.warehouse_rows:,} rows",
        )
        table.add_row("dead letters", f"{pipeline.dead_letters_open:,} open")
    if cache is not None:
        reads = cache.hits_total + cache.misses_total
        share = f"{100 * cache.hits_total / reads:.0f} % hits of {reads:,}" if reads else "no reads"
        table.add_row("cache", f"{'connected' if cache.connected else 'away'}, {share}")
    return _panel("flow", table, staging or pipeline or cache)


def _verifications(found: Overview) -> RenderableType:
    table = _table("tenant", "verified through", "age", "mismatched windows", "newest report")
    proofs = found.verifications
    for one in () if proofs is None else proofs.tenants:
        through = one.verified_through
        assert proofs is not None
        late = overview.is_late(proofs, through, found.taken_at) or one.windows_mismatched
        report = f"{one.report_id}: {one.report_differences} rows" if one.report_id else "-"
        table.add_row(
            one.tenant,
            "-" if through is None else through.strftime("%Y-%m-%d %H:%M:%S"),
            Text(
                "-" if through is None else span_text(datetime.now(UTC) - through),
                style="bold red" if late else "green",
            ),
            str(one.windows_mismatched),
            report,
        )
    return _panel("verified past", table, proofs)


def _policies(found: Overview) -> RenderableType:
    table = _table("policy", "for", "every", "next run", "last run", "status", "result", rest=True)
    for policy in found.policies or ():
        last = policy.last_run
        status = "-" if last is None else last.status
        table.add_row(
            f"{policy.policy_id} {policy.job}",
            ", ".join(policy.tenants) or "all",
            every_text(policy),
            next_text(policy),
            ago_text(last),
            Text(status, style=_STATUS.get(status, "")),
            "" if last is None else last.summary,
        )
    return _panel("policies", table, found.policies)


def _table(*heads: str, rest: bool = False) -> Table:
    """With `rest` the last column takes, and gives, what room there is."""
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    for head in heads:
        gives = rest and head == heads[-1]
        table.add_column(head, overflow="ellipsis", no_wrap=True, ratio=1 if gives else None)
    return table


def _panel(title: str, body: RenderableType, part: object) -> RenderableType:
    return Panel(
        Text("not known", style="red") if part is None else body,
        title=title,
        title_align="left",
        border_style="dim",
    )
