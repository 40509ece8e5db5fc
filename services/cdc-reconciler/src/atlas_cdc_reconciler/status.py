"""What the pipeline tells of itself."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from atlas_cdc_reconciler.audit import Auditor
from atlas_cdc_reconciler.letters import HeldTable
from atlas_cdc_reconciler.progress import Progress, Standing
from atlas_cdc_reconciler.sink import Counts
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.slot_watch import SlotWatch
from atlas_cdc_reconciler.source.slot_state import SlotState
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
    slot_name: str
    slot: SlotState | None
    """As last told by the source: it may be away. None: there is none."""
    slot_used_share: float
    instance: str
    leader: str
    """Empty: not known."""
    held_tables: tuple[HeldTable, ...]
    open_letters: int
    is_conserved: bool
    """Whether the books balance, and the last audit found what they say."""


@dataclass(frozen=True, slots=True)
class Instance:
    """This process, and who leads."""

    name: str
    leader: Callable[[], str]


class StatusReporter:
    """Puts the status together."""

    def __init__(
        self,
        warehouse: DuckDbWarehouse,
        progress: Progress,
        clock: PrimaryClock,
        watch: SlotWatch,
        instance: Instance,
        *,
        auditor: Auditor,
    ) -> None:
        self._auditor = auditor
        self._warehouse = warehouse
        self._progress = progress
        self._clock = clock
        self._watch = watch
        self._instance = instance

    def lag_seconds(self, beat: Beat) -> float:
        """How far a state of the warehouse with this heartbeat is behind; infinite if unknown."""
        return self._clock.lag_seconds(beat, time.monotonic())

    async def status(self) -> PipelineStatus:
        """The pipeline now. Raises ServiceError when the warehouse is too busy to be read."""
        standing = self._progress.now
        # What is known of the warehouse is worth telling also while the primary is away.
        with suppress(ServiceError, psycopg.Error):
            await self._watch.look()
        counts, row_count = Counts(), 0
        held: tuple[HeldTable, ...] = ()
        is_balanced = True
        if self._warehouse.is_open:
            async with self._warehouse.reader() as reader:
                rows = await reader.all(Q["counts"])
                ((row_count,),) = await reader.all(Q["row_count"])
                held = tuple(HeldTable(*row) for row in await reader.all(Q["held_tables"]))
                is_balanced = not await reader.all(Q["unbalanced"])
            counts = Counts(*(sum(column) for column in list(zip(*rows, strict=True))[1:]))
        return PipelineStatus(
            standing,
            self.lag_seconds(standing.sink.beat),
            counts,
            row_count,
            self._watch.slot_name,
            self._watch.state,
            self._watch.used_share(),
            self._instance.name,
            self._instance.leader(),
            held,
            counts.dead_lettered,
            is_balanced and not self._auditor.last.discrepancies,
        )
