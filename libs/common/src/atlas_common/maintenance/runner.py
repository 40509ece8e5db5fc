"""Runs the policies of a service's jobs: whoever holds a policy's lease, one process at a time."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg

from atlas_common.background import Work
from atlas_common.config import PolicyConfig
from atlas_common.errors import ServiceError
from atlas_common.maintenance.job import Job, JobError, RunResult
from atlas_common.maintenance.store import Claim, PolicyStore, Status
from atlas_common.telemetry import logger, metrics

_log = logger(__name__)
_runs = metrics.counter("atlas.maintenance.runs", "{runs}", "Runs of policies, by job and status.")
_seconds = metrics.histogram("atlas.maintenance.run", "s", "How long runs of policies took.")
_AWAY = (ServiceError, psycopg.Error)
_SECONDS_MIN = 0.05  # Between two looks, whatever is due.


class Runner:
    """Each job has a loop of its own, so that one that takes hours holds no other up.

    A process that dies at a run leaves the lease to run out; one that loses it, since it was
    stopped for a while, gives the run up: what runs must bear being begun anew.
    """

    def __init__(
        self, store: PolicyStore, jobs: list[Job], config: PolicyConfig, instance: str
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._config = config
        self._instance = instance

    @property
    def background(self) -> Mapping[str, Work]:
        """What is to run beside the calls, by name."""
        return {f"policy {job.name}": partial(self.run, job) for job in self._jobs}

    async def run(self, job: Job) -> None:
        """Run what is due of a job until cancelled; through outages."""
        is_registered = False
        while True:
            pause_seconds = self._config.poll_seconds
            try:
                if not is_registered:
                    await self._store.register(job)
                    is_registered = True
                if not await self.turn(job):
                    until_due = await self._store.seconds_until_due(job)
                    if until_due is not None:
                        pause_seconds = min(pause_seconds, max(_SECONDS_MIN, until_due))
                else:
                    pause_seconds = _SECONDS_MIN
            except _AWAY as error:
                _log.warning("policies cannot be looked after", job=job.name, error=str(error))
            await asyncio.sleep(pause_seconds)

    async def turn(self, job: Job) -> bool:
        """One run, if one is due; whether one was. Raises ServiceError, psycopg.Error."""
        runner = f"{self._instance[:200]} {secrets.token_hex(4)}"
        claim = await self._store.claim(job, runner, self._config.lease_seconds)
        if claim is None:
            return False
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            status, summary = await self._held(claim, self._work(job, claim))
        except asyncio.CancelledError:
            with suppress(*_AWAY, TimeoutError):
                async with asyncio.timeout(1.0):  # Of no consequence if it fails: it runs out.
                    await self._store.finish(claim, Status.INTERRUPTED, "stopped", 0.0)
            raise
        _runs.add(1, {"job": job.name, "status": status.value})
        _seconds.record(loop.time() - began, {"job": job.name})
        retry = None if status is Status.SUCCESS else self._config.retry_seconds
        kept = await self._store.finish(claim, status, summary, retry)
        say: Callable[..., object]
        if status is Status.SUCCESS:
            say = _log.debug
        else:
            say = _log.error if status is Status.FAILED else _log.warning
        say(
            "policy run",
            job=job.name,
            policy_id=claim.policy_id,
            dry_run=claim.is_dry_run,
            status=status.value,
            result=summary,
            kept=kept,
        )
        return True

    async def _work(self, job: Job, claim: Claim) -> RunResult:
        tenants = await self._store.tenants(claim.tenant_ids) if job.takes_tenants else []
        if job.takes_tenants and not tenants:
            return RunResult("there is no tenant to do it for")
        return await (job.dry_run if claim.is_dry_run else job.run)(tenants)

    async def _held(self, claim: Claim, work: Coroutine[Any, Any, RunResult]) -> tuple[Status, str]:
        """What came of the work, done for as long as the lease is ours."""
        working = asyncio.ensure_future(work)
        keeping = asyncio.ensure_future(self._keep(claim))
        try:
            await asyncio.wait(
                {working, keeping},
                timeout=self._config.run_seconds_max,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if working.done():
                return _told(working)
            if keeping.done():
                return Status.FAILED, "given up: another process has taken it over"
            seconds = self._config.run_seconds_max
            return (
                Status.FAILED,
                f"given up after {seconds:g} s, see ATLAS_POLICIES__RUN_SECONDS_MAX",
            )
        finally:
            for task in (working, keeping):
                task.cancel()
            await asyncio.wait({working, keeping})

    async def _keep(self, claim: Claim) -> None:
        """Return once the lease is lost."""
        lease_seconds = self._config.lease_seconds
        while True:
            await asyncio.sleep(lease_seconds / 3)
            try:
                if not await self._store.keep(claim, lease_seconds):
                    return
            except _AWAY as error:
                # It goes on: if nobody can ask, nobody can take it either; and who takes it, once
                # the primary is back, is found out then.
                _log.warning("a lease is not kept", policy_id=claim.policy_id, error=str(error))


def _told(working: "asyncio.Future[RunResult]") -> tuple[Status, str]:
    error = working.exception()
    if error is None:
        result = working.result()
        return (Status.SUCCESS if result.is_finished else Status.UNFINISHED), result.summary
    if isinstance(error, JobError | ServiceError | psycopg.Error | TimeoutError):
        return Status.FAILED, str(error) or type(error).__name__
    _log.error("a policy's run died", exc_info=error)
    return Status.FAILED, f"{type(error).__name__}: see the log of its runner"
