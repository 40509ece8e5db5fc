"""atlas pipeline status, pause, resume, recover, backfill."""

import getpass
from datetime import datetime
from typing import Annotated

import typer

from atlas_client.cli import exits, literals
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json, print_table
from atlas_client.records import CopyProgress, PipelineStatus
from atlas_client.values import from_us

app = typer.Typer()
_group = typer.Typer(
    help="The pipeline that feeds the warehouse from the primary's log.",
    no_args_is_help=True,
    epilog=exits.EPILOG,
)
app.add_typer(_group, name="pipeline")

ReasonOption = Annotated[str, typer.Option("--reason", help="For the audit.")]
OperatorOption = Annotated[
    str, typer.Option("--operator", help="Who asks, for the audit; default: who is logged in.")
]


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def status(context: Context) -> int:
    """Show how far the warehouse is, who leads, and how near the slot is to losing its log.

    Exit code 1 unless it streams.

    Example: atlas pipeline status --json
    """
    found = await context.client.pipeline_status()
    if context.as_json:
        print_json(found)
    else:
        _show(found)
    return exits.OK if found.phase in ("streaming", "backfilling") else exits.REFUSED


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def pause(
    context: Context, *, reason: ReasonOption = "", operator: OperatorOption = ""
) -> int:
    """Stop reading from the primary, until it is resumed. The slot keeps its log meanwhile.

    Example: atlas pipeline pause --reason "disk of the warehouse is replaced"
    """
    await context.client.pipeline.pause(operator=operator or _me(), reason=reason)
    return await _shown(context)


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def resume(
    context: Context, *, reason: ReasonOption = "", operator: OperatorOption = ""
) -> int:
    """Go on where it was paused; let a pipeline that stopped try again.

    Example: atlas pipeline resume
    """
    await context.client.pipeline.resume(operator=operator or _me(), reason=reason)
    return await _shown(context)


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def recover(
    context: Context, *, reason: ReasonOption = "", operator: OperatorOption = ""
) -> int:
    """Make the slot anew, copy what differs from the primary, go on from there.

    Returns when it has begun; `atlas pipeline status` tells how far it is.

    Example: atlas pipeline recover --reason "restored from a backup"
    """
    await context.client.pipeline.recover(operator=operator or _me(), reason=reason)
    return await _shown(context)


@_group.command(epilog=exits.EPILOG)
@connected(tenant=False)
async def backfill(
    context: Context,
    *,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", "-t", help="Only this one; may be repeated.")
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Only this one; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Ingested at or after: 2026-03-01T12:00:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Ingested before.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare the history, and change nothing.")
    ] = False,
    reason: ReasonOption = "",
    operator: OperatorOption = "",
) -> int:
    """Compare a part of the warehouse with the primary and copy what differs; the stream waits.

    Exit code 1 when --dry-run finds a difference. Interrupted, what was copied stays.

    Example: atlas pipeline backfill --tenant acme --dry-run

    Example: atlas pipeline backfill --table entity_values_ts --since 2026-03-01T00:00:00Z
    """
    done: CopyProgress | None = None
    async for done in context.client.pipeline.backfill(
        tenants=tenant or (),
        tables=table or (),
        start=_moment(since),
        end=_moment(until),
        dry_run=dry_run,
        operator=operator or _me(),
        reason=reason,
    ):
        note(f"{done.percent:.0f}%: {done.rows_compared:,} rows compared")
    assert done is not None, "a backfill ended without its outcome"
    if context.as_json:
        print_json(done)
    else:
        _show_copy(done)
    return exits.REFUSED if dry_run and done.spans_copied else exits.OK


async def _shown(context: Context) -> int:
    found = await context.client.pipeline_status()
    if context.as_json:
        print_json(found)
    else:
        note(f"{found.phase}{': ' if found.reason else ''}{found.reason}")
    return exits.OK


def _show(found: PipelineStatus) -> None:
    slot = found.slot
    print_table(
        ("phase", "reason", "as of", "lag (s)", "applied", "rows", "instance", "leader"),
        [
            (
                found.phase,
                found.reason,
                found.as_of,
                found.lag,
                found.applied_lsn,
                found.warehouse_rows,
                found.instance,
                found.leader,
            )
        ],
    )
    if slot is not None:
        print_table(
            ("slot", "log", "active", "kept bytes", "safe bytes", "used", "failover"),
            [
                (
                    slot.name,
                    slot.wal_status,
                    slot.active,
                    found.slot_retained_bytes,
                    slot.safe_bytes,
                    f"{slot.used_share:.1%}",
                    slot.failover,
                )
            ],
        )
    if found.copy is not None:
        _show_copy(found.copy)


def _show_copy(copy: CopyProgress) -> None:
    print_table(
        ("done", "tables", "tenants", "compared", "different", "copied", "rejected", "spans"),
        [
            (
                f"{copy.percent:.0f}%",
                f"{copy.tables_done}/{copy.tables_total}",
                f"{copy.tenants_done}/{copy.tenants_total}",
                copy.rows_compared,
                copy.rows_differing,
                copy.rows_copied,
                copy.rows_rejected,
                copy.spans_copied,
            )
        ],
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else from_us(literals.time_us(text))


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return "unknown"
