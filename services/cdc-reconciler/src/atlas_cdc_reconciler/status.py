"""What the pipeline tells of itself."""

import time
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from atlas_cdc_reconciler.audit import Auditor
from atlas_cdc_reconciler.letters import HeldTable
from atlas_cdc_reconciler.progress import Progress, Standing
from atlas_cdc_reconciler.sink import Counts
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.source import Source
from atlas_common.db import Beat, PrimaryClock
from atlas_common.errors import ServiceError


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """The pipeline at one moment."""

    standing: Standing
    lag_seconds: float
    """Infinite when it cannot be known."""
    counts: Counts
    """Of all tables."""
    warehouse_rows: int
    retained_bytes: int
    """As last told by the source: it may be away."""
    held_tables: tuple[HeldTable, ...]
    open_letters: int
    is_conserved: bool
    """Whether the books balance, and the last audit found what they say."""


class StatusReporter:
    """Puts the status together."""

    def __init__(
        self,
        warehouse: DuckDbWarehouse,
        source: Source,
        progress: Progress,
        clock: PrimaryClock,
        *,
        auditor: Auditor,
    ) -> None:
        self._auditor = auditor
        self._warehouse = warehouse
        self._source = source
        self._progress = progress
        self._clock = clock
        self._retained_bytes = 0

    def lag_seconds(self, beat: Beat) -> float:
        """How far a state of the warehouse with this heartbeat is behind; infinite if unknown."""
        return self._clock.lag_seconds(beat, time.monotonic())

    async def status(self) -> PipelineStatus:
        """The pipeline now. Raises ServiceError when the warehouse is too busy to be read."""
        standing = self._progress.now
        # What is known of the warehouse is worth telling also while the primary is away.
        with suppress(ServiceError, psycopg.Error):
            self._retained_bytes = await self._source.retained_bytes()
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["counts"])
            ((row_count,),) = await reader.all(Q["row_count"])
            held = tuple(HeldTable(*row) for row in await reader.all(Q["held_tables"]))
            unbalanced = await reader.all(Q["unbalanced"])
        counts = Counts(*(sum(column) for column in list(zip(*rows, strict=True))[1:]))
        return PipelineStatus(
            standing,
            self.lag_seconds(standing.sink.beat),
            counts,
            row_count,
            self._retained_bytes,
            held,
            counts.dead_lettered,
            not unbalanced and not self._auditor.last.discrepancies,
        )
