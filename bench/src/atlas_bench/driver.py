"""`python -m atlas_bench.driver`: the load generator, in a process of its own.

Reads one Job a line from stdin, answers each with one line of JSON on stdout, ends with its input.
Apart from the process that starts it, so that neither COPY nor the report shares its interpreter.
"""

import asyncio
import json
import sys
import time
import uuid
from typing import Any, TypeAlias

import grpc
import numpy as np

from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.job import ClosedLoop, Job, OpenLoop, Request
from atlas_bench.loops import Call, poisson_arrivals, run_closed, run_open
from atlas_bench.tally import Outcome, Tally

# Neither encoded nor decoded in this process: what the driver spends, the platform lacks.
Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
Streaming: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"
_REQUEST_ID_TAG = b"\x0a"  # WriteRequest.request_id, field 1.


def main() -> None:
    """Work off the jobs on stdin."""
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            summary = runner.run(run(Job.from_json(line)))
            sys.stdout.write(json.dumps(summary) + "\n")
            sys.stdout.flush()


async def run(job: Job) -> dict[str, Any]:
    """Do one run; return Tally.summary() and how the calls before it went."""
    async with grpc.aio.insecure_channel(job.target, options=CHANNEL_OPTIONS) as channel:
        call = _stream_call(job, channel) if job.streaming else _unary_call(job, channel)
        await asyncio.wait_for(channel.channel_ready(), timeout=job.timeout_seconds)
        warm_up = [await call(index) for index in range(job.warm_up_calls)]
        tally = await _measure(job.load, call)
    failed = sum(bool(outcome.error) for outcome in warm_up)
    counts = {"warm_up_calls_ok": len(warm_up) - failed, "warm_up_calls_failed": failed}
    return {**tally.summary(), **counts}


async def _measure(load: OpenLoop | ClosedLoop, call: Call) -> Tally:
    if isinstance(load, OpenLoop):
        return await run_open(poisson_arrivals(load.rate, load.seconds, load.seed), call)
    return await run_closed(load.callers, call, seconds=load.seconds, calls_max=load.calls_max)


def _unary_call(job: Job, channel: grpc.aio.Channel) -> Call:
    method: Unary = channel.unary_unary(job.method, None, None)

    async def call(index: int) -> Outcome:
        request = job.requests[index % len(job.requests)]
        body = _body(job, request)
        answer = method(body, timeout=job.timeout_seconds, metadata=_metadata(request))
        try:
            await answer
            return Outcome(source=_source(await answer.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            return Outcome(error=_words(error))

    return call


def _stream_call(job: Job, channel: grpc.aio.Channel) -> Call:
    method: Streaming = channel.unary_stream(job.method, None, None)

    async def call(index: int) -> Outcome:
        request = job.requests[index % len(job.requests)]
        body = _body(job, request)
        answers = method(body, timeout=job.timeout_seconds, metadata=_metadata(request))
        try:
            async for _ in answers:
                pass
            return Outcome(source=_source(await answers.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            return Outcome(error=_words(error))

    return call


def _body(job: Job, request: Request) -> bytes:
    template = request.template
    body = template.body
    if template.offsets.size:
        now_us = time.time_ns() // 1_000
        # Behind the present, and each its own: no two points of a series share a time.
        times = now_us - template.offsets.size + np.arange(template.offsets.size, dtype=np.int64)
        body = template.with_varints(times)
    if job.numbered:
        # A message's encoding may be followed by more of its fields.
        request_id = uuid.uuid4().hex.encode()
        body += _REQUEST_ID_TAG + bytes([len(request_id)]) + request_id
    return body


def _metadata(request: Request) -> tuple[tuple[str, str], ...]:
    return (("x-atlas-tenant", request.tenant),)


def _source(trailers: grpc.aio.Metadata | None) -> str:
    return next((str(value) for key, value in trailers or () if key == "x-data-source"), "")


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {(error.details() or '')[:120]}"


if __name__ == "__main__":
    main()
