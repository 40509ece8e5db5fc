"""What the database needs done now and then: partitions ahead."""

import asyncio

import psycopg

from atlas_common import errors, telemetry
from atlas_common.db import Database
from atlas_common.errors import ServiceError
from atlas_ingest.config import MaintenanceConfig
from atlas_ingest.store import Q

_RETRY_SECONDS = 2.0
_log = telemetry.logger(__name__)


class Partitions:
    """Makes partitions ahead, moves the ledger to its next bucket, drops expired ones."""

    def __init__(self, primary: Database, config: MaintenanceConfig) -> None:
        self._primary = primary
        self._interval_seconds = config.partitions_interval_seconds
        self._maintained = False

    async def run(self) -> None:
        """Maintain now, and then every interval, through outages."""
        while True:
            try:
                await self.maintain()
            except (ServiceError, psycopg.Error) as error:
                _log.warning("partitions not maintained", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await asyncio.sleep(self._interval_seconds)

    async def maintain(self) -> None:
        """Once. Safe beside other processes. Raises ServiceError, psycopg.Error."""
        async with self._primary.transaction() as connection:
            row = await (await connection.execute(Q["maintain_partitions"])).fetchone()
        self._maintained = True
        if row is not None and row[0]:
            _log.info("partitions maintained", done=row[0])

    async def check(self) -> None:
        """Return once there are partitions to write to; a readiness check."""
        if not self._maintained:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", "the partitions are not made yet", retry_after=1.0
            )
