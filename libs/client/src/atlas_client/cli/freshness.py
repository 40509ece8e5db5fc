"""atlas wait, explain: which tier is how fresh, and what that means for a read."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Annotated

import typer

from atlas_client.cli import exits, literals
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.literals import ReadLevel
from atlas_client.cli.output import note, print_json, print_table
from atlas_client.consistency import OnUnmet, analytics, eventual
from atlas_client.records import ReadKind, RouteAction, Source, TierState

app = typer.Typer()


@app.command(epilog=exits.EPILOG)
@connected()
async def wait(
    context: Context,
    *,
    token: Annotated[str, typer.Argument(help="A freshness token (base64).")],
    tier: Annotated[Source, typer.Option("--tier", help="Which tier to wait for.")],
    endpoint: Annotated[
        str, typer.Option("--endpoint", help="One replica by its name, for example replica-1.")
    ] = "",
    all_replicas: Annotated[
        bool, typer.Option("--all-replicas", help="Every replica that answers, not any one.")
    ] = False,
    limit: Annotated[str, typer.Option("--for", help="How long to wait, for example 30s.")] = "2s",
) -> int:
    """Wait until a tier holds what a token stands for.

    Exit code 3 when it does not in time; where it stands is told.

    Example: atlas wait "$TOKEN" --tier replica --all-replicas --for 30s --tenant acme
    """
    patience = literals.span(limit)
    result = await context.client.wait_for(
        literals.decode_token(token),
        tier,
        endpoint=endpoint,
        all_replicas=all_replicas,
        wait_timeout=patience,
        timeout=patience.total_seconds() + 2.0,
    )
    if context.as_json:
        print_json(result)
    else:
        _show(result.tiers)
        note(f"after {result.waited.total_seconds():.3f} s")
    return exits.OK


@app.command(epilog=exits.EPILOG)
@connected()
async def explain(
    context: Context,
    *,
    kind: Annotated[ReadKind, typer.Option("--kind", help="What is read.")] = ReadKind.LATEST_HOT,
    level: Annotated[
        ReadLevel | None,
        typer.Option("--consistency", help="What the read must have seen; default: 3 s staleness."),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="See at least what this token holds (base64).")
    ] = None,
    max_staleness: Annotated[
        float | None, typer.Option("--max-staleness", help="Seconds; of --consistency eventual.")
    ] = None,
    on_unmet: Annotated[
        OnUnmet | None, typer.Option("--on-unmet", help="When no tier is fresh enough.")
    ] = None,
    limit: Annotated[str | None, typer.Option("--for", help="How long a read would wait.")] = None,
) -> int:
    """Show where a read would go now, and why. Nothing is read.

    Exit code 1 when it would fail.

    Example: atlas explain --kind history --max-staleness 0.5 --tenant acme
    """
    if kind is ReadKind.AGGREGATE:
        wanted = analytics(token=literals.decode_token(token))
    else:
        wanted = literals.consistency(level, token, max_staleness) or eventual()
    patience: timedelta | None = None if limit is None else literals.span(limit)
    wanted = replace(wanted, on_unmet=on_unmet, wait_timeout=patience)
    found = await context.client.explain_route(kind, consistency=wanted)
    if context.as_json:
        print_json(found)
    else:
        where = f" {found.endpoint}" if found.endpoint else ""
        typer.echo(f"{found.action or 'unknown'}{where}: {found.reason}")
        if found.on_unmet is not None:
            typer.echo(f"when no tier is fresh enough: {found.when_unmet}")
        tiers = [each.tier for each in found.candidates]
        _show(tiers, [each.verdict for each in found.candidates])
    return exits.REFUSED if found.action is RouteAction.FAIL else exits.OK


def _show(tiers: Iterable[TierState], verdicts: Iterable[str] | None = None) -> None:
    rows = [
        (t.source, t.endpoint, t.available, t.lag, t.position, t.fresh_in, t.breaker) for t in tiers
    ]
    heads = ("tier", "endpoint", "available", "lag (s)", "token", "fresh in (s)", "breaker")
    if verdicts is None:
        print_table(heads, rows)
    else:
        told = [(*row, verdict) for row, verdict in zip(rows, verdicts, strict=True)]
        print_table((*heads, "verdict"), told)
