"""atlas get, history, find, aggregate."""

from datetime import datetime, timedelta
from typing import Annotated

import typer

from atlas_client.cli import exits, literals
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.literals import ReadLevel
from atlas_client.cli.output import note, print_json, print_table, shown
from atlas_client.consistency import analytics
from atlas_client.records import (
    AggregateFunction,
    Bucket,
    BucketFunction,
    EntityState,
    ReadMetadata,
)
from atlas_client.streams import ReadStream
from atlas_client.values import from_us

app = typer.Typer()

ConsistencyOption = Annotated[
    ReadLevel | None,
    typer.Option("--consistency", help="What the read must have seen; default: 3 s staleness."),
]
TokenOption = Annotated[
    str | None, typer.Option("--token", help="See at least what this token holds (base64).")
]
StalenessOption = Annotated[
    float | None, typer.Option("--max-staleness", help="Seconds; with --consistency eventual.")
]
AttributesOption = Annotated[
    list[str] | None, typer.Option("--attribute", "-a", help="Only these; may be repeated.")
]
StartOption = Annotated[
    str | None, typer.Option("--start", help="From this event time on: ISO 8601, UTC by default.")
]
EndOption = Annotated[str | None, typer.Option("--end", help="Before this event time.")]


@app.command(epilog=exits.EPILOG)
@connected()
async def get(
    context: Context,
    *,
    entities: Annotated[list[str], typer.Argument(metavar="ENTITY...")],
    attributes: AttributesOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Cold attributes, too, not only the hot ones.")
    ] = False,
    level: ConsistencyOption = None,
    token: TokenOption = None,
    max_staleness: StalenessOption = None,
) -> int:
    """Show the latest values of entities.

    Example: atlas get pump-1 pump-2 --tenant acme --all --consistency strong
    """
    result = await context.client.get_entities(
        entities,
        attributes=attributes or (),
        include_cold=everything,
        consistency=literals.consistency(level, token, max_staleness),
    )
    if context.as_json:
        print_json(result)
    else:
        _show_states(result.entities)
        _show_source(result.metadata)
        for key in result.not_found:
            note(f"atlas: no entity {key!r}")
    return exits.REFUSED if result.not_found else exits.OK


@app.command(epilog=exits.EPILOG)
@connected()
async def find(
    context: Context,
    *,
    conditions: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONDITION...", help="ATTRIBUTE=VALUE, or with != < <= > >=."),
    ] = None,
    expressions: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            help="With and, or, not, parentheses, in (A, B), exists(ATTRIBUTE); may be repeated.",
        ),
    ] = None,
    attributes: AttributesOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Stop after so many.")] = 1000,
    level: ConsistencyOption = None,
    token: TokenOption = None,
    max_staleness: StalenessOption = None,
) -> int:
    """Find the entities whose hot, or indexed, attributes meet all conditions.

    Example: atlas find process.status=running 'tier>=3' --tenant acme

    Example: atlas find --where "status in (on, idle) and not (tier<3 or exists(serial))" --json

    A value with spaces or parentheses in it stands in quotes within --where: label='pump 3'.
    """
    where = await literals.where(context.client, conditions or (), expressions or ())
    stream = context.client.find_entities(
        where,
        attributes=attributes or (),
        page_size=min(limit, 1000),
        consistency=literals.consistency(level, token, max_staleness),
    )
    states: list[EntityState] = []
    async for state in stream:
        states.append(state)
        if len(states) == limit:
            break
    await stream.aclose()
    if context.as_json:
        print_json({"entities": states, "metadata": stream.metadata})
    else:
        _show_states(states)
        _show_source(stream.metadata)
    return exits.OK


@app.command(epilog=exits.EPILOG)
@connected()
async def history(
    context: Context,
    *,
    entity: Annotated[str, typer.Argument()],
    attributes: AttributesOption = None,
    start: StartOption = None,
    end: EndOption = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="0 is no limit.")] = 1000,
    bucket: Annotated[
        str | None, typer.Option("--bucket", help="Buckets so wide, for example 1m, not points.")
    ] = None,
    functions: Annotated[
        str | None,
        typer.Option("--functions", help="Of buckets: min, max, avg, last, first, count."),
    ] = None,
    level: ConsistencyOption = None,
    token: TokenOption = None,
    max_staleness: StalenessOption = None,
) -> int:
    """Show the points of an entity, or buckets of them, oldest first. With --json, one per line.

    Example: atlas history pump-1 -a rpm --start 2024-01-01T00:00 --tenant acme

    Example: atlas history pump-1 -a rpm --bucket 1m --functions avg,max --tenant acme
    """
    if bucket is not None:
        stream = context.client.history_buckets(
            entity,
            literals.span(bucket),
            wanted := _functions(functions),
            attributes=attributes or (),
            start=_moment(start),
            end=_moment(end),
            limit=limit,
            consistency=literals.consistency(level, token, max_staleness),
        )
        return await _show_buckets(context, stream, wanted)
    if functions is not None:
        raise typer.BadParameter("--functions are of buckets: say how wide with --bucket")
    points = context.client.history(
        entity,
        attributes=attributes or (),
        start=_moment(start),
        end=_moment(end),
        limit=limit,
        consistency=literals.consistency(level, token, max_staleness),
    )
    if context.as_json:
        async for reading in points:
            print_json(reading)
        return exits.OK
    rows = [(each.time, each.attribute, each.value, each.quality) async for each in points]
    print_table(("time", "attribute", "value", "quality"), rows)
    _show_source(points.metadata)
    return exits.OK


@app.command(epilog=exits.EPILOG)
@connected()
async def aggregate(
    context: Context,
    *,
    attributes: Annotated[list[str], typer.Argument(metavar="ATTRIBUTE...")],
    functions: Annotated[
        list[AggregateFunction] | None,
        typer.Option("--function", "-f", help="May be repeated; default: count."),
    ] = None,
    entities: Annotated[
        list[str] | None, typer.Option("--entity", "-e", help="Only these; may be repeated.")
    ] = None,
    start: StartOption = None,
    end: EndOption = None,
    bucket: Annotated[
        float | None, typer.Option("--bucket", min=0.001, help="Width of time buckets in seconds.")
    ] = None,
    by_entity: Annotated[bool, typer.Option("--by-entity", help="One row per entity.")] = False,
    percentiles: Annotated[
        list[float] | None,
        typer.Option("--percentile", "-p", min=0, max=100, help="0 to 100; may be repeated."),
    ] = None,
    by_quality: Annotated[bool, typer.Option("--by-quality", help="One row per quality.")] = False,
    token: TokenOption = None,
) -> int:
    """Aggregate over the warehouse.

    Example: atlas aggregate cpu.percent -f avg -f max -p 99 --bucket 60 --tenant acme
    """
    shares = tuple(percentiles or ())
    wanted = functions or ([] if shares else [AggregateFunction.COUNT])
    stream = context.client.aggregate(
        attributes,
        wanted,
        entities=entities or (),
        start=_moment(start),
        end=_moment(end),
        bucket=timedelta(seconds=bucket) if bucket else None,
        group_by_entity=by_entity,
        percentiles=shares,
        group_by_quality=by_quality,
        consistency=analytics(token=literals.decode_token(token)),
    )
    rows = [row async for row in stream]
    if context.as_json:
        print_json({"rows": rows, "metadata": stream.metadata})
        return exits.OK
    quality = ("quality",) if by_quality else ()
    print_table(
        ("entity", "attribute", "bucket", *quality, *wanted, *(f"p{each:g}" for each in shares)),
        [
            (
                row.entity,
                row.attribute,
                row.bucket_time,
                *(row.quality for _ in quality),
                *(row.results[each] for each in wanted),
                *(row.percentiles[each] for each in shares),
            )
            for row in rows
        ],
    )
    _show_source(stream.metadata)
    return exits.OK


def _functions(text: str | None) -> list[BucketFunction]:
    """Read "avg,max". Raises typer.BadParameter."""
    try:
        return [BucketFunction(name.strip()) for name in (text or "avg").split(",")]
    except ValueError:
        names = ", ".join(BucketFunction)
        raise typer.BadParameter(f"--functions {text!r}: choose among {names}") from None


async def _show_buckets(
    context: Context, stream: ReadStream[Bucket], functions: list[BucketFunction]
) -> int:
    if context.as_json:
        async for each in stream:
            print_json(each)
        return exits.OK
    rows = [
        (each.time, each.attribute, *(each.results[function] for function in functions))
        async for each in stream
    ]
    print_table(("time", "attribute", *functions), rows)
    _show_source(stream.metadata)
    return exits.OK


def _moment(text: str | None) -> datetime | None:
    return None if text is None else from_us(literals.time_us(text))


def _show_states(states: list[EntityState] | tuple[EntityState, ...]) -> None:
    rows = [
        (state.entity, reading.attribute, reading.value, reading.time)
        for state in states
        for reading in state.readings
    ]
    rows += [(state.entity, None, None, None) for state in states if not state.readings]  # type: ignore[misc]
    print_table(("entity", "attribute", "value", "time"), rows)


def _show_source(metadata: ReadMetadata | None) -> None:
    if metadata is None:
        return
    lag = "unknown" if metadata.lag is None else f"{metadata.lag.total_seconds():.3f} s"
    verified = f", verified through {shown(metadata.verified_through)}"
    note(
        f"from {metadata.source or 'an unknown tier'} {metadata.endpoint}, lag {lag}"
        f"{verified if metadata.verified_through else ''}: {metadata.route_reason}"
    )
    for warning in metadata.warnings:
        note(f"warning: {warning}")
