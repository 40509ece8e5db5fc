"""Does one piece of a job at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from atlas_common import telemetry
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_hotcache.invalidator import Invalidator
from atlas_hotcache.marks import first_unreached
from atlas_hotcache.ports import CacheUnavailableError, PrimaryUnavailableError
from atlas_hotcache.projection.cache_audit import CacheAudit, Findings
from atlas_hotcache.projection.cache_check import CacheDifference
from atlas_hotcache.projection.jobs import (
    ROUNDS_MAX,
    WRITES,
    Job,
    Kind,
    State,
    Step,
    end_state,
    next_step,
)
from atlas_hotcache.projection.pace import Pace
from atlas_hotcache.projection.store import (
    LANE,
    Compared,
    JobStore,
    Lease,
    Written,
)
from atlas_hotcache.shards import Shards
from atlas_hotcache.watcher import Watcher

_log = telemetry.logger(__name__)
_REPAIRS_MAX = 3
_SHOWN_MAX = 100
_TEXT_CHARS_MAX = 200


class Worker:
    """Takes the steps of one job; made anew whenever the job is taken on.

    What it remembers may be lost: it asks again which flushes are under way.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        shards: Shards,
        watcher: Watcher,
        invalidator: Invalidator,
        audit: CacheAudit,
        pace: Pace,
        expiry_seconds: float,
    ) -> None:
        """`expiry_seconds`: after which nobody believes that a demoted attribute is hot."""
        self._store = store
        self._shards = shards
        self._watcher = watcher
        self._invalidator = invalidator
        self._audit = audit
        self._expiry_seconds = expiry_seconds
        self._flushes: frozenset[str] | None = None
        self.pace = pace

    async def work(self, lease: Lease, job: Job) -> bool:
        """Do a piece; whether there is more to do at once, and not only later.

        Raises LeaseLostError, JobMovedError, TransientError.
        """
        if job.step in WRITES:
            return await self._timed(lambda: self._write(lease, job))
        match job.step:
            case Step.COMPARE:
                return await self._timed(lambda: self._compare(lease, job))
            case Step.DRAIN:
                return await self._drain(lease, job)
            case Step.EXPIRE:
                return await self._expire(lease, job)
            case Step.SETTLE:
                return await self._settle(lease, job)
            case Step.WITHDRAW:
                await self._go_on(lease, job)
                return True
        raise AssertionError(f"a running job is in step {job.step}")

    async def _timed(self, piece: Callable[[], Any]) -> bool:
        began = time.monotonic()
        more: bool = await piece()
        self.pace.took(time.monotonic() - began)
        return more

    async def _go_on(self, lease: Lease, job: Job) -> None:
        step = next_step(job)
        self._flushes = None
        if step is not Step.END:
            await self._store.advance(lease, job, step)
            return
        state = end_state(job)
        await self._store.end(lease, job, state)
        _log.info("projection job ended", job_id=job.job_id, kind=job.kind, state=state)

    async def _drain(self, lease: Lease, job: Job) -> bool:
        """Wait for the flushes that were under way after the transition had been committed.

        One that began before it may have read that the attribute is not projected (or that it is),
        and commits what it read at any time later. One that begins after it reads the transition:
        flushes take their lock before they read. See ADR 5 for the same argument about the clock.
        """
        now = await self._store.flushes_in_flight()
        self._flushes = now if self._flushes is None else self._flushes & now
        if self._flushes:
            await self._store.note(lease, job, f"waits for {len(self._flushes)} flushes to end")
            return False
        await self._go_on(lease, job)
        return True

    async def _expire(self, lease: Lease, job: Job) -> bool:
        left = self._expiry_seconds - job.step_seconds
        if left > 0:
            await self._store.note(lease, job, "waits until no reader believes it hot any more")
            return False
        await self._go_on(lease, job)
        return True

    async def _write(self, lease: Lease, job: Job) -> bool:
        written = await self._store.write(lease, job, self.pace.entities)
        await self._tell_cache(lease, written)
        if not written.scanned:
            await self._go_on(lease, job)
        return True

    async def _tell_cache(self, lease: Lease, written: Written) -> None:
        """Invalidate what was changed, as after a flush: positions of the lane in their order.

        If it does not get through, the watchers find the position missing, and make up for it as
        for a flush that nobody announced. So nothing is retried here.
        """
        if written.sequence is None:
            return
        position = Position(LANE, lease.epoch, written.sequence)
        try:
            await self._invalidator.apply(position, written.changes)
        except CacheUnavailableError as error:
            _log.warning("the cache was not told", sequence=written.sequence, problem=str(error))

    async def _compare(self, lease: Lease, job: Job) -> bool:
        compared = await self._store.compare(lease, job, self.pace.entities)
        if not compared.scanned:
            return await self._compared(lease, job)
        if compared.differing and job.repairs:
            await self._repair(lease, job, compared)
        if job.compares_cache:
            await self._compare_cache(lease, job, compared.entity_ids)
        return True

    async def _compared(self, lease: Lease, job: Job) -> bool:
        progress = job.progress
        found = progress.missing_count + progress.extra_count + progress.different_count
        left = found - progress.repaired_count
        if job.kind is not Kind.PROMOTE or job.dry_run or not left:
            await self._go_on(lease, job)
        elif job.round < ROUNDS_MAX:  # Somebody died between finding them and putting them right.
            await self._store.advance(lease, job, Step.FILL)
        else:
            message = f"{left} differences cannot be put right: see them, and promote again"
            await self._store.end(lease, job, State.FAILED, message)
        return True

    async def _repair(self, lease: Lease, job: Job, compared: Compared) -> None:
        """Put right what differs and look again: a race of equal event times may come between."""
        left = compared.difference_count
        for _ in range(_REPAIRS_MAX):
            written = await self._store.write(lease, job, 1, again=compared.differing)
            await self._tell_cache(lease, written)
            left = await self._store.recheck(lease, job, compared.differing, left)
            if not left:
                return

    async def _compare_cache(self, lease: Lease, job: Job, entity_ids: Sequence[int]) -> None:
        tenant = Tenant(job.tenant_id, "")
        findings = await self._audit.compare(tenant, entity_ids)
        left = 0
        if findings.differences and job.repairs:
            left = await self._repair_cache(lease, job, tenant, findings)
        if findings.differences or findings.uncompared:
            found = len(findings.differences)
            await self._store.note_cache(
                lease,
                job,
                [_shown(one) for one in findings.differences[:_SHOWN_MAX]],
                found=found,
                uncompared=findings.uncompared,
                repaired=max(0, found - left) if job.repairs else 0,
            )

    async def _repair_cache(
        self, lease: Lease, job: Job, tenant: Tenant, findings: Findings
    ) -> int:
        """Give the entities new versions: their tombstones replace the entries. What is left."""
        written = await self._store.write(lease, job, 1, again=findings.wrong_ids)
        await self._tell_cache(lease, written)
        again = await self._audit.compare(tenant, findings.wrong_ids)
        if not again.differences:
            return again.uncompared
        # Of a version that no tombstone of ours outdoes: only a new generation does.
        shard = self._shards.of(tenant.id)
        self._watcher.distrust("entries are of versions that the primary never had", shard)
        return 0

    async def _settle(self, lease: Lease, job: Job) -> bool:
        """Let reads have the attribute once no entry can be without it.

        Each entity that the job filled in has a new version, so an entry of before is gone where
        the job's last position has been applied; and entries made since then have the attribute,
        because reads of the primary include attributes in transition.
        """
        problem = await self._unsettled(job)
        if problem:
            await self._store.note(lease, job, problem)
            return False
        await self._go_on(lease, job)
        return True

    async def _unsettled(self, job: Job) -> str:
        if not job.last_sequence:
            return ""
        try:
            view = await self._watcher.look()
            status = await self._shards.of(job.tenant_id).cache.status()
        except (PrimaryUnavailableError, CacheUnavailableError) as error:
            return f"waits for the cache to be told: {error}"
        state = status.state
        if state is None or state.run_id != status.run_id or state.source != view.source:
            self._watcher.wake()
            return "waits for the cache to be ready"
        wanted = {LANE: view.positions[LANE]}
        if first_unreached(state.marks, wanted, view.claims) is not None:
            self._watcher.wake()
            return "waits for the cache to be told"
        return ""


def _shown(one: CacheDifference) -> dict[str, Any]:
    def text(value: Any) -> str | None:
        return None if value is None else value.text[:_TEXT_CHARS_MAX]

    known = asdict(one)
    return {
        "place": "cache",
        "kind": known["kind"],
        "entity_id": one.entity_id,
        "attribute": one.attribute,
        "expected": text(one.expected),
        "expected_us": one.expected and one.expected.event_time_us,
        "found": text(one.found),
        "found_us": one.found and one.found.event_time_us,
    }
