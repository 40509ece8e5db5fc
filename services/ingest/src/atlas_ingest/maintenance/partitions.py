"""Partitions ahead of time, and rows that found none moved to where they belong."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from atlas_common import errors, telemetry
from atlas_common.db import Database, load_queries
from atlas_common.errors import ServiceError
from atlas_ingest.config import MaintenanceConfig

Q = load_queries("atlas_ingest.maintenance")

_RETRY_SECONDS = 2.0
_POSTPONED = "postponed"
_MOVES_MAX = 1000
_DROPS_MAX = 100
_log = telemetry.logger(__name__)


class _RolledBackError(Exception):
    """Ends a transaction without a trace."""


@dataclass(slots=True)
class PartitionHealth:
    """What the last look found; all zero when all is well."""

    default_rows: int = 0
    """Rows in the default partition; at most a million are counted."""
    default_age_seconds: float = 0.0
    """Since the oldest of them was stored."""
    postponed: int = 0
    """What could not be made because a transaction was in the way."""


class Partitions:
    """Makes partitions ahead, empties the default one, moves the ledger on and drops its old days.

    Each is a transaction of the database's own functions, safe beside other processes and to
    repeat; what meets a long transaction gives up within its lock_timeout and is tried again.
    """

    def __init__(self, primary: Database, config: MaintenanceConfig) -> None:
        self.health = PartitionHealth()
        self._primary = primary
        self._config = config
        self._maintained = False

    async def run(self) -> None:
        """Maintain once, and whenever rows lie in DEFAULT; through outages.

        Otherwise the policy of the job `partitions` has it done, by one process for all.
        """
        while True:
            try:
                await self.look()
                if not self._maintained or self.health.default_rows:
                    await self.maintain()
                if self.health.default_rows:
                    await self.move_default_rows()
            except (ServiceError, psycopg.Error) as error:
                _log.warning("partitions not maintained", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await asyncio.sleep(self._config.default_rows_interval_seconds)

    async def look(self) -> None:
        """See what lies in the default partition. Raises ServiceError, psycopg.Error."""
        async with self._primary.transaction(read_only=True) as connection:
            row = await (await connection.execute(Q["default_rows"])).fetchone()
        assert row is not None
        row_count, oldest = row
        before = self.health.default_rows
        self.health.default_rows = row_count
        self.health.default_age_seconds = (
            max(0.0, time.time() - oldest.timestamp()) if oldest else 0
        )
        if row_count and not before:
            _log.error("rows have no partition", rows=row_count, oldest=oldest.isoformat())
        elif before and not row_count:
            _log.info("the default partition is empty again")

    async def plan(self) -> list[str]:
        """What `maintain` would do: done, and rolled back. Raises ServiceError, psycopg.Error."""
        done: list[str] = []
        with suppress(_RolledBackError):
            async with self._primary.transaction() as connection:
                row = await (await connection.execute(Q["maintain_partitions"])).fetchone()
                done = row[0] if row is not None else []
                raise _RolledBackError
        return done

    async def maintain(self) -> list[str]:
        """Make partitions, once; what was done. Raises ServiceError, psycopg.Error."""
        async with self._primary.transaction() as connection:
            row = await (await connection.execute(Q["maintain_partitions"])).fetchone()
        self._maintained = True
        done: list[str] = row[0] if row is not None else []
        postponed = [word for word in done if word.startswith(_POSTPONED)]
        self.health.postponed = len(postponed)
        if postponed:
            _log.warning("partitions postponed", reasons=postponed)
        if len(postponed) < len(done):
            _log.info("partitions maintained", done=[w for w in done if w not in postponed])
        await self._drop_expired_ledger()
        return done

    async def move_default_rows(self) -> int:
        """Move what has no partition; how many rows. Raises ServiceError, psycopg.Error."""
        total = 0
        for _ in range(_MOVES_MAX):
            async with self._primary.transaction() as connection:
                row = await (await connection.execute(Q["move_default_rows"])).fetchone()
            assert row is not None
            moved, outcome = row
            total += moved
            if not moved:
                _log.info("rows without a partition", moved=total, outcome=outcome)
                break
            _log.info("rows moved", rows=moved, outcome=outcome)
        await self.look()
        return total

    async def check(self) -> None:
        """Return once there are partitions to write to; a readiness check."""
        if not self._maintained:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", "the partitions are not made yet", retry_after=1.0
            )

    async def _drop_expired_ledger(self) -> None:
        for _ in range(_DROPS_MAX):
            try:
                async with self._primary.transaction() as connection:
                    row = await (await connection.execute(Q["drop_expired_ledger"])).fetchone()
            except psycopg.errors.LockNotAvailable:
                _log.info("an old day of the ledger is in use; it is dropped later")
                return
            if row is None or row[0] is None:
                return
            _log.info("ledger partition dropped", partition=row[0])
