"""The jobs of the driver: what is sent through each door."""

from dataclasses import replace

from atlas_bench.ingest.job import Ack, Door, WriteJob
from atlas_bench.ingest.options import IngestOptions

_BURST_SECONDS_MAX = 60.0


def arrow_job(options: IngestOptions, target: str = "") -> WriteJob:
    """WriteArrow at full speed."""
    return WriteJob(
        target=target,
        door=Door.ARROW,
        ack=options.ack,
        fleet=options.fleet,
        points=options.arrow_points,
        concurrency=options.arrow_streams,
        messages_per_stream=options.arrow_messages,
        templates_max=options.arrow_templates,
        seconds=options.seconds,
        retry_overloaded=True,
    )


def stream_job(options: IngestOptions, target: str = "") -> WriteJob:
    """WriteStream at full speed."""
    return WriteJob(
        target=target,
        door=Door.STREAM,
        ack=options.ack,
        fleet=options.fleet,
        points=options.stream_points,
        concurrency=options.streams,
        window_batches=options.stream_window,
        seconds=options.seconds,
        retry_overloaded=True,
    )


def write_job(options: IngestOptions, target: str = "") -> WriteJob:
    """Write in batches at full speed."""
    return WriteJob(
        target=target,
        door=Door.WRITE,
        ack=options.ack,
        fleet=options.fleet,
        points=options.stream_points,
        concurrency=2 * options.streams,
        seconds=options.seconds,
        retry_overloaded=True,
    )


def burst_job(options: IngestOptions, target: str, door: Door) -> WriteJob:
    """So many points at once, answered when they are staged."""
    bulk = {Door.ARROW: arrow_job, Door.STREAM: stream_job, Door.WRITE: write_job}[door]
    job = bulk(options, target)
    return replace(
        job,
        ack=Ack.STAGED,
        seconds=_BURST_SECONDS_MAX,
        points_max=options.burst_points,
        concurrency=options.burst_streams if door is Door.ARROW else job.concurrency,
    )


def small_job(options: IngestOptions, target: str = "", *, slow: bool = False) -> WriteJob:
    """Many callers with a few points each. Where each waits for the others, few calls will do."""
    return WriteJob(
        target=target,
        door=Door.WRITE,
        ack=options.ack,
        fleet=options.fleet,
        points=options.small_points,
        concurrency=options.small_callers,
        seconds=options.small_seconds,
        points_max=options.small_points * options.small_calls_off if slow else None,
        channels=options.small_channels,
        retry_overloaded=True,
    )


def steady_job(options: IngestOptions, target: str, ack: Ack, seed: int) -> WriteJob:
    """A steady load in an open loop."""
    return WriteJob(
        target=target,
        door=Door.WRITE,
        ack=ack,
        fleet=options.fleet,
        points=options.latency_points,
        concurrency=1,
        seconds=options.latency_seconds,
        calls_per_s=options.latency_points_per_s / options.latency_points,
        seed=seed,
    )


def stall_job(options: IngestOptions, target: str, seconds: float) -> WriteJob:
    """More callers than fit, for so long."""
    return WriteJob(
        target=target,
        door=Door.WRITE,
        ack=options.ack,
        fleet=options.fleet,
        points=options.stall_points,
        concurrency=options.stall_callers,
        seconds=seconds,
        channels=options.small_channels,
        retry_overloaded=True,
        templates_max=200,
        timeout_seconds=120.0,
    )


def first_jobs(options: IngestOptions) -> list[WriteJob]:
    """Return the jobs whose batches can be encoded before there is a platform."""
    wanted = set(options.only)
    jobs = []
    if wanted & {"write_arrow", "staged_burst", "vs_executemany", "growth", "memory"}:
        jobs.append(arrow_job(options))
    if wanted & {"write_stream"}:
        jobs.append(stream_job(options))
    if wanted & {"group_commit"}:
        jobs.append(small_job(options))
    return jobs
