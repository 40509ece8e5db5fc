"""Keeps the primary's heartbeat going, by which all lag is measured."""

import asyncio
import random
from datetime import timedelta

import psycopg

from atlas_common.db.database import Database
from atlas_common.db.queries import load_queries
from atlas_common.errors import ServiceError
from atlas_common.telemetry.logs import logger

_QUERIES = load_queries("atlas_common.db")
_log = logger(__name__)


class Heartbeat:
    """Beats every `interval_seconds`, through outages. Several writers may run one."""

    def __init__(self, database: Database, interval_seconds: float = 0.2) -> None:
        self._database = database
        self._interval_seconds = interval_seconds
        # The database skips a beat if the newest is younger than this. A little less than the
        # interval: with the interval itself, a beat that comes a millisecond early would be skipped
        # and the next would find the heart twice as old.
        self._min_interval = timedelta(seconds=interval_seconds * 0.75)
        self._failing = False

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self._try_beat()
            # Jitter keeps two writers from beating in step and both being skipped in turn.
            await asyncio.sleep(self._interval_seconds * random.uniform(0.9, 1.1))  # noqa: S311

    async def beat(self) -> None:
        """Beat once. Raises ServiceError or psycopg.Error."""
        async with self._database.transaction() as connection:
            await connection.execute(_QUERIES["beat_heart"], {"min_interval": self._min_interval})

    async def _try_beat(self) -> None:
        try:
            await self.beat()
        except (ServiceError, psycopg.Error) as error:
            if not self._failing:  # A line per change, not five a second.
                _log.warning("heartbeat failing", database=self._database.name, error=str(error))
            self._failing = True
        else:
            if self._failing:
                _log.info("heartbeat recovered", database=self._database.name)
            self._failing = False
