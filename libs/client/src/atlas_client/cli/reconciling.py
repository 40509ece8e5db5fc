"""atlas reconcile: compare warehouse and source, show what differs, repair it."""

import getpass
import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from atlas_client.cli import exits
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json, print_table, shown
from atlas_client.records import (
    ColumnDifference,
    ReconcileSummary,
    RowDifference,
    RowVersion,
    TableResult,
    WindowDifferences,
    WindowResult,
)

# Of windows that agree no more than a table can show; of the others all.
_WINDOWS_SHOWN_MAX = 1_000
_PROGRESS_WINDOWS = 1_000
_DEFAULT = "run"
_NO_COLUMN = ColumnDifference("", None, None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _RunByDefault(TyperGroup):
    """`atlas reconcile --tenant acme` is `atlas reconcile run --tenant acme`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command where none is named."""
        if not args or (args[0] not in self.commands and args[0] not in {"-h", "--help"}):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer()
_group = typer.Typer(
    cls=_RunByDefault,
    help="Compare the warehouse with the source; show and repair what differs. Default: run.",
    epilog=exits.EPILOG,
)
app.add_typer(_group, name="reconcile")


@_group.command(name=_DEFAULT, epilog=exits.EPILOG)
@connected()
async def run(
    context: Context,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Compare again what was verified before.")
    ] = False,
    wait: Annotated[
        float, typer.Option("--wait", help="Seconds the whole comparison may take.")
    ] = 300.0,
) -> int:
    """Compare to the last row, and name the rows that differ. Exit code 1: some do.

    Example: atlas reconcile --tenant acme

    Example: atlas reconcile --tenant acme --from-start --json
    """
    reconciliation = context.client.reconcile(from_start=from_start, timeout=wait)
    windows: list[WindowResult] = []
    compared = 0
    async for window in reconciliation:
        compared += 1
        if compared % _PROGRESS_WINDOWS == 0:
            note(f"{compared:,} windows compared, up to {shown(window.end_time)}")
        if not window.matched or len(windows) < _WINDOWS_SHOWN_MAX:
            windows.append(window)
    summary = await reconciliation.summary()
    if context.as_json:
        print_json(
            {
                "matched": summary.matched,
                "summary": summary,
                "tables": reconciliation.tables,
                "windows": windows,
                "differences": reconciliation.differences,
            }
        )
    else:
        _show_tables(reconciliation.tables)
        _show(windows, reconciliation.differences, summary)
    return exits.OK if summary.matched else exits.REFUSED


@_group.command(epilog=exits.EPILOG)
@connected()
async def report(
    context: Context,
    report_id: Annotated[int, typer.Argument(min=0, help="Its number; 0: the newest.")] = 0,
    *,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows shown at most.")] = 1_000,
) -> int:
    """Show what an earlier comparison found. Exit code 1: it found something.

    Example: atlas reconcile report --tenant acme

    Example: atlas reconcile report 12 --tenant acme --json
    """
    found, differences = await context.client.get_reconciliation_report(report_id, rows_max=rows)
    if context.as_json:
        print_json({"report": found, "rows": differences})
    else:
        print_table(
            ("report", "cause", "made", "compared up to", "windows", "mismatched", "rows"),
            [
                (
                    found.report_id,
                    found.cause,
                    found.create_time,
                    found.through_time,
                    found.windows_compared,
                    found.windows_mismatched,
                    found.difference_count,
                )
            ],
        )
        _show_rows(differences)
        _say_more(found.complete and len(differences) == found.difference_count)
        if found.tables:
            _show_tables(found.tables)
    return exits.OK if found.matched else exits.REFUSED


@_group.command(epilog=exits.EPILOG)
@connected()
async def repair(
    context: Context,
    *,
    start: Annotated[
        datetime, typer.Option("--from", help="First time of ingestion (UTC). Default: 1970.")
    ] = _EPOCH,
    end: Annotated[
        datetime | None, typer.Option("--to", help="Time of ingestion (UTC). Default: now.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    operator: Annotated[
        str | None, typer.Option("--operator", help="For the audit log. Default: user@host.")
    ] = None,
    wait: Annotated[float, typer.Option("--wait", help="Seconds it may take.")] = 300.0,
) -> int:
    """Take the rows of windows that differ from the source anew. Exit code 1: some still differ.

    Example: atlas reconcile repair --tenant acme --dry-run

    Example: atlas reconcile repair --tenant acme --from 2026-03-01T12:00:00
    """
    repairing = context.client.repair_range(
        _utc(start),
        _utc(end or datetime.now(UTC)),
        operator=operator or f"{getpass.getuser()}@{socket.gethostname()}",
        dry_run=dry_run,
        timeout=wait,
    )
    windows = []
    async for window in repairing:
        windows.append(window)
        note(f"{shown(window.differences.start_time)}: {'would be ' if dry_run else ''}repaired")
    summary = await repairing.summary()
    if context.as_json:
        print_json({"dry_run": dry_run, "summary": summary, "windows": windows})
    else:
        print_table(
            ("window", "end", "rows that differ", "deleted", "inserted", "equal now"),
            [
                (
                    one.differences.start_time,
                    one.differences.end_time,
                    len(one.differences.rows),
                    one.rows_deleted,
                    one.rows_inserted,
                    one.matched,
                )
                for one in windows
            ],
        )
        if dry_run:
            _show_rows(row for one in windows for row in one.differences.rows)
        did = "to repair" if dry_run else "repaired"
        number = summary.windows_mismatched if dry_run else summary.windows_repaired
        note(
            f"{summary.windows_compared} windows compared, {number} {did},"
            f" verified through {shown(summary.verified_through)}"
        )
    return exits.OK if summary.windows_repaired == summary.windows_mismatched else exits.REFUSED


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _show(
    windows: list[WindowResult], differences: list[WindowDifferences], summary: ReconcileSummary
) -> None:
    print_table(
        ("window", "end", "source rows", "warehouse rows", "equal"),
        [
            (w.start_time, w.end_time, w.source.row_count, w.warehouse.row_count, w.matched)
            for w in windows
        ],
    )
    _show_rows(row for window in differences for row in window.rows)
    _say_more(all(window.complete for window in differences))
    print_table(
        ("copy", "rows", "checksum"),
        [
            ("source", summary.source.row_count, summary.source.checksum),
            ("warehouse", summary.warehouse.row_count, summary.warehouse.checksum),
        ],
    )
    verdict = "equal" if summary.matched else "DIFFERENT"
    through = shown(summary.verified_through)
    note(f"{verdict}: {summary.windows_compared} windows compared, verified through {through}")
    if summary.windows_mismatched:
        note("repair: atlas reconcile repair --dry-run")
    if summary.tables_mismatched:
        note("copy the catalog again: atlas pipeline backfill --table NAME")


def _show_tables(tables: Sequence[TableResult]) -> None:
    print_table(
        ("table", "source rows", "warehouse rows", "equal"),
        [(one.table, one.source.row_count, one.warehouse.row_count, one.matched) for one in tables],
    )
    cells = [
        (row.kind, table.table, row.key, column.name, column.source, column.warehouse)
        for table in tables
        for row in table.rows
        for column in row.columns or (_NO_COLUMN,)
    ]
    if cells:
        print_table(("row is", "table", "key", "column", "source", "warehouse"), cells)
    _say_more(all(table.complete for table in tables))


def _show_rows(rows: Iterable[RowDifference]) -> None:
    cells = [_cells(row) for row in rows]
    if cells:
        heads = ("row is", "entity", "attribute", "time", "ingested", "source", "warehouse", "x")
        print_table(heads, cells)


def _cells(row: RowDifference) -> tuple[Any, ...]:
    return (
        row.kind,
        row.entity_id,
        row.attribute_id,
        row.event_time,
        row.ingest_time,
        _version(row.source),
        _version(row.warehouse),
        row.copies,
    )


def _version(version: RowVersion | None) -> str:
    if version is None:
        return "-"
    return f"{version.value} ({version.data_type or 'of an unknown type'}, {version.quality})"


def _say_more(complete: bool) -> None:
    if not complete:
        note("more rows differ than are shown")
