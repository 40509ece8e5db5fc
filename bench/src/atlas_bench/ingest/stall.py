"""Memory of ingest when its database stands still under full load, and how it comes back."""

import time
from dataclasses import dataclass, replace
from typing import Any

from atlas_bench.ingest.job import WriteRun
from atlas_bench.ingest.jobs import arrow_job, stall_job
from atlas_bench.ingest.rig import Rig
from atlas_bench.ingest.runs import Runs
from atlas_bench.progress import say

_BEFORE_SECONDS, _AFTER_SECONDS = 3.0, 8.0
_QUICK_BEFORE_SECONDS, _QUICK_AFTER_SECONDS = 1.0, 1.5
_CALLS_PROCESS = 1
"""Calls come from a process of their own; the streams' is the one that has their batches."""


@dataclass(frozen=True)
class _Stopped:
    since: float
    until: float


def measure(rig: Rig, runs: Runs) -> dict[str, Any]:
    """Stop Postgres under more load than fits, let it go on; returns the facts of `memory`."""
    options = rig.options
    before, after = _BEFORE_SECONDS, _AFTER_SECONDS
    if options.quick:
        before, after = _QUICK_BEFORE_SECONDS, _QUICK_AFTER_SECONDS
    seconds = before + options.stall_seconds + after
    job = stall_job(options, rig.target, seconds)
    rig.drivers.prepare(job, first=_CALLS_PROCESS).result()
    rig.settle()
    rig.memory.restart()
    calls = rig.drivers.begin(job, first=_CALLS_PROCESS)
    streams = rig.drivers.begin(replace(arrow_job(options, rig.target), seconds=seconds))
    time.sleep(before)
    full_load_mb = rig.memory.most_mb
    rig.memory.restart()
    stopped = _stop_postgres(rig)
    made = [rig.audit.enter(each.result()) for each in (calls, streams)]
    facts = {
        "stalled_seconds": round(stopped.until - stopped.since, 2),
        "rss_mb_full_load": round(full_load_mb, 1),
        "rss_mb_stalled": round(rig.memory.most_mb, 1),
        "told_to_come_again": sum(run.overloaded for run in made),
        "refused_while_stalled": sum(_refused(run, stopped) for run in made),
        "recovered_after_seconds": _recovered_after(made, stopped),
        "errors": {words: count for run in made for words, count in run.errors.items()},
    }
    for kind, run in zip(("stall_write", "stall_write_arrow"), made, strict=True):
        runs.keep(kind, 1, run.summary())
    say(f"     stalled for {facts['stalled_seconds']} s: {facts}")
    return facts


def _stop_postgres(rig: Rig) -> _Stopped:
    primary = rig.stack.postgres.primary
    began = time.monotonic()
    primary.pause()
    try:
        time.sleep(rig.options.stall_seconds)
    finally:
        primary.resume()
    return _Stopped(began, time.monotonic())


def _refused(run: WriteRun, stopped: _Stopped) -> int:
    return sum(count for end, _, count in run.timeline if stopped.since < end <= stopped.until)


def _recovered_after(runs: list[WriteRun], stopped: _Stopped) -> float | None:
    """Seconds from the stall's end to the first answer after it, in slices of a quarter."""
    ends = [
        end for run in runs for end, points, _ in run.timeline if points and end > stopped.until
    ]
    return round(min(ends) - stopped.until, 2) if ends else None
