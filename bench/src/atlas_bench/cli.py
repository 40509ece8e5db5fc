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
    help="Measure ingest and reads against raw baselines, in the same run.",
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
RepeatsOption = Annotated[
    int | None, typer.Option(min=1, max=100, help="Runs of each kind. Default: 5.")
]
ProfileOption = Annotated[
    bool, typer.Option("--profile", help="Show where the time goes: Python and statements.")
]


_INGEST_EXAMPLES = """Examples:

atlas bench ingest --quick

atlas bench ingest --json > ingest.json

atlas bench ingest --only write_arrow,latency --repeats 3

atlas bench ingest --only write_stream --seconds 10 --profile
"""


@bench.command(epilog=_INGEST_EXAMPLES)
def ingest(  # noqa: PLR0917 - typer makes options of them.
    as_json: JsonOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less than a minute: short runs, few rows; rough.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            help="Scenarios, separated by commas: write_arrow, write_stream, write, staged_burst,"
            " vs_executemany, group_commit, latency, memory, growth. Default: all."
        ),
    ] = None,
    repeats: RepeatsOption = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.5, max=600, help="Length of each run at full speed. Default: 6."),
    ] = None,
    ack: Annotated[
        str, typer.Option(help="staged, committed or durable, where it is not the scenario's.")
    ] = "committed",
    growth_in_one: Annotated[
        bool,
        typer.Option(
            "--growth-in-one", help="Add the curve of growth within one partition (minutes more)."
        ),
    ] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything", help="Let replicas and the warehouse follow every row meanwhile."
        ),
    ] = False,
    profile: ProfileOption = False,
) -> None:
    """The write path against raw binary COPY of the same points, and against other ways to write.

    Starts a platform of its own in a temporary directory, and removes it. Progress goes to stderr.
    The exit code is 1 if a row that was acknowledged is not stored, or the other way round.
    """
    # Imported where it is used: every `atlas` command loads this module.
    from atlas_bench.ingest import chosen_options, measure  # noqa: PLC0415

    def run() -> dict[str, Any]:
        options = chosen_options(
            only=only,
            quick=quick,
            ack=ack,
            growth_in_one=growth_in_one,
            everything=everything,
            profile=profile,
            **_given(repeats=repeats, seconds=seconds),
        )
        return measure(options)

    result = _told(run, as_json=as_json)
    if not result["audit"]["equal"]:
        raise typer.Exit(EXIT_FAILED)


_READ_EXAMPLES = """Examples:

atlas bench read --quick

atlas bench read --json > read.json

atlas bench read --only hot,batch --repeats 3

atlas bench read --state .atlas --only filter

atlas bench read --only hot --repeats 1 --profile
"""


@bench.command(epilog=_READ_EXAMPLES)
def read(  # noqa: PLR0917 - see ingest().
    state: StateOption = None,
    as_json: JsonOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less than a minute: short runs, less data; rough.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            help="Scenarios, separated by commas: hot, batch, filter, jsonb, cold, history, router,"
            " noisy, under_ingest. Default: all."
        ),
    ] = None,
    repeats: RepeatsOption = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, max=600, help="Length of each run. Default: 4.")
    ] = None,
    profile: ProfileOption = False,
) -> None:
    """Reads of every tier: against bare gRPC, against rows asked by SQL, and by the clock.

    Starts a platform of its own in a temporary directory, and removes it. With --state it uses one
    that runs, stores what it reads there unless a run before has, and leaves it.
    """
    from atlas_bench.read import chosen_options, measure  # noqa: PLC0415 - see ingest().

    def run() -> dict[str, Any]:
        given = _given(repeats=repeats, seconds=seconds)
        return measure(chosen_options(only=only, quick=quick, profile=profile, **given), state)

    _told(run, as_json=as_json)


_CDC_EXAMPLES = """Examples:

atlas bench cdc --quick

atlas bench cdc --json > cdc.json

atlas bench cdc --only freshness

atlas bench cdc --growth --rows 30000000
"""


@bench.command(epilog=_CDC_EXAMPLES)
def cdc(  # noqa: PLR0917 - see ingest().
    as_json: JsonOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less than a minute: short runs, few rows; rough.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            help="Scenarios, separated by commas: debezium, backlog, analytics (needs backlog),"
            " live, freshness. Default: all."
        ),
    ] = None,
    repeats: RepeatsOption = None,
    rows: Annotated[
        int | None, typer.Option(min=100_000, help="Rows of the backlog. Default: 10 million.")
    ] = None,
    growth: Annotated[
        bool,
        typer.Option("--growth", help="Only a backlog of 30 million rows, and what grows with it."),
    ] = False,
    profile: ProfileOption = False,
) -> None:
    """From the log into the warehouse, and reads of the warehouse against Postgres.

    Starts a platform of its own in a temporary directory, and removes it. Progress goes to stderr.
    """
    from atlas_bench.cdc import chosen_options, measure  # noqa: PLC0415 - see ingest().

    def run() -> dict[str, Any]:
        given = _given(repeats=repeats, rows=rows)
        return measure(
            chosen_options(only=only, quick=quick, growth=growth, profile=profile, **given)
        )

    _told(run, as_json=as_json)


_RECONCILE_EXAMPLES = """Examples:

atlas bench reconcile --quick

atlas bench reconcile --json > reconcile.json

atlas bench reconcile --only full,incremental --rows 3000000 --repeats 3
"""


@bench.command(epilog=_RECONCILE_EXAMPLES)
def reconcile(
    as_json: JsonOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less than a minute: few rows, no reladiff; rough.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            help="Scenarios, separated by commas: full, incremental, reladiff, ingest."
            " Default: all."
        ),
    ] = None,
    repeats: RepeatsOption = None,
    rows: Annotated[
        int | None,
        typer.Option(min=10_000, max=1_000_000_000, help="Rows compared. Default: 10 million."),
    ] = None,
) -> None:
    """The proof that the warehouse equals the source: against reladiff, from nothing, and again.

    Starts a platform of its own in a temporary directory, and removes it. Progress goes to stderr.
    """
    from atlas_bench.reconcile import chosen_options, measure  # noqa: PLC0415 - see ingest().

    def run() -> dict[str, Any]:
        given = _given(repeats=repeats, rows=rows)
        return measure(chosen_options(only=only, quick=quick, **given))

    _told(run, as_json=as_json)


def _given(**options: float | None) -> dict[str, float]:
    return {name: value for name, value in options.items() if value is not None}


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
