"""Memory of ingest when its database stands still under full load, and how it comes back."""

import time
from dataclasses import dataclass
from typing import Any

from atlas_bench.ingest.job import Door, WriteJob, WriteRun
from atlas_bench.ingest.rig import Rig
from atlas_bench.ingest.runs import Runs
from atlas_bench.ingest.throughput import arrow_job
from atlas_bench.progress import say

_BEFORE_SECONDS = 3.0
_AFTER_SECONDS = 8.0
_QUICK_AFTER_SECONDS = 3.0


@dataclass(frozen=True)
class _Stopped:
    since: float
    until: float


def measure(rig: Rig, runs: Runs) -> dict[str, Any]:
    """Stop Postgres under more load than fits, let it go on; returns the facts of `memory`."""
    options = rig.options
    after = _QUICK_AFTER_SECONDS if options.quick else _AFTER_SECONDS
    seconds = _BEFORE_SECONDS + options.stall_seconds + after
    rig.settle()
    rig.memory.restart()
    calls = rig.drivers.begin(_calls(rig, seconds))
    streams = rig.drivers.begin(arrow_job(rig, seconds), first=1)
    time.sleep(_BEFORE_SECONDS)
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


def _calls(rig: Rig, seconds: float) -> WriteJob:
    options = rig.options
    return WriteJob(
        target=rig.target,
        door=Door.WRITE,
        ack=options.ack,
        fleet=options.fleet,
        points=options.stall_points,
        concurrency=options.stall_callers,
        seconds=seconds,
        channels=options.small_channels,
        retry_overloaded=True,
        templates_max=1_000,
        timeout_seconds=120.0,
    )


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
