"""What policies have done in ingest: partitions and retention, as jobs."""

from collections import Counter
from collections.abc import Sequence

from atlas_common.maintenance import Job, RunResult, listed
from atlas_common.tenant import Tenant
from atlas_ingest.config import MaintenanceConfig
from atlas_ingest.maintenance.partitions import Partitions
from atlas_ingest.maintenance.retention import Result, Retention


def jobs(
    config: MaintenanceConfig, partitions: Partitions, retention: Retention | None
) -> list[Job]:
    """Those of this process; retention only where it is trusted with the role."""
    made = [_partitions(config, partitions)]
    if retention is not None:
        made.append(_retention(config, retention))
    return made


def _partitions(config: MaintenanceConfig, partitions: Partitions) -> Job:
    async def run(_tenants: Sequence[Tenant]) -> RunResult:
        done = await partitions.maintain()
        is_finished = not partitions.health.postponed
        return RunResult(listed(done) or "all partitions are there", is_finished=is_finished)

    async def dry_run(_tenants: Sequence[Tenant]) -> RunResult:
        return RunResult(listed(await partitions.plan()) or "all partitions are there")

    return Job("partitions", run, dry_run, config.partitions_interval_seconds)


def _retention(config: MaintenanceConfig, retention: Retention) -> Job:
    async def run(_tenants: Sequence[Tenant]) -> RunResult:
        outcomes = await retention.walk()
        if outcomes is None:
            return RunResult("another process is at it", is_finished=False)
        counts = Counter(f"{one.step.step} {one.result.value}" for one in outcomes)
        told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        problems = listed(one.detail for one in outcomes if one.result is not Result.DONE)
        postponed = any(one.result is Result.POSTPONED for one in outcomes)
        summary = f"{told}: {problems}" if problems else told
        return RunResult(summary or "nothing was due", is_finished=not postponed)

    async def dry_run(_tenants: Sequence[Tenant]) -> RunResult:
        steps = [f"{one.step} {one.partition_name}" for one in await retention.plan()]
        return RunResult(listed(steps) or "nothing is due")

    return Job("retention", run, dry_run, config.retention_interval_seconds, starts_at_once=True)
