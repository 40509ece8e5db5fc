"""What tests of jobs on the projection need: calls as a tenant, a process that works, the truth."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common.rpc import TENANT_KEY
from atlas_hotcache.ports import CacheUnavailableError
from atlas_hotcache.projection.runner import Runner

from .hotcache_rig import ACME, T0, TENANT_IDS, Rig
from .lane_writer import Flushed, LaneWriter, RawPoint

SERIAL = 3
FORGETFUL = {
    "catalog_ttl_seconds": 0.2,
    "catalog_age_max_seconds": 0.4,
    "expiry_seconds": 0.6,
}
"""Settings under which nobody believes for long that an attribute is hot."""
DONE = pb.PROJECTION_JOB_STATE_DONE
RUNNING = pb.PROJECTION_JOB_STATE_RUNNING
FAILED = pb.PROJECTION_JOB_STATE_FAILED
CANCELLED = pb.PROJECTION_JOB_STATE_CANCELLED
_SECONDS_MAX = 30.0


def meta(tenant: str = ACME) -> tuple[tuple[str, str], ...]:
    return ((TENANT_KEY, tenant),)


def serial(
    tenant_id: int, entity_id: int, value: str, second: int = 0, batch_no: int = 1
) -> RawPoint:
    """A point of the attribute that is cold at first."""
    when = T0 + timedelta(seconds=second)
    return RawPoint(tenant_id, entity_id, SERIAL, when, value, "value_text", batch_no)


async def flush(rig: Rig, lane: LaneWriter, points: Sequence[RawPoint]) -> Flushed:
    """One flush, and what ingest says after it."""
    flushed = lane.write(points)
    await rig.invalidate(lane, flushed)
    return flushed


async def promote(rig: Rig, name: str = "serial", **fields: Any) -> pb.ProjectionJob:
    request = pb.PromoteAttributeRequest(attribute=name, **fields)
    return (await rig.projection.PromoteAttribute(request, metadata=meta())).job


async def demote(rig: Rig, name: str = "serial", **fields: Any) -> pb.ProjectionJob:
    request = pb.DemoteAttributeRequest(attribute=name, **fields)
    return (await rig.projection.DemoteAttribute(request, metadata=meta())).job


async def rebuild(rig: Rig, **fields: Any) -> pb.ProjectionJob:
    request = pb.RebuildProjectionRequest(**fields)
    return (await rig.projection.RebuildProjection(request, metadata=meta())).job


async def verify(rig: Rig, **fields: Any) -> pb.ProjectionJob:
    request = pb.VerifyProjectionRequest(**fields)
    return (await rig.projection.VerifyProjection(request, metadata=meta())).job


async def cancel(rig: Rig, job_id: int) -> pb.ProjectionJob:
    request = pb.CancelProjectionJobRequest(job_id=job_id)
    return (await rig.projection.CancelProjectionJob(request, metadata=meta())).job


async def job(rig: Rig, job_id: int, tenant: str = ACME) -> pb.ProjectionJob:
    request = pb.GetProjectionJobRequest(job_id=job_id)
    return (await rig.projection.GetProjectionJob(request, metadata=meta(tenant))).job


async def finish(rig: Rig, job_id: int, runner: Runner | None = None) -> pb.ProjectionJob:
    """Work until the job is over, and look at both sides of the cache meanwhile."""
    worker = runner or new_runner(rig)
    async with asyncio.timeout(_SECONDS_MAX):
        while True:
            seen = await job(rig, job_id)
            if seen.state != RUNNING:
                await worker.turn()  # Gives the lease back.
                return seen
            if not await worker.turn():
                await look(rig)
                await asyncio.sleep(0.01)


async def until_step(rig: Rig, job_id: int, step: str, runner: Runner) -> None:
    """Work until the job is in this step."""
    async with asyncio.timeout(_SECONDS_MAX):
        while (await job(rig, job_id)).step != step:
            if not await runner.turn():
                await look(rig)
                await asyncio.sleep(0.01)


async def look(rig: Rig) -> None:
    """Let the watcher look once, as it does all the time."""
    with suppress(CacheUnavailableError):
        await rig.watcher.step()


def new_runner(rig: Rig) -> Runner:
    """A process that works, in place of whatever did: as if that had died some time ago."""
    rig.admin.execute("UPDATE projection_runner SET leased_until = '-infinity'")
    return rig.new_runner()


def is_hot(rig: Rig, tenant: str = ACME, attribute_id: int = SERIAL) -> bool:
    row = rig.admin.execute(
        "SELECT is_hot FROM attributes WHERE (tenant_id, attribute_id) = (%s, %s)",
        [TENANT_IDS[tenant], attribute_id],
    ).fetchone()
    assert row is not None
    return bool(row[0])


def projected(rig: Rig, tenant: str = ACME, attribute_id: int = SERIAL) -> dict[int, Any]:
    """Entity -> what the projection has of the attribute."""
    return dict(
        rig.admin.execute(
            "SELECT entity_id, attrs -> %(key)s FROM entity_jsonb"
            " WHERE tenant_id = %(tenant)s AND attrs ? %(key)s",
            {"key": str(attribute_id), "tenant": TENANT_IDS[tenant]},
        ).fetchall()
    )


def truth(rig: Rig, tenant: str = ACME, attribute_id: int = SERIAL) -> dict[int, Any]:
    """Entity -> what the points say of it."""
    return dict(
        rig.admin.execute(
            "SELECT DISTINCT ON (entity_id) entity_id, value_text FROM entity_values_ts"
            " WHERE (tenant_id, attribute_id) = (%s, %s)"
            " ORDER BY entity_id, event_time DESC, ingested_at DESC, ctid DESC",
            [TENANT_IDS[tenant], attribute_id],
        ).fetchall()
    )


def rows(rig: Rig, tenant: str) -> list[Any]:
    """The tenant's whole projection, to be compared with itself later."""
    return rig.admin.execute(
        "SELECT * FROM entity_jsonb WHERE tenant_id = %s ORDER BY entity_id", [TENANT_IDS[tenant]]
    ).fetchall()


async def shown(
    rig: Rig, entity_ids: Sequence[int], name: str = "serial", **fields: Any
) -> dict[int, str]:
    """Entity -> the attribute as hotcache answers it; those without a value are left out."""
    response = await rig.get(ACME, entity_ids, attributes=[name], **fields)
    return {
        entity.entity_id: value.value.text_value
        for entity in response.entities
        for value in entity.values
        if value.attribute == name
    }
