"""`atlas bench`: how fast the platform is, as ratios to what this machine can do at all."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

app = typer.Typer(add_completion=False)
bench = typer.Typer(
    help="Measure ingest and reads against raw baselines.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(bench, name="bench")

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="ATLAS_STATE",
        help="State directory of a running `atlas up`; without it, a platform is started for this.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
RepeatsOption = Annotated[int, typer.Option(min=1, max=100, help="Runs of each kind.")]
SecondsOption = Annotated[float, typer.Option(min=0.5, max=600, help="Length of each run.")]
CallersOption = Annotated[
    int, typer.Option(min=1, max=1_000, help="Calls in flight at full speed.")
]
TenantsOption = Annotated[int, typer.Option(min=1, max=100, help="Tenants that are used.")]
EntitiesOption = Annotated[int, typer.Option(min=1, max=10_000, help="Entities of each tenant.")]


@bench.command()
def ingest(  # noqa: PLR0917 - typer makes options of them.
    state: StateOption = None,
    as_json: JsonOption = False,
    seconds: SecondsOption = 5.0,
    repeats: RepeatsOption = 5,
    callers: CallersOption = 16,
    points_per_second: Annotated[
        float, typer.Option("--rate", min=1, help="Points per second offered by the open loop.")
    ] = 20_000.0,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Points of one Write.")] = 1_000,
    ack: Annotated[str, typer.Option(help="durable or committed.")] = "durable",
    tenants: TenantsOption = 3,
    entities: EntitiesOption = 200,
) -> None:
    """Write against binary COPY of the same points into the same table."""
    # Imported where it is used: every `atlas` command loads this module.
    from atlas_bench.ingest import IngestOptions, measure  # noqa: PLC0415
    from atlas_bench.workload import Shape  # noqa: PLC0415

    if ack not in ("durable", "committed"):
        raise typer.BadParameter("want durable or committed", param_hint="--ack")

    def run() -> dict[str, Any]:
        shape = Shape(tenants=tenants, entities=entities, batch_points=batch)
        options = IngestOptions(
            seconds=seconds,
            repeats=repeats,
            callers=callers,
            points_per_second=points_per_second,
            ack=ack,
            shape=shape,
        )
        return measure(options, state)

    result = _told(run, as_json=as_json)
    if not result["verified"]["nothing_lost"]:
        raise typer.Exit(EXIT_FAILED)


@bench.command()
def read(  # noqa: PLR0917 - see ingest().
    state: StateOption = None,
    as_json: JsonOption = False,
    seconds: SecondsOption = 3.0,
    repeats: RepeatsOption = 5,
    callers: CallersOption = 16,
    calls_per_second: Annotated[
        float, typer.Option("--rate", min=1, help="Calls per second offered by the open loop.")
    ] = 100.0,
    tenants: TenantsOption = 3,
    entities: EntitiesOption = 200,
) -> None:
    """Reads of every tier against a bare gRPC echo of the same bytes."""
    from atlas_bench.read import ReadOptions, measure  # noqa: PLC0415 - see ingest().
    from atlas_bench.workload import Shape  # noqa: PLC0415

    def run() -> dict[str, Any]:
        options = ReadOptions(
            seconds=seconds,
            repeats=repeats,
            callers=callers,
            calls_per_second=calls_per_second,
            shape=Shape(tenants=tenants, entities=entities),
        )
        return measure(options, state)

    _told(run, as_json=as_json)


def _told(run: Callable[[], dict[str, Any]], *, as_json: bool) -> dict[str, Any]:
    from atlas_bench.errors import BenchError  # noqa: PLC0415 - see ingest().
    from atlas_bench.report import show  # noqa: PLC0415

    try:
        result = run()
    except BenchError as error:
        print(f"atlas: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        print(json.dumps(result))
    else:
        show(result)
    return result
