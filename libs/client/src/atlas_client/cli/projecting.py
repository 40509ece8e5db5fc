"""atlas projection promote, demote, rebuild, verify, jobs, cancel; and those of promoting."""

from collections.abc import Sequence
from typing import Annotated

import typer

from atlas_client.cli import exits, indexing, promoting
from atlas_client.cli.connection import Context, connected
from atlas_client.cli.output import note, print_json, print_table
from atlas_client.projection import Difference, JobKind, JobState, ProjectionJob

app = typer.Typer()
_group = typer.Typer(
    help="Which attributes are hot, and whether the projection says what the points say.",
    no_args_is_help=True,
    epilog=exits.EPILOG,
)
_group.add_typer(promoting.commands)
app.add_typer(_group, name="projection")
_group.registered_commands += indexing.app.registered_commands

AttributeArgument = Annotated[str, typer.Argument(help="Its name.")]
EntitiesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ENTITY...]", help="Only these; default: all.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Count what would be touched, and change nothing.")
]
DetachOption = Annotated[
    bool, typer.Option("--detach", "-d", help="Do not wait: the job goes on without us.")
]


@_group.command(epilog=exits.EPILOG)
@connected()
async def promote(
    context: Context,
    attribute: AttributeArgument,
    *,
    dry_run: DryRunOption = False,
    detach: DetachOption = False,
) -> int:
    """Turn a cold attribute hot, online. Interrupted, the job goes on; the same call follows it.

    Example: atlas projection promote serial --tenant acme --dry-run

    Example: atlas projection promote serial --tenant acme
    """
    job = await context.client.projection.promote(attribute, dry_run=dry_run)
    return await _end(context, job, detach=detach)


@_group.command(epilog=exits.EPILOG)
@connected()
async def demote(
    context: Context,
    attribute: AttributeArgument,
    *,
    dry_run: DryRunOption = False,
    detach: DetachOption = False,
) -> int:
    """Turn a hot attribute cold: reads at once, its values in the projection go a little later.

    Example: atlas projection demote serial --tenant acme --detach
    """
    job = await context.client.projection.demote(attribute, dry_run=dry_run)
    return await _end(context, job, detach=detach)


@_group.command(epilog=exits.EPILOG)
@connected()
async def rebuild(
    context: Context,
    entities: EntitiesArgument = None,
    *,
    dry_run: DryRunOption = False,
    detach: DetachOption = False,
) -> int:
    """Make the projection anew from the points, online.

    Example: atlas projection rebuild --tenant acme --dry-run

    Example: atlas projection rebuild pump-1 pump-2 --tenant acme
    """
    job = await context.client.projection.rebuild(entities or (), dry_run=dry_run)
    return await _end(context, job, detach=detach)


@_group.command(epilog=exits.EPILOG)
@connected()
async def verify(
    context: Context,
    entities: EntitiesArgument = None,
    *,
    sample: Annotated[
        int, typer.Option("--sample", min=1, max=100, help="Percent of the entities.")
    ] = 100,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what differs, and look again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; so it is without --repair.")
    ] = False,
    detach: DetachOption = False,
) -> int:
    """Compare points, projection and cache. Exit code 1: something differs, and still does.

    Example: atlas projection verify --tenant acme --sample 10

    Example: atlas projection verify pump-1 --tenant acme --repair --json
    """
    job = await context.client.projection.verify(
        entities or (), sample_percent=sample, repair=repair and not dry_run
    )
    return await _end(context, job, detach=detach)


@_group.command(epilog=exits.EPILOG)
@connected()
async def jobs(
    context: Context,
    job_id: Annotated[int | None, typer.Argument(help="Show this one, with what differs.")] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for the end of the one shown.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Of the list.")] = 20,
) -> int:
    """List the jobs, the newest first, or show one.

    Example: atlas projection jobs --tenant acme

    Example: atlas projection jobs 12 --follow --tenant acme
    """
    admin = context.client.projection
    if job_id is not None:
        return await _end(context, await admin.job(job_id), detach=not follow)
    found: list[ProjectionJob] = []
    async for job in admin.jobs():
        found.append(job)
        if len(found) == limit:
            break
    if context.as_json:
        print_json(found)
    else:
        _show(found)
    return exits.OK


@_group.command(epilog=exits.EPILOG)
@connected()
async def cancel(context: Context, job_id: Annotated[int, typer.Argument()]) -> int:
    """Cancel a job; a promotion is undone. A demotion cannot be: promote again after its end.

    Example: atlas projection cancel 12 --tenant acme
    """
    job = await context.client.projection.cancel(job_id)
    _answer(context, job)
    return exits.OK


async def _end(context: Context, job: ProjectionJob, *, detach: bool) -> int:
    """Follow the job to its end, unless that is not wanted, and answer with it."""
    if not job.is_over and detach:
        _answer(context, job)
        note(f"job {job.job_id} goes on: atlas projection jobs {job.job_id} --follow")
        return exits.OK
    said = ""
    async for seen in context.client.projection.follow(job.job_id):
        job = seen
        progress = _progress(job)
        if progress != said and not job.is_over:
            note(progress)
            said = progress
    _answer(context, job)
    return _code(job)


def _code(job: ProjectionJob) -> int:
    if job.state is not JobState.DONE:
        return exits.REFUSED
    is_verdict = job.kind is JobKind.VERIFY
    return exits.REFUSED if is_verdict and job.differences_left > 0 else exits.OK


def _answer(context: Context, job: ProjectionJob) -> None:
    if context.as_json:
        print_json(job)
        return
    _show([job])
    if job.differences:
        _show_differences(job.differences)
    note(_summary(job))


def _progress(job: ProjectionJob) -> str:
    done = f"{job.entities_done:,} of about {job.entities_total:,} entities"
    waits = f", {job.message}" if job.message else ""
    return f"job {job.job_id} {job.kind} {job.attribute}: {job.step}, {done}{waits}"


def _summary(job: ProjectionJob) -> str:
    would = "would change" if job.dry_run else "changed"
    text = f"job {job.job_id} {job.kind} {job.state}: {would} {job.entities_changed:,} entities"
    if job.dry_run and job.attribute:
        text += f", {job.point_count:,} points, {job.byte_count:,} bytes"
    if job.differences_found:
        text += f"; {job.differences_found:,} differences, {job.differences_left:,} left"
    if job.uncompared_count:
        text += f"; {job.uncompared_count:,} cache entries not compared"
    return f"{text}; {job.message}" if job.message else text


def _show(found: Sequence[ProjectionJob]) -> None:
    print_table(
        ("job", "kind", "attribute", "state", "step", "done", "changed", "differ", "since"),
        [
            (
                job.job_id,
                f"{job.kind} (dry run)" if job.dry_run else job.kind,
                job.attribute,
                job.state,
                job.step,
                f"{job.entities_done}/{job.entities_total}",
                job.entities_changed,
                job.differences_found,
                job.create_time,
            )
            for job in found
        ],
    )


def _show_differences(differences: Sequence[Difference]) -> None:
    print_table(
        ("place", "kind", "entity", "attribute", "expected", "at", "found", "at"),
        [
            (
                one.place,
                one.kind,
                one.entity or one.entity_id,
                one.attribute,
                one.expected,
                one.expected_time,
                one.found,
                one.found_time,
            )
            for one in differences
        ],
    )
