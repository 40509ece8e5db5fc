"""The load generators: processes of their own, out of the way of COPY and of the report."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from atlas_bench.ingest.job import WriteJob, WriteRun
from atlas_bench.processes import ask, module_process


class Drivers:
    """As many processes as a run asks for; each lives until all end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._sums = stack.enter_context(ThreadPoolExecutor(1, "atlas-drivers"))
        self._children: list[_Child] = []

    @classmethod
    @contextmanager
    def started(cls, processes: int = 1) -> Iterator["Drivers"]:
        """Start some; they end with this."""
        with ExitStack() as stack:
            drivers = cls(stack)
            drivers._grow(processes)
            yield drivers

    def prepare(self, job: WriteJob, *, first: int = 0) -> "Future[WriteRun]":
        """Begin to encode the batches of a job, in the process that will run it."""
        return self.begin(replace(job, seconds=0.0), first=first)

    def run(self, job: WriteJob, processes: int = 1) -> WriteRun:
        """Do one run, its callers spread over so many processes. Raises BenchError."""
        return self.begin(job, processes).result()

    def begin(self, job: WriteJob, processes: int = 1, *, first: int = 0) -> "Future[WriteRun]":
        """Begin a run, to do something else meanwhile; `first` is the process to begin with."""
        self._grow(first + processes)
        jobs = [
            replace(job, concurrency=job.concurrency // processes, seed=job.seed + number)
            for number in range(processes)
        ]
        parts = [
            running.begin(part) for running, part in zip(self._children[first:], jobs, strict=False)
        ]
        return parts[0] if processes == 1 else self._sums.submit(_sum_of, parts)

    def _grow(self, processes: int) -> None:
        while len(self._children) < processes:
            self._children.append(_Child(self._stack))


class _Child:
    """A process, and the thread that talks to it: one job at a time, in their order."""

    def __init__(self, stack: ExitStack) -> None:
        self._process = stack.enter_context(module_process("atlas_bench.ingest.driver"))
        self._thread = stack.enter_context(ThreadPoolExecutor(1, "atlas-driver"))

    def begin(self, job: WriteJob) -> "Future[WriteRun]":
        return self._thread.submit(self._run, job)

    def _run(self, job: WriteJob) -> WriteRun:
        return WriteRun(**json.loads(ask(self._process, job.to_json())))


def _sum_of(parts: "Sequence[Future[WriteRun]]") -> WriteRun:
    runs = [part.result() for part in parts]
    errors: Counter[str] = Counter()
    for run in runs:
        errors.update(run.errors)
    return WriteRun(
        points_acknowledged=sum(run.points_acknowledged for run in runs),
        points_unknown=sum(run.points_unknown for run in runs),
        seconds=max(run.seconds for run in runs),
        calls=sum(run.calls for run in runs),
        overloaded=sum(run.overloaded for run in runs),
        errors=dict(errors),
        latency_ms=runs[0].latency_ms,
        send_lag_ms=runs[0].send_lag_ms,
        driver_seconds=sum(run.driver_seconds for run in runs),
    )
