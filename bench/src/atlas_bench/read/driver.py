"""`python -m atlas_bench.read.driver`: the load generator, in a process of its own.

Reads one ReadJob a line from stdin, answers each with one line of JSON on stdout, ends with its
input.
"""

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.loops import Call, poisson_arrivals, run_closed, run_open
from atlas_bench.read.job import ClosedLoop, Door, OpenLoop, ReadJob
from atlas_bench.tally import Outcome, Tally

# Neither encoded nor decoded in this process: what the driver spends, the platform lacks.
Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
Streaming: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"


def main() -> None:
    """Work off the jobs on stdin."""
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            gc.collect()  # Here, so that it hits no call of the run.
            summary = runner.run(run(ReadJob.from_json(line)))
            sys.stdout.write(json.dumps(summary) + "\n")
            sys.stdout.flush()


async def run(job: ReadJob) -> dict[str, Any]:
    """Do one run; return Tally.summary() and how many of the calls before it failed."""
    async with _channel(job.door) as channel:
        call = _stream_call(job, channel) if job.streaming else _unary_call(job, channel)
        await asyncio.wait_for(channel.channel_ready(), timeout=job.timeout_seconds)
        warm_up = [await call(index) for index in range(job.warm_up_calls)]
        tally = await _measure(job.load, call)
    failed = sum(bool(outcome.error) for outcome in warm_up)
    return {**tally.summary(), "warm_up_calls_failed": failed}


def _channel(door: Door) -> grpc.aio.Channel:
    if door.ca_file is None:
        return grpc.aio.insecure_channel(door.target, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(Path(door.ca_file).read_bytes())
    return grpc.aio.secure_channel(door.target, credentials, options=CHANNEL_OPTIONS)


def _metadata(job: ReadJob) -> tuple[tuple[str, str], ...]:
    tenant = ("x-atlas-tenant", job.tenant)
    token = job.door.token
    return (tenant,) if token is None else (tenant, ("authorization", f"Bearer {token}"))


async def _measure(load: OpenLoop | ClosedLoop, call: Call) -> Tally:
    if isinstance(load, OpenLoop):
        return await run_open(poisson_arrivals(load.rate, load.seconds, load.seed), call)
    return await run_closed(load.callers, call, seconds=load.seconds, calls_max=load.calls_max)


def _unary_call(job: ReadJob, channel: grpc.aio.Channel) -> Call:
    method: Unary = channel.unary_unary(job.method, None, None)
    metadata = _metadata(job)

    async def call(index: int) -> Outcome:
        request = job.requests[index % len(job.requests)]
        answer = method(request, timeout=job.timeout_seconds, metadata=metadata)
        try:
            message = await answer
            source = _source(await answer.trailing_metadata())
            return Outcome(source=source, answer_bytes=len(message))
        except grpc.aio.AioRpcError as error:
            return Outcome(error=_words(error))

    return call


def _stream_call(job: ReadJob, channel: grpc.aio.Channel) -> Call:
    method: Streaming = channel.unary_stream(job.method, None, None)
    metadata = _metadata(job)

    async def call(index: int) -> Outcome:
        request = job.requests[index % len(job.requests)]
        answers = method(request, timeout=job.timeout_seconds, metadata=metadata)
        first_at, size = None, 0
        try:
            async for message in answers:
                first_at = first_at or asyncio.get_running_loop().time()
                size += len(message)
            source = _source(await answers.trailing_metadata())
            return Outcome(source=source, answer_bytes=size, answered_at=first_at)
        except grpc.aio.AioRpcError as error:
            return Outcome(error=_words(error))

    return call


def _source(trailers: grpc.aio.Metadata | None) -> str:
    return next((str(value) for key, value in trailers or () if key == "x-data-source"), "")


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {(error.details() or '')[:120]}"


if __name__ == "__main__":
    main()
