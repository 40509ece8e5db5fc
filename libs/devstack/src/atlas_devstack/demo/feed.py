"""The host's samples into the platform: one thread that looks, one queue per tenant, bounded."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from atlas_client import AtlasError, Point
from atlas_devstack.demo.host import HostSampler, points
from atlas_devstack.demo.tally import Tally
from atlas_devstack.demo.writer import UnsettledError, Writer

_INTERVAL_SECONDS = 0.5
_BATCH_POINTS_MAX = 2000
_QUEUED_SAMPLES_MAX = 4


class Feed:
    """Samples the host for all tenants: the first gets every sample, the second every second one...

    So the same entities have other points in every tenant, and a point that strays is seen.
    """

    def __init__(self, writers: Mapping[str, Writer], tally: Tally) -> None:
        self._writers = writers
        self._tally = tally
        self._queues: dict[str, asyncio.Queue[list[Point] | None]] = {
            tenant: asyncio.Queue(_QUEUED_SAMPLES_MAX) for tenant in writers
        }

    async def run(self, stopping: asyncio.Event) -> None:
        """Feed until told to stop, then until all that was taken in is acknowledged."""
        async with asyncio.TaskGroup() as tasks:
            for tenant in self._writers:
                tasks.create_task(self._drain(tenant))
            await self._sample(stopping)
            for queue in self._queues.values():
                await queue.put(None)

    async def _sample(self, stopping: asyncio.Event) -> None:
        sampler = HostSampler()
        number = 0
        while not stopping.is_set():
            began = time.monotonic()
            samples = await asyncio.to_thread(sampler.sample)
            taken = points(samples, datetime.now(UTC))
            self._tally.samples += 1
            self._tally.entities.update(point.entity for point in taken)
            for stride, queue in enumerate(self._queues.values(), 1):
                if number % stride:
                    continue
                if queue.full():
                    self._tally.skipped_samples += 1
                else:
                    queue.put_nowait(taken)
            number += 1
            spent = time.monotonic() - began
            # Looking may take half of one core's time at most, whatever there is to look at.
            pause = max(_INTERVAL_SECONDS - spent, spent)
            try:
                await asyncio.wait_for(stopping.wait(), pause)
            except TimeoutError:
                continue

    async def _drain(self, tenant: str) -> None:
        queue = self._queues[tenant]
        while (taken := await queue.get()) is not None:
            for start in range(0, len(taken), _BATCH_POINTS_MAX):
                try:
                    await self._writers[tenant].write(taken[start : start + _BATCH_POINTS_MAX])
                except (AtlasError, UnsettledError):
                    continue  # Counted; the run has failed, and goes on to tell how.
