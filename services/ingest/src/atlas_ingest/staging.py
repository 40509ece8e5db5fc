"""Looks at what waits in staging, in this process and in the database."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
from psycopg.rows import class_row

from atlas_common.db import Database
from atlas_common.errors import ServiceError
from atlas_ingest.budget import Budget
from atlas_ingest.config import FlushConfig
from atlas_ingest.lanes.flush import Flusher
from atlas_ingest.lanes.worker import LaneWorker
from atlas_ingest.status import (
    Flow,
    LaneRow,
    LaneStatus,
    StagingStatus,
    reason_of_others,
    reason_of_ours,
)
from atlas_ingest.store import Q

_LOOK_SECONDS_MAX = 2.0


class StagingMonitor:
    """Looks at staging; counts what was refused since this process started."""

    def __init__(
        self, primary: Database, flusher: Flusher, budget: Budget, config: FlushConfig
    ) -> None:
        self._primary = primary
        self._flusher = flusher
        self._budget = budget
        self._config = config
        self._looking: asyncio.Task[list[LaneRow]] | None = None
        self._seen: Sequence[LaneRow] = ()
        self.rejected_points = 0

    async def status(self) -> StagingStatus:
        """Everything at this moment; also while the database does not answer.

        Its lanes are then as they were when it last did, with that as their reason.
        """
        unreachable = await self._look()
        totals = self._flusher.totals
        return StagingStatus(
            lanes=[self._lane(row, unreachable) for row in self._rows()],
            pending_points=self._budget.points,
            pending_points_max=self._budget.points_max,
            flushed_points=totals.flushed_points,
            rejected_points=self.rejected_points,
            last_flush_seconds=totals.last_flush_seconds,
        )

    async def _look(self) -> str:
        """Ask the database; empty, or why it could not be asked.

        One question at a time: a stopped server must not gather them.
        """
        task = self._looking
        if task is None or task.done():
            task = self._looking = asyncio.create_task(self._read())
            task.add_done_callback(_no_warning)
        await asyncio.wait({task}, timeout=_LOOK_SECONDS_MAX)
        if not task.done():
            return f"the database does not answer: asked {_LOOK_SECONDS_MAX:.0f} s ago"
        try:
            self._seen = task.result()
        except (ServiceError, psycopg.Error) as error:
            return f"the database does not answer: {str(error).partition(chr(10))[0]}"
        return ""

    async def _read(self) -> list[LaneRow]:
        async with self._primary.transaction(read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(LaneRow))
            return await (await cursor.execute(Q["staging_status"])).fetchall()

    def _rows(self) -> Sequence[LaneRow]:
        """What was seen, and our own lanes that never were."""
        seen = {row.lane for row in self._seen}
        return [
            *self._seen,
            *(
                _unseen(w)
                for w in self._flusher.workers
                if w.holding and w.holding.lane not in seen
            ),
        ]

    def _lane(self, row: LaneRow, unreachable: str) -> LaneStatus:
        worker = self._flusher.worker_of(row.lane)
        if worker is None:
            age_seconds = row.age_seconds if row.staged_points else 0.0
            return LaneStatus(row, False, age_seconds, unreachable or reason_of_others(row))
        flow = self._flow(worker)
        return LaneStatus(
            row, True, flow.oldest_age_seconds, reason_of_ours(row, flow, unreachable)
        )

    def _flow(self, worker: LaneWorker) -> Flow:
        oldest = worker.oldest_appended_at
        return Flow(
            backlog_points=worker.backlog_points,
            oldest_age_seconds=0.0 if oldest is None else time.monotonic() - oldest,
            last_error=self._flusher.totals.last_error,
            last_flush_seconds=self._flusher.totals.last_flush_seconds,
            lanes=len(self._flusher.workers),
            lanes_max=self._config.lanes_max,
            points_per_flush=self._config.points,
            interval_seconds=self._config.interval_ms / 1000,
        )


def _unseen(worker: LaneWorker) -> LaneRow:
    """From memory alone. An epoch is the time of its claim, in microseconds."""
    holding = worker.holding
    assert holding is not None
    return LaneRow(
        lane=holding.lane,
        owned=True,
        epoch=holding.epoch,
        sequence=holding.open.sequence - 1,
        flushed_at=datetime.fromtimestamp(holding.epoch / 1_000_000, UTC),
        staged_points=0,
        staged_bytes=0,
        age_seconds=0.0,
        waits_for="",
    )


def _no_warning(task: "asyncio.Task[list[LaneRow]]") -> None:
    """Nobody may be there any more who would ask for its error."""
    with suppress(asyncio.CancelledError):
        task.exception()
