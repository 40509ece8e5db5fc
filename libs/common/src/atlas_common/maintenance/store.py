"""Policies in the primary, as those who run them see them; each call is one short transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from atlas_common.db import Database, load_queries
from atlas_common.maintenance.job import Job
from atlas_common.tenant import Tenant

Q = load_queries("atlas_common.maintenance")
_SUMMARY_CHARACTERS_MAX = 1_000


class Status(StrEnum):
    """How a run stands, or ended."""

    RUNNING = "running"
    SUCCESS = "success"
    UNFINISHED = "unfinished"
    """Something was in the way."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Its process was told to stop; another goes on."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A policy that is ours to run now."""

    policy_id: int
    is_dry_run: bool
    tenant_ids: Sequence[int]
    """Empty: all."""
    runner: str


class PolicyStore:
    """All of it raises as `Database.transaction`, or psycopg.Error."""

    def __init__(self, primary: Database) -> None:
        self._primary = primary

    async def register(self, job: Job) -> None:
        """Make the job's default policy, or tell it of the interval it has by now."""
        values = {
            "job": job.name,
            "takes_tenants": job.takes_tenants,
            "default_seconds": job.default_seconds or None,
            "first_seconds": 0.0 if job.starts_at_once else job.default_seconds or 0.0,
        }
        async with self._primary.transaction() as connection:
            await connection.execute(Q["register_job"], values)

    async def claim(self, job: Job, runner: str, lease_seconds: float) -> Claim | None:
        """Take a policy of this job that is due; None: there is none, or others have it."""
        values = {"job": job.name, "runner": runner, "lease_seconds": lease_seconds}
        row = await self._row("claim_policy", values)
        return None if row is None else Claim(row[0], row[1], row[2], runner)

    async def keep(self, claim: Claim, lease_seconds: float) -> bool:
        """Stay who runs it; False: another does."""
        values = {
            "policy_id": claim.policy_id,
            "runner": claim.runner,
            "lease_seconds": lease_seconds,
        }
        return await self._row("keep_policy", values) is not None

    async def finish(
        self, claim: Claim, status: Status, summary: str, retry_seconds: float | None
    ) -> bool:
        """Enter how it ended, and let go; False: another runs it. None: the interval applies."""
        values = {
            "policy_id": claim.policy_id,
            "is_dry_run": claim.is_dry_run,
            "runner": claim.runner,
            "status": status.value,
            "summary": summary.replace("\0", " ")[:_SUMMARY_CHARACTERS_MAX],
            "retry_seconds": retry_seconds,
        }
        return await self._row("finish_policy", values) is not None

    async def seconds_until_due(self, job: Job) -> float | None:
        """Until the next policy of this job is; None: never."""
        row = await self._row("seconds_until_due", {"job": job.name})
        return None if row is None or row[0] is None else float(row[0])

    async def tenants(self, tenant_ids: Sequence[int]) -> list[Tenant]:
        """Those of the list that there are; of an empty list: all."""
        async with self._primary.transaction(read_only=True) as connection:
            cursor = await connection.execute(Q["tenants_of"], {"tenant_ids": list(tenant_ids)})
            return [Tenant(tenant_id, key) for tenant_id, key in await cursor.fetchall()]

    async def _row(self, query: str, values: dict[str, Any]) -> tuple[Any, ...] | None:
        async with self._primary.transaction() as connection:
            return await (await connection.execute(Q[query], values)).fetchone()
