"""atlas tenants, attributes, tiers."""

from dataclasses import asdict, fields
from datetime import timedelta
from typing import Annotated

import typer

from atlas_client.cli import exits
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import print_json, print_table
from atlas_client.records import Quotas, UnknownAttributes

app = typer.Typer()
_QUOTAS = tuple(each.name for each in fields(Quotas))
_COUNTS = {"entities", "attributes", "concurrent_streams"}


@app.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def tenants(
    context: Context,
    *,
    create: Annotated[
        str | None, typer.Option("--create", metavar="KEY", help="Make this tenant first.")
    ] = None,
    update: Annotated[
        str | None, typer.Option("--update", metavar="KEY", help="Change this tenant first.")
    ] = None,
    display_name: Annotated[
        str | None, typer.Option("--display-name", help="Of the tenant made or changed.")
    ] = None,
    unknown_attributes: Annotated[
        UnknownAttributes | None,
        typer.Option("--unknown-attributes", help="What becomes of points that bring new ones."),
    ] = None,
    retention_class: Annotated[
        str | None, typer.Option("--retention-class", help="How long its telemetry is kept.")
    ] = None,
    late_days: Annotated[
        float | None,
        typer.Option("--late-days", min=0, help="How old a point may be; 0: as the platform says."),
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(
            "--quota",
            metavar="NAME=NUMBER",
            help=f"All of its own quotas, one each time, or none. Names: {', '.join(_QUOTAS)}.",
        ),
    ] = None,
) -> int:
    """List the tenants.

    Example: atlas tenants --create hooli --unknown-attributes register

    Example: atlas tenants --update hooli --retention-class standard --late-days 30

    Example: atlas tenants --update hooli --quota calls_per_second=100 --quota entities=5000
    """
    quotas = None if quota is None else _quotas(quota)
    late_data_window = None if late_days is None else timedelta(days=late_days)
    if create is not None:
        await context.client.create_tenant(
            create,
            display_name=display_name or "",
            unknown_attributes=unknown_attributes or UnknownAttributes.REJECT,
            retention_class=retention_class or "",
            late_data_window=late_data_window or None,
            quotas=quotas,
        )
    if update is not None:
        await context.client.update_tenant(
            update,
            display_name=display_name,
            unknown_attributes=unknown_attributes,
            retention_class=retention_class,
            late_data_window=late_data_window,
            quotas=quotas,
        )
    found = [tenant async for tenant in context.client.list_tenants()]
    if context.as_json:
        print_json(found)
    else:
        heads = ("id", "key", "name", "unknown attributes", "retention", "late data", "quotas")
        rows = [
            (
                t.tenant_id,
                t.key,
                t.display_name,
                t.unknown_attributes,
                t.retention_class,
                "" if t.late_data_window is None else str(t.late_data_window),
                _quotas_text(t.quotas),
            )
            for t in found
        ]
        print_table(heads, rows)
    return exits.OK


def _quotas(given: list[str]) -> Quotas:
    """The quotas in NAME=NUMBER each; "none" for none. Raises typer.BadParameter."""
    found: dict[str, float] = {}
    for text in given:
        if text == "none":
            continue
        name, _, number = text.partition("=")
        if name not in _QUOTAS:
            raise typer.BadParameter(f"--quota {text!r}: there are {', '.join(_QUOTAS)}")
        try:
            found[name] = int(number) if name in _COUNTS else float(number)
        except ValueError:
            raise typer.BadParameter(f"--quota {text!r}: write NAME=NUMBER") from None
    return Quotas(**found)  # type: ignore[arg-type]  # Counts are whole numbers.


def _quotas_text(quotas: Quotas) -> str:
    own = {name: value for name, value in asdict(quotas).items() if value is not None}
    return ", ".join(f"{name}={value:g}" for name, value in own.items())


@app.command(epilog=exits.EPILOG)
@connected()
async def attributes(context: Context) -> int:
    """List the attributes of a tenant.

    Example: atlas attributes --tenant acme
    """
    found = [attribute async for attribute in context.client.list_attributes()]
    if context.as_json:
        print_json(found)
    else:
        heads = ("name", "type", "hot", "unit", "min", "max", "pattern", "allowed")
        rows = [
            (
                a.name,
                a.data_type,
                "hot" if a.hot else "",
                a.unit,
                a.min_value,
                a.max_value,
                a.validation_regex,
                ", ".join(a.allowed_values),
            )
            for a in found
        ]
        print_table(heads, rows)
    return exits.OK


@app.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def tiers(context: Context) -> int:
    """Show where reads are served from, and how far each place is behind.

    Example: atlas tiers --json
    """
    found = await context.client.list_tiers()
    if context.as_json:
        print_json(found)
    else:
        heads = ("tier", "endpoint", "available", "lag (s)", "breaker", "note")
        rows = [(t.source, t.endpoint, t.available, t.lag, t.breaker, t.note) for t in found]
        print_table(heads, rows)
    return exits.OK if all(tier.available for tier in found) else exits.REFUSED
