"""How many reads may be at work somewhere at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from atlas_common import errors


class Admission:
    """At most `reads_max` at work, at most `waiting_max` waiting, each at most `wait_seconds`.

    `refusal` is what the others are told.
    """

    def __init__(self, reads_max: int, waiting_max: int, wait_seconds: float, refusal: str) -> None:
        self._slots = asyncio.Semaphore(reads_max)
        self._reads_max = reads_max
        self._waiting_max = waiting_max
        self._wait_seconds = wait_seconds
        self._refusal = refusal
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
            self._refusal,
            retry_after=max(0.1, self._wait_seconds),
            reads_max=self._reads_max,
        )
