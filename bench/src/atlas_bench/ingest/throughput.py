"""Full speed through the bulk doors, each run right beside a run of the raw baseline."""

from dataclasses import replace
from functools import partial

from atlas_bench.ingest.job import Door
from atlas_bench.ingest.jobs import arrow_job, burst_job, stream_job, write_job
from atlas_bench.ingest.options import IngestOptions
from atlas_bench.ingest.rig import Rig
from atlas_bench.ingest.runs import Runs

FULL_SPEED = frozenset({"write_arrow", "write_stream", "write", "staged_burst", "vs_executemany"})
EXECUTEMANY_SHARE = 0.5
"""Of the length of the other runs: it is slow and steady."""


def warm_up(rig: Rig) -> None:
    """Let caches fill and connections open; encode the batches. Not kept."""
    options, wanted = rig.options, set(rig.options.only)
    if wanted & {*FULL_SPEED, "growth"}:
        rig.direct.prepare()
        rig.direct.copy(options.warm_up_seconds)
    jobs = []
    if "write_stream" in wanted:
        jobs.append(stream_job(options, rig.target))
    if wanted & {"write_arrow", "staged_burst", "vs_executemany", "growth"}:
        jobs.append(arrow_job(options, rig.target))
    for job in jobs:
        rig.audit.enter(rig.drivers.run(replace(job, seconds=options.warm_up_seconds)))


def measure(rig: Rig, runs: Runs) -> None:
    """All doors once, then all again: the machine's other load hits each alike."""
    options, target, run = rig.options, rig.target, rig.drivers.run
    wanted = set(options.only)
    for repeat in range(1, options.repeats + 1):
        if wanted & {"write_arrow", "vs_executemany"}:
            runs.beside("write_arrow", repeat, partial(run, arrow_job(options, target)))
        if "vs_executemany" in wanted:
            slow = partial(rig.direct.executemany, EXECUTEMANY_SHARE * options.seconds)
            runs.direct("executemany", repeat, slow)
        if "write_stream" in wanted:
            runs.beside("write_stream", repeat, partial(run, stream_job(options, target)))
        if "write" in wanted:
            runs.beside("write", repeat, partial(run, write_job(options, target)))
        if "staged_burst" in wanted:
            for kind, door in _burst_doors(options):
                runs.beside(kind, repeat, partial(run, burst_job(options, target, door)))


def _burst_doors(options: IngestOptions) -> list[tuple[str, Door]]:
    doors = [("staged_burst", Door.ARROW), ("staged_burst_stream", Door.STREAM)]
    return doors[:1] if options.quick else doors
