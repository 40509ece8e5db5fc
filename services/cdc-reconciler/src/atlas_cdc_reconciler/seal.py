"""Sealing the past: after this, it can gain no more rows, and the warehouse has all of them."""

import asyncio

from atlas_cdc_reconciler.progress import Progress
from atlas_common import errors
from atlas_common.db import Database, load_queries
from atlas_common.values import datetime_to_us, us_to_datetime

Q = load_queries("atlas_cdc_reconciler")
_POLL_SECONDS = 0.01


class Sealer:
    """Makes sure that comparing is fair: nothing is under way on either side."""

    def __init__(self, database: Database, progress: Progress, timeout_seconds: float) -> None:
        self._database = database
        self._progress = progress
        self._timeout_seconds = timeout_seconds

    async def seal(self, until_us: int | None) -> int:
        """Seal all before `until_us`, or before now; returns the moment that is sealed.

        When this returns, every row with an earlier ingested_at is committed on the primary and is
        in the warehouse. Writers never wait for it.

        Raises ServiceError: INVALID_ARGUMENT for a moment in the future, UNAVAILABLE when flushes
        or the warehouse take too long or the pipeline is stopped; psycopg.Error.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                sealed_us = await self._announce(until_us)
                await self._wait_for_flushes()
                await self._wait_for_warehouse()
        except TimeoutError:
            raise self._too_slow("the past could not be sealed") from None
        return sealed_us if until_us is None else until_us

    async def catch_up(self) -> None:
        """Wait until the warehouse has all that is committed now. Raises as `seal`."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._wait_for_warehouse()
        except TimeoutError:
            raise self._too_slow("the warehouse did not catch up") from None

    def _too_slow(self, what: str) -> errors.ServiceError:
        text = f"{what} within {self._timeout_seconds:g} s"
        return errors.unavailable("FRESHNESS_UNMET", text, retry_after=1.0)

    async def _announce(self, until_us: int | None) -> int:
        until = None if until_us is None else us_to_datetime(until_us)
        # Committed before anyone looks for flushes: a flush that begins later sees the seal, and
        # one that does not see it began earlier and is found in flight.
        async with self._database.transaction() as connection:
            cursor = await connection.execute(Q["announce_seal"], {"until": until})
            row = await cursor.fetchone()
        assert row is not None
        sealed_us = datetime_to_us(row[0])
        if until_us is not None and sealed_us < until_us:
            raise errors.invalid_argument(
                "INVALID_FIELD",
                "through_time is in the future",
                field="through_time",
                primary_time=row[0].isoformat(),
            )
        return sealed_us

    async def _wait_for_flushes(self) -> None:
        in_flight = await self._flushes()
        while in_flight:
            await asyncio.sleep(_POLL_SECONDS)
            in_flight &= await self._flushes()

    async def _flushes(self) -> set[str]:
        async with self._database.transaction(read_only=True) as connection:
            cursor = await connection.execute(Q["flushes_in_flight"], {})
            row = await cursor.fetchone()
        return set(row[0]) if row else set()

    async def _wait_for_warehouse(self) -> None:
        # A beat that is committed after all those flushes comes behind them in the log.
        async with self._database.transaction() as connection:
            await connection.execute(Q["beat_now"], {})
        async with self._database.transaction(read_only=True) as connection:
            row = await (await connection.execute(Q["newest_beat"], {})).fetchone()
        assert row is not None
        standing = self._progress.now
        while standing.sink.beat.beat_id < row[0]:
            if standing.phase.stands_still:
                raise errors.unavailable(
                    "DEPENDENCY_UNAVAILABLE",
                    f"the pipeline is {standing.phase.value}: {standing.reason}",
                )
            standing = await self._progress.after(standing.version)
