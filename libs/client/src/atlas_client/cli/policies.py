"""atlas policy list, add, alter, remove, run."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from atlas_client.cli import exits, literals
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import print_json, print_table
from atlas_client.policies import Policy, PolicyRun
from atlas_client.values import from_us

app = typer.Typer()
_group = typer.Typer(
    help="What the platform does by itself again and again: partitions, retention, verification.",
    no_args_is_help=True,
    epilog=exits.EPILOG,
)
app.add_typer(_group, name="policy")

PolicyArgument = Annotated[int, typer.Argument(metavar="ID", help="Of `atlas policy list`.")]


@_group.command("list", epilog=exits.EPILOG)
@connected(tenant=False)
async def list_policies(context: Context) -> int:
    """Show all policies: how often, for whom, what came of the last run, when the next is.

    Exit code 1 if the last run of one failed.

    Example: atlas policy list --json
    """
    found = await context.client.policies.list()
    if context.as_json:
        print_json(found)
    else:
        _show(found)
    failed = any(each.last_run is not None and each.last_run.status == "failed" for each in found)
    return exits.REFUSED if failed else exits.OK


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def add(
    context: Context,
    job: Annotated[str, typer.Argument(help="One of `atlas policy list`.")],
    *,
    every: Annotated[str, typer.Option("--every", help="For example 6h or 7d.")],
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", "-t", help="Only this one; may be repeated.")
    ] = None,
    first: Annotated[
        str | None, typer.Option("--first", help="2026-03-01T02:00:00Z; default: after --every.")
    ] = None,
) -> int:
    """Have a job done also at another interval, or for some tenants.

    Example: atlas policy add full_reconciliation --every 7d --tenant acme
    """
    made = await context.client.policies.add(
        job,
        literals.span(every),
        tenants=tenant or (),
        first=None if first is None else from_us(literals.time_us(first)),
    )
    return _shown(context, made)


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def alter(
    context: Context,
    policy_id: PolicyArgument,
    *,
    every: Annotated[
        str | None,
        typer.Option("--every", help="For example 6h; or `default`: as the service's settings."),
    ] = None,
    on: Annotated[
        bool | None, typer.Option("--on/--off", help="Whether it runs by itself at all.")
    ] = None,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", "-t", help="Only this one; may be repeated.")
    ] = None,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="For all tenants there are.")
    ] = False,
    next_start: Annotated[
        str | None, typer.Option("--next", help="Of the next run: 2026-03-01T02:00:00Z.")
    ] = None,
) -> int:
    """Change how often a policy runs, for whom, or whether it does.

    Example: atlas policy alter 3 --every 12h

    Example: atlas policy alter 3 --off
    """
    is_default = every == "default"
    changed = await context.client.policies.alter(
        policy_id,
        every=None if every is None or is_default else literals.span(every),
        every_from_settings=is_default,
        scheduled=on,
        tenants=() if all_tenants else tenant,
        next_start=None if next_start is None else from_us(literals.time_us(next_start)),
    )
    return _shown(context, changed)


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def remove(context: Context, policy_id: PolicyArgument) -> int:
    """Take away a policy that was added.

    Example: atlas policy remove 9
    """
    await context.client.policies.remove(policy_id)
    if context.as_json:
        print_json({"removed": policy_id})
    return exits.OK


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def run(
    context: Context,
    policy_id: PolicyArgument,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would do, and do nothing.")
    ] = False,
    limit: Annotated[str, typer.Option("--for", help="How long to wait for its end.")] = "60s",
) -> int:
    """Have a policy run now, and show what came of it. Exit code 1 unless it succeeded.

    Example: atlas policy run 2 --dry-run
    """
    patience = literals.span(limit).total_seconds()
    try:
        ended = await context.client.policies.run(policy_id, dry_run=dry_run, wait_timeout=patience)
    except TimeoutError:
        hint = "it goes on, see: atlas policy list"
        raise exits.fail(f"no end within {patience:g} s; {hint}", exits.UNAVAILABLE) from None
    if context.as_json:
        print_json(ended)
    else:
        typer.echo(f"{ended.status}: {ended.summary}")
    return exits.OK if ended.status == "success" else exits.REFUSED


def _shown(context: Context, policy: Policy) -> int:
    if context.as_json:
        print_json(policy)
    else:
        _show([policy])
    return exits.OK


def _show(policies: list[Policy]) -> None:
    heads = ("id", "job", "tenants", "every", "next run", "last run", "status", "result")
    print_table(heads, [_row(each) for each in policies])


def _row(policy: Policy) -> tuple[str, ...]:
    last = policy.last_run
    return (
        str(policy.policy_id),
        policy.job if policy.default else f"  {policy.job}",
        ", ".join(policy.tenants) or "all",
        every_text(policy),
        next_text(policy),
        ago_text(last),
        "-" if last is None else last.status,
        "" if last is None else last.summary,
    )


def every_text(policy: Policy) -> str:
    """How often, for people."""
    if not policy.scheduled:
        return "off"
    if policy.schedule_interval is None:
        return "never"
    shown = span_text(policy.schedule_interval)
    return shown if policy.interval_from_settings else f"{shown} *"


def next_text(policy: Policy) -> str:
    """When the next run is, for people."""
    if policy.requested:
        return "now"
    if policy.next_start_time is None:
        return "-"
    left = policy.next_start_time - datetime.now(UTC)
    return "now" if left <= timedelta() else f"in {span_text(left)}"


def ago_text(run: PolicyRun | None) -> str:
    """When the last run ended, for people."""
    if run is None:
        return "never"
    if run.end_time is None:
        return "now"
    return f"{span_text(max(timedelta(), datetime.now(UTC) - run.end_time))} ago"


def span_text(span: timedelta) -> str:
    """A span in its largest unit that makes at least one."""
    seconds = span.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.0f} s"
