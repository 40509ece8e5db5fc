"""What policies have done in hotcache: promotion by reads, and verifying what it shows."""

import asyncio
from collections.abc import Sequence

from atlas_common.maintenance import Job, JobError, RunResult, listed
from atlas_common.tenant import Tenant
from atlas_hotcache.config import ProjectionConfig, PromotionConfig
from atlas_hotcache.projection.jobs import Job as ProjectionJob
from atlas_hotcache.projection.jobs import Kind, State
from atlas_hotcache.projection.runner import Runner
from atlas_hotcache.projection.store import JobDraft, JobStore
from atlas_hotcache.promotion.evaluator import Evaluator
from atlas_hotcache.promotion.policy import Mode

_LOOK_SECONDS = 1.0


def promotion(evaluator: Evaluator, config: PromotionConfig) -> Job:
    """Attributes become hot and cold by how they are read."""

    async def run(_tenants: Sequence[Tenant]) -> RunResult:
        if evaluator.mode is Mode.OFF:
            raise JobError("ATLAS_PROMOTION__MODE is off")
        if not await evaluator.turn():
            return RunResult("another process is at it", is_finished=False)
        told = "; decided, and not done: dry_run" if evaluator.mode is Mode.DRY_RUN else ""
        return RunResult(f"evaluated{told}: see atlas projection decisions")

    async def dry_run(_tenants: Sequence[Tenant]) -> RunResult:
        plan = await evaluator.plan()
        return RunResult(
            listed([f"tenant {i}: {one.action.value} {one.candidate.name}" for i, one in plan])
            or "nothing would change"
        )

    interval_seconds = None if evaluator.mode is Mode.OFF else config.interval_seconds
    return Job("promotion", run, dry_run, interval_seconds, starts_at_once=True)


def verification(store: JobStore, runner: Runner, config: ProjectionConfig) -> Job:
    """Points, projection and cache are compared, tenant by tenant; nothing is put right."""
    draft = JobDraft(Kind.VERIFY, sample_percent=config.verify_percent)

    async def run(tenants: Sequence[Tenant]) -> RunResult:
        differing: list[str] = []
        for tenant in tenants:
            job = await store.start(tenant, draft, config.jobs_per_tenant_max)
            runner.wake()
            differing += _told(tenant, await _ended(store, tenant, job))
        if differing:
            raise JobError(listed(differing))
        return RunResult(f"{len(tenants)} tenants verified, nothing differs")

    async def dry_run(tenants: Sequence[Tenant]) -> RunResult:
        keys = listed([tenant.key for tenant in tenants])
        return RunResult(f"would verify {config.verify_percent} % of the entities of: {keys}")

    return Job(
        "projection_verification",
        run,
        dry_run,
        config.verify_interval_seconds,
        takes_tenants=True,
    )


async def _ended(store: JobStore, tenant: Tenant, job: ProjectionJob) -> ProjectionJob:
    """The job once it has ended; whoever holds the projection's lease works on it."""
    while job.state is State.RUNNING:
        await asyncio.sleep(_LOOK_SECONDS)
        found = await store.get(tenant.id, job.job_id)
        if found is None:
            raise JobError(f"{tenant.key}: job {job.job_id} is forgotten")
        job = found
    return job


def _told(tenant: Tenant, job: ProjectionJob) -> list[str]:
    found = job.progress
    count = found.missing_count + found.extra_count + found.different_count + found.cache_count
    if job.state is not State.DONE:
        return [f"{tenant.key}: job {job.job_id} {job.state.value} {job.message}".rstrip()]
    return [f"{tenant.key}: {count} differences, job {job.job_id}"] if count else []
