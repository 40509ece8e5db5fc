"""Flushes what ingest processes left behind that died and were not replaced."""

import asyncio

import psycopg

from atlas_common import telemetry
from atlas_common.config import DatabaseConfig
from atlas_common.db import Database
from atlas_common.errors import ServiceError
from atlas_ingest.config import MaintenanceConfig
from atlas_ingest.lanes.lane import LaneLostError, lane_sessions
from atlas_ingest.lanes.takeover import TakeOver
from atlas_ingest.store import Q

_log = telemetry.logger(__name__)


class Adoption:
    """Looks for lanes that hold something and have no owner.

    One that was found twice in a row is emptied: an owner that has lost its connection only is back
    by then.
    """

    def __init__(
        self,
        primary: Database,
        direct: DatabaseConfig,
        config: MaintenanceConfig,
        take_over: TakeOver,
    ) -> None:
        self._primary = primary
        self._direct = direct
        self._interval_seconds = config.adoption_interval_seconds
        self._take_over = take_over
        self._seen: frozenset[int] = frozenset()

    async def run(self) -> None:
        """Look every interval, through outages."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await self.adopt()
            except (ServiceError, psycopg.Error, LaneLostError) as error:
                _log.warning("adoption failed", error=str(error))

    async def adopt(self) -> None:
        """Look once. Raises ServiceError, psycopg.Error, LaneLostError."""
        orphans = frozenset(await self._orphans())
        twice, self._seen = orphans & self._seen, orphans
        for lane in sorted(twice):
            await self._empty(lane)

    async def _orphans(self) -> list[int]:
        async with self._primary.transaction(read_only=True) as connection:
            cursor = await connection.execute(Q["orphaned_lanes"])
            return [row[0] for row in await cursor.fetchall()]

    async def _empty(self, lane: int) -> None:
        """Under the epoch of its owner, so that what the owner has promised comes true."""
        async with lane_sessions(self._direct, name="ingest adoption") as sessions:
            if await sessions.lock(lane):
                await self._take_over.flush_leftovers(sessions, lane)
                _log.info("lane adopted", lane=lane)
