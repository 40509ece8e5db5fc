"""Looks at what waits in staging, in this process and in the database."""

import time

from psycopg.rows import class_row

from atlas_common.db import Database
from atlas_ingest.budget import Budget
from atlas_ingest.flush import Flusher
from atlas_ingest.status import LaneRow, LaneStatus, StagingStatus
from atlas_ingest.store import Q


class StagingMonitor:
    """Looks at staging; counts what was refused since this process started."""

    def __init__(self, primary: Database, flusher: Flusher, budget: Budget) -> None:
        self._primary = primary
        self._flusher = flusher
        self._budget = budget
        self.rejected_points = 0

    async def lanes(self) -> list[LaneRow]:
        """All lanes that were ever used. Raises ServiceError, psycopg.Error."""
        async with self._primary.transaction(read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(LaneRow))
            return await (await cursor.execute(Q["staging_status"])).fetchall()

    async def status(self) -> StagingStatus:
        """Everything at this moment. Raises ServiceError, psycopg.Error."""
        totals = self._flusher.totals
        return StagingStatus(
            lanes=[self._lane(row) for row in await self.lanes()],
            pending_points=self._budget.points,
            pending_points_max=self._budget.points_max,
            flushed_points=totals.flushed_points,
            rejected_points=self.rejected_points,
            last_flush_seconds=totals.last_flush_seconds,
        )

    def _lane(self, row: LaneRow) -> LaneStatus:
        worker = self._flusher.worker_of(row.lane)
        if worker is not None:
            oldest = worker.oldest_appended_at
            age_seconds = 0.0 if oldest is None else time.monotonic() - oldest
            return LaneStatus(row, True, age_seconds, self._flusher.totals.last_error)
        if row.staged_points and not row.owned:
            reason = "the lane has no owner; an ingest process adopts it within seconds"
            return LaneStatus(row, False, row.age_seconds, reason)
        return LaneStatus(row, False, row.age_seconds if row.staged_points else 0.0, "")
