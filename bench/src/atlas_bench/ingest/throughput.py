"""Full speed through the bulk doors, each run right beside a run of the raw baseline."""

from functools import partial

from atlas_bench.ingest.job import Ack, Door, WriteJob, WriteRun
from atlas_bench.ingest.options import IngestOptions
from atlas_bench.ingest.rig import Rig
from atlas_bench.ingest.runs import Runs

FULL_SPEED = frozenset({"write_arrow", "write_stream", "write", "staged_burst", "vs_executemany"})
_BURST_SECONDS_MAX = 60.0
EXECUTEMANY_SHARE = 0.5
"""Of the length of the other runs: it is slow and steady."""


def arrow_job(rig: Rig, seconds: float | None = None) -> WriteJob:
    """WriteArrow at full speed."""
    options = rig.options
    return WriteJob(
        target=rig.target,
        door=Door.ARROW,
        ack=options.ack,
        fleet=options.fleet,
        points=options.arrow_points,
        concurrency=options.arrow_streams,
        seconds=options.seconds if seconds is None else seconds,
        retry_overloaded=True,
    )


def stream_job(rig: Rig, seconds: float | None = None) -> WriteJob:
    """WriteStream at full speed."""
    options = rig.options
    return WriteJob(
        target=rig.target,
        door=Door.STREAM,
        ack=options.ack,
        fleet=options.fleet,
        points=options.stream_points,
        concurrency=options.streams,
        seconds=options.seconds if seconds is None else seconds,
        retry_overloaded=True,
    )


def write_job(rig: Rig, seconds: float | None = None) -> WriteJob:
    """Write in batches at full speed."""
    options = rig.options
    return WriteJob(
        target=rig.target,
        door=Door.WRITE,
        ack=options.ack,
        fleet=options.fleet,
        points=options.stream_points,
        concurrency=2 * options.streams,
        seconds=options.seconds if seconds is None else seconds,
        retry_overloaded=True,
    )


def burst(rig: Rig, door: Door) -> WriteRun:
    """500,000 points, answered when they are staged; returns once they are flushed, too."""
    job = {Door.ARROW: arrow_job, Door.STREAM: stream_job, Door.WRITE: write_job}[door](rig)
    options = rig.options
    values = {**vars(job), "ack": Ack.STAGED, "seconds": _BURST_SECONDS_MAX}
    values["points_max"] = options.burst_points
    if door is Door.ARROW:
        values["concurrency"] = options.burst_streams
    return rig.drivers.run(WriteJob(**values))


def warm_up(rig: Rig) -> None:
    """Let caches fill and connections open; encode the batches. Not kept."""
    seconds = rig.options.warm_up_seconds
    wanted = rig.options.only
    if set(wanted) & {*FULL_SPEED, "growth"}:
        rig.direct.prepare()
        rig.direct.copy(seconds)
    if "write_stream" in wanted:
        rig.audit.enter(rig.drivers.run(stream_job(rig, seconds)))
    if {"write_arrow", "staged_burst", "vs_executemany", "growth"} & set(wanted):
        rig.audit.enter(rig.drivers.run(arrow_job(rig, seconds)))


def measure(rig: Rig, runs: Runs) -> None:
    """All doors once, then all again: the machine's other load hits each alike."""
    options = rig.options
    for repeat in range(1, options.repeats + 1):
        if {"write_arrow", "vs_executemany"} & set(options.only):
            runs.beside("write_arrow", repeat, lambda: rig.drivers.run(arrow_job(rig)))
        if "vs_executemany" in options.only:
            slow = partial(rig.direct.executemany, EXECUTEMANY_SHARE * options.seconds)
            runs.direct("executemany", repeat, slow)
        if "write_stream" in options.only:
            runs.beside("write_stream", repeat, lambda: rig.drivers.run(stream_job(rig)))
        if "write" in options.only:
            runs.beside("write", repeat, lambda: rig.drivers.run(write_job(rig)))
        if "staged_burst" in options.only:
            for kind, door in _burst_doors(options):
                runs.beside(kind, repeat, partial(burst, rig, door))


def _burst_doors(options: IngestOptions) -> list[tuple[str, Door]]:
    doors = [("staged_burst", Door.ARROW), ("staged_burst_stream", Door.STREAM)]
    return doors[:1] if options.quick else doors
