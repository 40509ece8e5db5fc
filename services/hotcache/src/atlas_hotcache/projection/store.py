"""Jobs in the primary: each function is one short transaction of one tenant."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from atlas_common import errors
from atlas_common.catalog import HOT_BYTES_MAX, hot_bytes
from atlas_common.db import Database, WriteConnection, load_queries, tenant_transaction
from atlas_common.tenant import Tenant
from atlas_common.values import DataType
from atlas_hotcache.ports import Change
from atlas_hotcache.projection.jobs import Job, Kind, Progress, State, Step
from atlas_hotcache.promotion.decisions import Actor, Decision, Outcome
from atlas_hotcache.promotion.store import check_unpinned, enter

Q = load_queries("atlas_hotcache.projection")

LANE = 255
"""The lane of projection_lane(): its positions are the changes that jobs make."""

_LEASE_LOST, _JOB_MOVED = "AT003", "AT004"
# A lock that is not had in time, a circle of locks, too slow, another transaction in the way.
_TRANSIENT = frozenset({"55P03", "40P01", "57014", "40001"})


class LeaseLostError(Exception):
    """Another process works on jobs by now."""


class JobMovedError(Exception):
    """The job was cancelled, or somebody else has taken it on."""


class TransientError(Exception):
    """Nothing was done; less at once, or later, may work."""


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A job to be begun."""

    kind: Kind
    attribute_id: int | None = None
    entity_ids: tuple[int, ...] | None = None
    sample_percent: int = 100
    dry_run: bool = False
    repair: bool = False
    request_id: str | None = None
    decision: Decision | None = None
    """Whose it was, for the audit log; of a promotion or demotion."""


class Lease(NamedTuple):
    """That we are the one who works on jobs; under which epoch of the lane."""

    owner: str
    epoch: int


class Written(NamedTuple):
    """A batch that was written: how many entities it had, and its position, if anything changed."""

    scanned: int
    sequence: int | None
    changes: tuple[Change, ...]


class Compared(NamedTuple):
    """A batch that was compared: how many entities it had, which were compared, which differ."""

    scanned: int
    entity_ids: list[int]
    differing: list[int]
    difference_count: int


class JobStore:
    """What may be done with jobs. `statement_seconds` bounds each statement."""

    def __init__(self, database: Database, statement_seconds: float) -> None:
        self._database = database
        # Durable: a position that was told to the cache must not be given to another change.
        self._bounds = (
            f"SET LOCAL statement_timeout = '{round(statement_seconds * 1000)}';"
            " SET LOCAL synchronous_commit = local"
        ).encode()

    # For callers -------------------------------------------------------------------------------

    async def start(self, tenant: Tenant, draft: JobDraft, running_max: int) -> Job:
        """Begin the job, or find the one that does the same.

        Raises ServiceError FAILED_PRECONDITION / JOB_CONFLICT, BATCH_TOO_LARGE (what is hot would
        not fit), RESOURCE_EXHAUSTED / OVERLOADED.
        """
        values = {
            "tenant_id": tenant.id,
            "kind": draft.kind.value,
            "attribute_id": draft.attribute_id,
            "entity_ids": None if draft.entity_ids is None else list(draft.entity_ids),
            "sample_percent": draft.sample_percent,
            "dry_run": draft.dry_run,
            "repair": draft.repair,
            "request_id": draft.request_id,
        }
        async with tenant_transaction(self._database, tenant) as connection:
            await connection.execute(Q["lock_attributes"], {"tenant_id": tenant.id})
            if draft.decision is not None and draft.decision.actor is Actor.POLICY:
                await check_unpinned(connection, tenant.id, draft.decision.attribute_id)
            if draft.kind is Kind.PROMOTE:
                await _check_room(connection, tenant, draft)
            count = await _row(connection, "count_running", {"tenant_id": tenant.id})
            job_id, other = await _row(connection, "start", values)
            if other is not None:
                raise errors.failed_precondition(
                    "JOB_CONFLICT",
                    f"job {other} is at work on the attribute: wait for its end, or cancel it",
                    field="attribute",
                    job_id=other,
                )
            job = await _job(connection, tenant.id, job_id)
            assert job is not None
            await _audit(connection, tenant, draft, job)
            if count[0] >= running_max and job.state is State.RUNNING and _is_new(job):
                raise errors.resource_exhausted(
                    "OVERLOADED",
                    f"{count[0]} jobs of the tenant are running: wait until one has ended",
                    retry_after=5.0,
                )
        return job

    async def cancel(self, tenant: Tenant, job_id: int) -> Job | None:
        """Cancel the job; None if there is none. Raises FAILED_PRECONDITION / JOB_CONFLICT."""
        async with tenant_transaction(self._database, tenant) as connection:
            if await _job(connection, tenant.id, job_id) is None:
                return None
            state = await _row(connection, "cancel", {"tenant_id": tenant.id, "job_id": job_id})
            if state[0] is None:
                raise errors.failed_precondition(
                    "JOB_CONFLICT",
                    "a demotion cannot be cancelled, reads are cold already: wait for its end and"
                    " promote the attribute",
                    field="job_id",
                )
            return await _job(connection, tenant.id, job_id)

    async def get(self, tenant_id: int, job_id: int) -> Job | None:
        """The job, None if there is none."""
        async with tenant_transaction(self._database, tenant_id, read_only=True) as connection:
            cursor = await connection.execute(Q["job"], {"tenant_id": tenant_id, "job_id": job_id})
            row = await cursor.fetchone()
        return None if row is None else _job_of(tenant_id, row)

    async def page(self, tenant: Tenant, before: int, limit: int) -> list[Job]:
        """Jobs, the newest first; `before`: only those with lesser ids, 0 for all."""
        values = {"tenant_id": tenant.id, "before": before, "row_limit": limit}
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            cursor = await connection.execute(Q["list_jobs"], values)
            return [_job_of(tenant.id, row) for row in await cursor.fetchall()]

    # For who works on them ---------------------------------------------------------------------

    async def running(self, limit: int) -> list[tuple[int, int]]:
        """Tenant and id of the oldest running jobs."""
        async with self._database.transaction(read_only=True) as connection:
            cursor = await connection.execute(Q["running_jobs"], {"row_limit": limit})
            return [(row[0], row[1]) for row in await cursor.fetchall()]

    async def lease(self, owner: str, seconds: float) -> Lease | None:
        """Become the one who works on jobs, if nobody is."""
        with _meaning():
            async with self._database.transaction() as connection:
                row = await _row(connection, "lease", {"owner": owner, "seconds": seconds})
        return None if row[0] is None else Lease(owner, row[0])

    async def keep(self, lease: Lease, seconds: float) -> None:
        """Stay so for this long; 0: cease. Raises LeaseLostError, TransientError."""
        with _meaning():
            async with self._database.transaction() as connection:
                await _row(connection, "keep_lease", {"owner": lease.owner, "seconds": seconds})

    async def flushes_in_flight(self) -> frozenset[str]:
        """The flushes under way at this moment."""
        async with self._database.transaction(read_only=True) as connection:
            return frozenset((await _row(connection, "flushes_in_flight", {}))[0])

    async def advance(self, lease: Lease, job: Job, step: Step) -> None:
        """Go on to this step."""
        await self._one(lease, job, "advance", next_step=step.value)

    async def end(self, lease: Lease, job: Job, state: State, message: str = "") -> None:
        """End the job."""
        await self._one(lease, job, "end_job", state=state.value, message=message)

    async def note(self, lease: Lease, job: Job, message: str) -> None:
        """Say what the job waits for."""
        if message != job.message:
            await self._one(lease, job, "note", message=message)

    async def write(
        self, lease: Lease, job: Job, entities_max: int, again: Sequence[int] | None = None
    ) -> Written:
        """Do the job's next entities, or these once more."""
        scanned, sequence, entity_ids, versions = await self._one(
            lease,
            job,
            "write_batch",
            epoch=lease.epoch,
            entities_max=entities_max,
            again=None if again is None else list(again),
        )
        changed = zip(entity_ids or (), versions or (), strict=True)
        return Written(
            scanned,
            sequence,
            tuple(Change(job.tenant_id, entity_id, version) for entity_id, version in changed),
        )

    async def compare(self, lease: Lease, job: Job, entities_max: int) -> Compared:
        """Compare the job's next entities."""
        return Compared(*await self._one(lease, job, "compare_batch", entities_max=entities_max))

    async def recheck(
        self, lease: Lease, job: Job, entity_ids: Sequence[int], difference_count: int
    ) -> int:
        """How many differences of these entities are left; those that are not were put right."""
        row = await self._one(
            lease, job, "recheck", entity_ids=list(entity_ids), difference_count=difference_count
        )
        return int(row[0])

    async def note_cache(
        self,
        lease: Lease,
        job: Job,
        shown: Sequence[Mapping[str, Any]],
        *,
        found: int,
        uncompared: int,
        repaired: int,
    ) -> None:
        """Enter what was found in the cache."""
        await self._one(
            lease,
            job,
            "note_cache",
            shown=json.dumps(list(shown)),
            found=found,
            uncompared=uncompared,
            repaired=repaired,
        )

    async def _one(self, lease: Lease, job: Job, query: str, **values: Any) -> tuple[Any, ...]:
        known = {
            "owner": lease.owner,
            "tenant_id": job.tenant_id,
            "job_id": job.job_id,
            "step": job.step.value,
        }
        with _meaning():
            async with self._transaction(job.tenant_id) as connection:
                return await _row(connection, query, {**known, **values})

    @asynccontextmanager
    async def _transaction(self, tenant_id: int) -> AsyncIterator[WriteConnection]:
        # Read committed: the points are read after the rows are locked. See project_entities().
        async with tenant_transaction(self._database, tenant_id) as connection:
            await connection.execute(self._bounds, prepare=False)
            yield connection


class _meaning:  # noqa: N801 - a context manager.
    """Turns the database's words into ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, psycopg.Error):
            return
        if error.sqlstate == _LEASE_LOST:
            raise LeaseLostError(str(error)) from error
        if error.sqlstate == _JOB_MOVED:
            raise JobMovedError(str(error)) from error
        if error.sqlstate in _TRANSIENT:
            raise TransientError(str(error).splitlines()[0]) from error


async def _check_room(connection: WriteConnection, tenant: Tenant, draft: JobDraft) -> None:
    values = {"tenant_id": tenant.id, "attribute_id": draft.attribute_id}
    cursor = await connection.execute(Q["projected_types"], values)
    size = hot_bytes({DataType(name): count for name, count in await cursor.fetchall()})
    if size > HOT_BYTES_MAX:
        raise errors.failed_precondition(
            "BATCH_TOO_LARGE",
            f"the hot values of one entity could take {size} bytes, at most {HOT_BYTES_MAX} fit:"
            " demote hot JSON and TEXT attributes first",
            field="attribute",
            hot_bytes_max=HOT_BYTES_MAX,
        )


async def _audit(connection: WriteConnection, tenant: Tenant, draft: JobDraft, job: Job) -> None:
    """Enter the decision, in the transaction that begins the job."""
    if draft.decision is None or draft.dry_run:
        return
    outcome = Outcome.STARTED if job.state is State.RUNNING else Outcome.DONE
    await enter(connection, tenant.id, draft.decision, outcome, job_id=job.job_id)


async def _row(
    connection: WriteConnection | Any, query: str, values: Mapping[str, Any]
) -> tuple[Any, ...]:
    cursor = await connection.execute(Q[query], values)
    row: tuple[Any, ...] | None = await cursor.fetchone()
    assert row is not None
    return row


async def _job(connection: WriteConnection, tenant_id: int, job_id: int) -> Job | None:
    cursor = await connection.execute(Q["job"], {"tenant_id": tenant_id, "job_id": job_id})
    row = await cursor.fetchone()
    return None if row is None else _job_of(tenant_id, row)


def _is_new(job: Job) -> bool:
    return job.created_at == job.updated_at


def _job_of(tenant_id: int, row: Sequence[Any]) -> Job:
    job_id, kind, state, step, attribute_id, sample, dry_run, repair, is_cancelled = row[:9]
    fill_round, last_sequence, step_seconds, message, created_at, updated_at, finished_at = row[
        9:16
    ]
    return Job(
        tenant_id=tenant_id,
        job_id=job_id,
        kind=Kind(kind),
        state=State(state),
        step=Step(step),
        attribute_id=attribute_id,
        sample_percent=sample,
        dry_run=dry_run,
        repair=repair,
        is_cancelled=is_cancelled,
        round=fill_round,
        last_sequence=last_sequence,
        step_seconds=step_seconds,
        message=message,
        created_at=created_at,
        updated_at=updated_at,
        finished_at=finished_at,
        progress=Progress(*row[16:27]),
        differences=tuple(row[27]),
    )
