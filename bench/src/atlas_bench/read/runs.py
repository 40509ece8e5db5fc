"""The runs of a benchmark, as they are made, kept and shown."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from atlas_bench import processor
from atlas_bench.medians import medians, paired_ratio
from atlas_bench.processes import ask, module_process
from atlas_bench.progress import say
from atlas_bench.read.job import ClosedLoop, Door, OpenLoop, ReadJob
from atlas_bench.read.questions import CACHE, Question
from atlas_bench.read.rig import Rig

Run: TypeAlias = dict[str, Any]
Load: TypeAlias = OpenLoop | ClosedLoop
_PERCENTILES = ("p50", "p99")
_WARM_UP_CALLS = 16
_WARM_UP_CALLERS = 8
_WARM_UP_SECONDS_MAX = 30.0


class Runs:
    """All runs, in the order in which they were made. `ask_driver` does a job."""

    def __init__(self, rig: Rig, tenant: str, ask_driver: Callable[[ReadJob], Run]) -> None:
        self._rig = rig
        self._tenant = tenant
        self._ask_driver = ask_driver
        self.all: list[Run] = []

    def ask(self, kind: str, repeat: int, question: Question, load: Load, **facts: Any) -> Run:
        """Ask the platform, and keep what came of it."""
        job = self._job(Door(self._rig.query), question, load)
        if self._rig.profile is None:
            return self._kept(kind, repeat, question, lambda: self._ask_driver(job), facts)
        with self._rig.profile.of(kind):
            run = self._kept(kind, repeat, question, lambda: self._ask_driver(job), facts)
        self._rig.profile.count(kind, run["calls_ok"], run["processor_seconds"])
        return run

    def ask_at(self, kind: str, repeat: int, door: Door, question: Question, load: Load) -> Run:
        """Ask another server than the platform's own."""
        job = self._job(door, question, load)
        return self.make(kind, repeat, lambda: self._ask_driver(job))

    def warm_up(self, question: Question, door: Door | None = None) -> None:
        """Ask each request once, and a few more; not kept."""
        calls = len(question.requests) + _WARM_UP_CALLS
        load = ClosedLoop(_WARM_UP_CALLERS, _WARM_UP_SECONDS_MAX, calls)
        self._ask_driver(self._job(door or Door(self._rig.query), question, load))

    def make(self, kind: str, repeat: int, run: Callable[[], Run], **facts: Any) -> Run:
        """Make a run of whatever, and keep it."""
        before = processor.read(self._rig.state)
        made = run()
        after = processor.read(self._rig.state)
        kept: Run = {
            "kind": kind,
            "repeat": repeat,
            **facts,
            **made,
            "processor_seconds": after.since(before),
            "queued_seconds": after.queued_since(before),
            "busy_share": after.busy_share_since(before),
        }
        self.all.append(kept)
        say(_line(kept))
        return kept

    def of(self, kind: str, **facts: Any) -> list[Run]:
        """Return the runs of a kind, of these facts."""
        return [
            run
            for run in self.all
            if run["kind"] == kind and all(run.get(name) == is_ for name, is_ in facts.items())
        ]

    def median(self, kind: str, path: str) -> float | None:
        """Return the median of a figure of a kind."""
        return medians(self.of(kind), {path: path})[path]

    def ratio(self, kind: str, to: str, path: str) -> float | None:
        """Return the median of the ratios of neighbours."""
        return paired_ratio(self.of(kind), self.of(to), path)

    def percentiles(self, kind: str, name: str) -> dict[str, float]:
        """Return the medians of a kind's percentiles, called <name>_p50, <name>_p99."""
        found = {
            f"{name}_{percentile}": self.median(kind, f"latency_ms.{percentile}")
            for percentile in _PERCENTILES
        }
        return {name: value for name, value in found.items() if value is not None}

    def _job(self, door: Door, question: Question, load: Load) -> ReadJob:
        return ReadJob(
            door=door,
            method=question.method,
            tenant=self._tenant,
            requests=question.requests,
            load=load,
            streaming=question.is_stream,
        )

    def _kept(
        self,
        kind: str,
        repeat: int,
        question: Question,
        run: Callable[[], Run],
        facts: Mapping[str, Any],
    ) -> Run:
        def counted() -> Run:
            hits, misses = self._rig.cache_counters()
            made = run()
            hits_after, misses_after = self._rig.cache_counters()
            cache = {"cache_hits": hits_after - hits, "cache_misses": misses_after - misses}
            return {
                **made,
                **(cache if question.source == CACHE else {}),
                "entities_per_s": round(made["calls_per_second"] * question.entities, 1),
                "wanted_source": question.source,
            }

        return self.make(kind, repeat, counted, **facts)


@contextmanager
def reading_driver(*, niceness: int = 0) -> Iterator[Callable[[ReadJob], Run]]:
    """Run a driver in a process of its own; gives what makes it do a job."""
    with module_process("atlas_bench.read.driver", niceness=niceness) as child:

        def do(job: ReadJob) -> Run:
            run: Run = json.loads(ask(child, job.to_json()))
            return run

        yield do


def _line(run: Run) -> str:
    text = f"  {run['repeat']:>2} {run['kind']:<24}"
    if (rate := run.get("calls_per_second")) is not None:
        text += f" {rate:>8,.0f}/s"
    for name in _PERCENTILES:
        if (value := (run.get("latency_ms") or {}).get(name)) is not None:
            text += f"  {name} {value:>8.2f} ms"
    if run.get("calls_failed"):
        text += f", {run['calls_failed']} calls FAILED"
    return text
