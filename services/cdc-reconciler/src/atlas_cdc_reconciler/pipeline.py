"""From the source into the sink, for ever: resumes exactly, waits out outages, never skips."""

import asyncio
import random
import time

import psycopg

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.progress import Phase, Progress
from atlas_cdc_reconciler.sink import (
    SchemaChangedError,
    Sink,
    TooManyDeadLettersError,
    WarehouseError,
)
from atlas_cdc_reconciler.source import Source, SourceLostError, SourcePosition
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger

_BACKOFF_SECONDS_MIN = 0.1
# An outage or a full disk passes; the work is done again from the last commit.
_PASSING = (ServiceError, psycopg.Error, OSError, TimeoutError, WarehouseError)
# These do not: going on would leave changes out, and nobody would know.
_FINAL = (SourceLostError, SchemaChangedError, TooManyDeadLettersError)
_log = logger(__name__)


class Pipeline:
    """Copies first, then applies batch after batch."""

    def __init__(
        self, source: Source, sink: Sink, progress: Progress, backoff_seconds_max: float
    ) -> None:
        self._source = source
        self._sink = sink
        self._progress = progress
        self._backoff_seconds_max = backoff_seconds_max

    async def run(self) -> None:
        """Run until cancelled. When it can never go on, say so and stand still."""
        backoff = _BACKOFF_SECONDS_MIN
        while True:
            version = self._progress.now.version
            try:
                await self._work()
            except _FINAL as error:
                _log.critical("pipeline stopped", reason=str(error))
                await self._progress.move(phase=Phase.STOPPED, reason=str(error))
                await asyncio.get_running_loop().create_future()
            except _PASSING as error:
                if self._progress.now.version > version + 1:  # It had been working.
                    backoff = _BACKOFF_SECONDS_MIN
                _log.warning("pipeline interrupted", error=str(error), retry_in_seconds=backoff)
                await self._progress.move(reason=f"interrupted: {error}")
            # Jitter: what made us fail may hit many at once.
            await asyncio.sleep(backoff * random.uniform(0.8, 1.2))  # noqa: S311
            backoff = min(backoff * 2, self._backoff_seconds_max)

    async def check(self) -> None:
        """A readiness check: raises ServiceError UNAVAILABLE while there is nothing to read."""
        standing = self._progress.now
        if standing.phase is not Phase.STREAMING:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE",
                f"pipeline is in phase {standing.phase}: {standing.reason}",
            )

    async def _work(self) -> None:
        state = await self._sink.state()
        position = state.position
        if position is None:
            position = await self._copy()
            state = await self._sink.state()
        async with self._source.stream(position) as stream:
            await self._progress.move(phase=Phase.STREAMING, sink=state, reason="")
            while True:
                batch = await stream.next_batch()
                started = time.monotonic()
                state = await self._sink.apply(batch)
                metrics.apply_seconds.record(time.monotonic() - started)
                metrics.batch_changes.record(batch.change_count)
                # Only now, when it is stored: the source forgets what is confirmed.
                stream.confirm(batch.position)
                await self._progress.move(sink=state)

    async def _copy(self) -> SourcePosition:
        await self._progress.move(phase=Phase.SNAPSHOT, reason="making the first copy")
        rows_total = 0
        async with (
            self._source.snapshot() as snapshot,
            self._sink.load(snapshot.position) as load,
        ):
            async for copied in snapshot.rows():
                await load.append(copied)
                rows_total += copied.rows.num_rows
        _log.info("first copy made", rows=rows_total, position=str(snapshot.position.at))
        return snapshot.position
