"""atlas write, atlas import."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from atlas_client.cli import exits, literals
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json, print_table
from atlas_client.errors import AtlasError
from atlas_client.importing import (
    Importer,
    ImportReport,
    MappingError,
    Progress,
    TimeUnit,
    UnreadableFileError,
    find_shape,
    open_table,
    parse_map,
)
from atlas_client.importing.importer import Notice
from atlas_client.records import AckLevel, Point
from atlas_client.values import from_us

app = typer.Typer()
_LINE_EVERY_SECONDS = 5.0


@app.command(epilog=exits.EPILOG)
@connected()
async def write(
    context: Context,
    *,
    entity: Annotated[str, typer.Argument()],
    assignments: Annotated[list[str], typer.Argument(metavar="ATTRIBUTE=VALUE...")],
    at: Annotated[
        str | None, typer.Option("--time", help="Event time, ISO 8601; default: now.")
    ] = None,
    ack: Annotated[AckLevel, typer.Option("--ack", help="When to answer.")] = AckLevel.DURABLE,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="Makes repeating this command safe.")
    ] = None,
) -> int:
    """Write values of one entity. Prints a token: give it to `atlas get --token`.

    Example: atlas write pump-1 rpm=1480 status=running --tenant acme
    """
    values = await literals.typed_assignments(context.client, assignments)
    moment = datetime.now(UTC) if at is None else from_us(literals.time_us(at))
    points = [Point(entity, name, value, moment) for name, value in values.items()]
    result = await context.client.write(points, ack=ack, request_id=request_id)
    if context.as_json:
        print_json(result)
    else:
        again = " (already stored before)" if result.duplicate else ""
        note(f"stored {result.accepted_count} points{again}")
        print_json(result.token)
    return exits.OK


@app.command("import", epilog=exits.EPILOG)
@connected()
async def import_(
    context: Context,
    *,
    file: Annotated[Path, typer.Argument(help="A CSV with a header line, or a Parquet file.")],
    mapping: Annotated[
        str,
        typer.Option("--map", metavar="ROLE=COLUMN,...", help="entity, attribute, time, value."),
    ] = "",
    entity_key: Annotated[
        str | None, typer.Option("--entity-key", help="All rows are of this entity.")
    ] = None,
    attribute: Annotated[
        str | None, typer.Option("--attribute", help="All values are of this attribute.")
    ] = None,
    time_unit: Annotated[
        TimeUnit, typer.Option("--time-unit", help="Of times that are bare numbers since 1970.")
    ] = TimeUnit.SECONDS,
    create_attributes: Annotated[
        bool,
        typer.Option(
            "--create-attributes/--no-create-attributes",
            help="Define attributes that are not there, with the type that fits all their values.",
        ),
    ] = True,
    hot: Annotated[
        list[str] | None, typer.Option("--hot", help="Define this attribute as hot; may repeat.")
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="Write rejected values here, as CSV to mend and import."),
    ] = None,
) -> int:
    """Load a CSV or Parquet file.

    A file has the columns entity, attribute, time, value; or others, named by --map; or one
    column per attribute ("wide"), when there is neither a column nor a name for the attribute.
    Times are ISO 8601 (UTC unless they say otherwise) or numbers. Running the same import again
    within 48 h stores nothing twice. Exit code 1: some rows were rejected; 2: unreadable.

    Example: atlas import points.parquet --tenant acme

    Example: atlas import taxi.csv --entity-key nyc --attribute taxi.rides --tenant acme

    Example: atlas import wide.csv --map entity=host,time=ts --tenant acme
    """
    try:
        table = open_table(file)
        shape = find_shape(
            table.column_names, parse_map(mapping), entity_key=entity_key, attribute_name=attribute
        )
        with _notices() as notice:
            importer = Importer(
                context.client,
                file,
                table,
                shape,
                unit=time_unit,
                create_attributes=create_attributes,
                hot=frozenset(hot or ()),
                rejects_file=rejects,
                notice=notice,
            )
            try:
                report = await importer.run()
            except (AtlasError, UnreadableFileError):
                stored = importer.report.points_stored
                note(f"atlas: stopped after {stored:,} points; the same command goes on from there")
                raise
    except (UnreadableFileError, MappingError, OSError) as error:
        raise exits.fail(str(error), exits.USAGE) from error
    if context.as_json:
        print_json(_summary(report))
    else:
        _show(report, rejects)
    return exits.REFUSED if report.points_rejected else exits.OK


@contextmanager
def _notices() -> Iterator[Notice]:
    """A progress bar on a terminal, else a line on stderr now and then."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[points]:,} points"),
        TimeElapsedColumn(),
    )
    with ProgressBar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", points=0)

        def notice(step: str, progress: Progress, report: ImportReport) -> None:
            bar.update(
                task,
                description=step,
                total=progress.total,
                completed=progress.done,
                points=report.points_stored,
            )

        yield notice


class _Lines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, step: str, progress: Progress, report: ImportReport) -> None:
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_SECONDS:
            self._last = now
            share = f"{progress.done / progress.total:.0%}, " if progress.total else ""
            note(
                f"{step}: {share}{report.points_stored:,} points stored,"
                f" {report.points_rejected:,} rejected"
            )


def _summary(report: ImportReport) -> dict[str, object]:
    return {
        "points": {
            "stored": report.points_stored,
            "duplicate": report.duplicate_points,
            "rejected": report.points_rejected,
        },
        "batches": report.batches,
        "reasons": dict(report.reasons),
        "rejected": [
            {
                "row": one.row,
                "attribute": one.attribute,
                "reason": one.reason,
                "message": one.message,
            }
            for one in report.rejected
        ],
        "attributes_created": report.attributes_created,
        "token": report.token,
    }


def _show(report: ImportReport, rejects: Path | None) -> None:
    again = report.duplicate_points
    known = f" ({again:,} of them already by an earlier run)" if again else ""
    note(f"stored {report.points_stored:,} points{known}, rejected {report.points_rejected:,}")
    if created := report.attributes_created:
        shown = ", ".join(f"{name} ({kind})" for name, kind in list(created.items())[:20])
        note(f"defined {len(created)} attributes: {shown}{' ...' if len(created) > 20 else ''}")
    if not report.points_rejected:
        return
    print_table(
        ("row", "attribute", "reason", "message"),
        [(one.row, one.attribute, one.reason, one.message) for one in report.rejected],
    )
    hidden = report.points_rejected - len(report.rejected)
    if hidden:
        where = f"all are in {rejects}" if rejects else "--rejects FILE writes all"
        note(f"and {hidden:,} more; {where}")
    note("rejected by reason: " + ", ".join(f"{k} {v:,}" for k, v in report.reasons.most_common()))
