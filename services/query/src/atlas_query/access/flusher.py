"""Tells the primary now and then what was asked for."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice

import psycopg

from atlas_common.db import Database
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger, metrics
from atlas_query.access.sampler import AccessSampler, Count
from atlas_query.store import Q

_flushes = metrics.counter(
    "atlas.query.access_flushes", "1", "Times the primary was told what was read, by outcome."
)
_dropped = metrics.counter(
    "atlas.query.access_dropped", "{calls}", "Calls that were to be counted and had no room."
)
_FAREWELL_SECONDS = 1.0
_PORTION = 2_000  # Names at a time: putting them together must not keep calls waiting.
_log = logger(__name__)


class AccessFlusher:
    """Writes what a sampler has counted each `every_seconds`, in one statement if it is not much.

    Also when there is nothing: that it was counted is what tells unread from unknown. A flush that
    fails is lost, and only statistics with it: kept, an outage's reads would all fall into its last
    hour. `primary`: the server that is it now; raises ServiceError while there is none.
    """

    def __init__(
        self, sampler: AccessSampler, primary: Callable[[], Database], every_seconds: float
    ) -> None:
        self._sampler = sampler
        self._primary = primary
        self._every_seconds = every_seconds
        self._failing = False

    async def run(self) -> None:
        """Flush until cancelled, and then a last time, unless it was waiting for the primary."""
        while True:
            try:
                await asyncio.sleep(self._every_seconds)
            except asyncio.CancelledError:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FAREWELL_SECONDS):
                        await self.flush()
                raise
            await self.flush()

    async def flush(self) -> None:
        """Tell what was counted since the last time; never raises for the primary's sake."""
        _dropped.add(self._sampler.dropped)
        counts = self._sampler.take()
        portion = list(islice(counts, _PORTION))
        try:
            await self._write(portion)
            while portion := list(islice(counts, _PORTION)):
                await self._write(portion)
        except (ServiceError, psycopg.Error) as error:
            _flushes.add(1, {"outcome": "lost"})
            if not self._failing:  # A line per change, not one each time.
                _log.warning("reads are not counted", error=str(error))
            self._failing = True
        else:
            _flushes.add(1, {"outcome": "stored"})
            if self._failing:
                _log.info("reads are counted again")
            self._failing = False

    async def _write(self, counts: Sequence[Count]) -> None:
        async with self._primary().transaction() as connection:
            # What a crash may lose is not worth a wait for the disk.
            await connection.execute(b"SET LOCAL synchronous_commit = off", prepare=False)
            await connection.execute(
                Q["record_access"],
                {
                    "tenant_ids": [count.tenant_id for count in counts],
                    "names": [count.name for count in counts],
                    "reads": [count.reads for count in counts],
                    "filters": [count.filters for count in counts],
                },
            )
