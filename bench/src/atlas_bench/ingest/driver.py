"""`python -m atlas_bench.ingest.driver`: the load generator, in a process of its own.

Reads one WriteJob a line from stdin, answers each with one line of JSON on stdout, ends with its
input. Batches of a kind are encoded at the first job that needs them and kept.
"""

import asyncio
import gc
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict

import grpc.aio

from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.ingest import doors
from atlas_bench.ingest.doors import ArrowTemplates, Budget, RowTemplates, Sender, WriteSender
from atlas_bench.ingest.fleet import Fleet
from atlas_bench.ingest.job import Door, WriteJob, WriteRun
from atlas_bench.ingest.recorder import Recorder
from atlas_bench.loops import SPIN_SECONDS, poisson_arrivals

_Kind = tuple[Door, Fleet, int, int]
_SENDERS = {
    Door.WRITE: doors.WriteSender,
    Door.STREAM: doors.StreamSender,
    Door.ARROW: doors.ArrowSender,
}


class Driver:
    """Runs jobs one after another."""

    def __init__(self) -> None:
        self._templates: dict[_Kind, RowTemplates | ArrowTemplates] = {}

    async def run(self, job: WriteJob) -> WriteRun:
        """Do one run; one of no length only encodes its batches."""
        batches = self._batches(job)
        if job.seconds <= 0:
            return WriteRun()
        async with AsyncExitStack() as stack:
            channels = []
            for _ in range(job.channels):
                channel = grpc.aio.insecure_channel(job.target, options=CHANNEL_OPTIONS)
                channels.append(await stack.enter_async_context(channel))
            await asyncio.gather(
                *(asyncio.wait_for(each.channel_ready(), job.timeout_seconds) for each in channels)
            )
            recorder = Recorder()
            sender = _SENDERS[job.door](job, channels, batches, recorder)
            if job.calls_per_s is None:
                await _closed(job, sender)
            else:
                assert isinstance(sender, WriteSender), "an open loop is for calls"
                await _open(job, job.calls_per_s, sender, recorder)
            return recorder.close()

    def _batches(self, job: WriteJob) -> RowTemplates | ArrowTemplates:
        kind = (job.door, job.fleet, job.points, job.templates_max)
        if kind not in self._templates:
            self._templates[kind] = doors.templates(*kind)
            gc.collect()
            gc.freeze()  # What stays for ever need not be looked through at each collection.
        return self._templates[kind]


async def _closed(job: WriteJob, sender: Sender) -> None:
    """So many callers, each sending again when answered; or so many streams."""
    budget = Budget(job.seconds, job.points_max)

    async def caller(first: int) -> None:
        number = first
        while budget.is_left:
            await sender.send(number, budget)
            number += job.concurrency

    async with asyncio.TaskGroup() as tasks:
        for number in range(job.concurrency):
            tasks.create_task(caller(number))


async def _open(job: WriteJob, rate: float, sender: WriteSender, recorder: Recorder) -> None:
    """Calls when they are due, whether or not earlier ones are answered."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number, arrival in enumerate(poisson_arrivals(rate, job.seconds, job.seed)):
            due = began + arrival
            if (early := due - time.monotonic() - SPIN_SECONDS) > 0:
                await asyncio.sleep(early)
            while time.monotonic() < due:  # noqa: ASYNC110 - for time there is no Event.
                await asyncio.sleep(0)
            recorder.sent_late(time.monotonic() - due)
            tasks.create_task(sender.call(number, due))


def main() -> None:
    """Work off the jobs on stdin."""
    driver = Driver()
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            run = runner.run(driver.run(WriteJob.from_json(line)))
            sys.stdout.write(json.dumps(asdict(run)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
