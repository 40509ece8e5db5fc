"""Works on the jobs of all tenants, in turns; one process of the platform at a time."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

import psycopg

from atlas_common import telemetry
from atlas_common.errors import ServiceError
from atlas_hotcache.projection.jobs import Job, State
from atlas_hotcache.projection.store import (
    JobMovedError,
    JobStore,
    Lease,
    LeaseLostError,
    TransientError,
)
from atlas_hotcache.projection.worker import Worker

_log = telemetry.logger(__name__)
_JOBS_MAX = 16  # That have turns; more wait for one of them to end.
_SURPRISES_MAX = 5


class Runner:
    """Takes the lease when there is something to do, and gives each job a piece of work in turn.

    So a small job does not wait for a large one's end, and the database has one batch at a time to
    bear, whatever the number of jobs and processes.
    """

    def __init__(
        self,
        store: JobStore,
        new_worker: Callable[[], Worker],
        *,
        poll_seconds: float,
        lease_seconds: float,
    ) -> None:
        self._store = store
        self._new_worker = new_worker
        self._poll_seconds = poll_seconds
        self._lease_seconds = lease_seconds
        self._workers: dict[tuple[int, int], Worker] = {}
        self._lease: Lease | None = None
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look for jobs now."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; whoever comes after us goes on at once."""
        try:
            while True:
                self._wake.clear()
                if not await self.turn():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._poll_seconds):
                            await self._wake.wait()
        finally:
            await self._give_back()

    async def turn(self) -> bool:
        """A piece of each job; whether there is more to do at once.

        Raises ServiceError, psycopg.Error when the database is away.
        """
        try:
            jobs = await self._store.running(_JOBS_MAX)
            self._workers = {key: one for key, one in self._workers.items() if key in jobs}
            if not jobs:
                await self._give_back()
                return False
            if not await self._hold():
                return False
            return any([await self._piece(*key) for key in jobs])
        except LeaseLostError as error:
            _log.info("the projection's lease is lost", problem=str(error))
            self._lease = None
            return False
        except TransientError:
            return False  # The lease's row is locked, by whoever asks for it.

    async def _hold(self) -> bool:
        if self._lease is None:
            owner = f"hotcache-{secrets.token_hex(8)}"
            self._lease = await self._store.lease(owner, self._lease_seconds)
            self._workers.clear()
        else:
            await self._store.keep(self._lease, self._lease_seconds)
        return self._lease is not None

    async def _piece(self, tenant_id: int, job_id: int) -> bool:
        assert self._lease is not None
        worker = self._workers.get((tenant_id, job_id))
        if worker is None:
            worker = self._workers[tenant_id, job_id] = self._new_worker()
        job = await self._store.get(tenant_id, job_id)
        if job is None or job.state is not State.RUNNING:
            return False
        began = asyncio.get_running_loop().time()
        try:
            more = await worker.work(self._lease, job)
        except JobMovedError:
            return True  # Cancelled meanwhile: look again what it has become.
        except LeaseLostError:
            raise
        except (TransientError, ServiceError, psycopg.OperationalError) as error:
            await self._again_later(worker, job, str(error), gives_up=False)
            return False
        except Exception as error:  # noqa: BLE001 - one job's bug must not stop the others.
            _log.exception("projection job failed", job_id=job_id)
            await self._again_later(worker, job, type(error).__name__, gives_up=True)
            return False
        # At most half of the time: others have work for the database, too.
        rest = asyncio.get_running_loop().time() - began
        await asyncio.sleep(min(rest, 1.0) if more else 0)
        return more

    async def _again_later(self, worker: Worker, job: Job, problem: str, *, gives_up: bool) -> None:
        """Try again with less; for what nobody expects, a few times only.

        Raises ServiceError, psycopg.Error if the database is away: then all jobs wait.
        """
        worker.pace.failed()
        assert self._lease is not None
        with suppress(JobMovedError):
            if gives_up and worker.pace.failures >= _SURPRISES_MAX:
                await self._store.end(self._lease, job, State.FAILED, f"gave up: {problem}")
            else:
                await self._store.note(self._lease, job, f"tries again: {problem}")

    async def _give_back(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            # Of no consequence if it fails: it runs out.
            with suppress(ServiceError, psycopg.Error, LeaseLostError, TransientError):
                await self._store.keep(lease, 0.0)
