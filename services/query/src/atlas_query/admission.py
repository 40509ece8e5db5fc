"""How many reads that could go elsewhere may burden the primary at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from atlas_common import errors


class Admission:
    """At most `reads_max` at work, at most `waiting_max` waiting, each at most `wait_seconds`."""

    def __init__(self, reads_max: int, waiting_max: int, wait_seconds: float) -> None:
        self._slots = asyncio.Semaphore(reads_max)
        self._reads_max = reads_max
        self._waiting_max = waiting_max
        self._wait_seconds = wait_seconds
        self._waiting = 0

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Raises ServiceError RESOURCE_EXHAUSTED / OVERLOADED when there is no room."""
        await self._acquire()
        try:
            yield
        finally:
            self._slots.release()

    async def _acquire(self) -> None:
        if self._slots.locked():
            if self._waiting >= self._waiting_max:
                raise self._refused()
            self._waiting += 1
            try:
                async with asyncio.timeout(self._wait_seconds):
                    await self._slots.acquire()
            except TimeoutError:
                raise self._refused() from None
            finally:
                self._waiting -= 1
        else:
            await self._slots.acquire()

    def _refused(self) -> errors.ServiceError:
        return errors.resource_exhausted(
            "OVERLOADED",
            "no replica is fresh enough, and the primary has all the reads it takes from others",
            retry_after=self._wait_seconds,
            reads_max=self._reads_max,
        )
