"""How far a copy is behind the primary, in the primary's own time.

The primary is asked for its newest heartbeat and its clock; between the questions this process's
monotonic clock carries the time on. All estimates err to the safe side: a copy is never called
fresher than it is.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from atlas_common.db.database import Database
from atlas_common.db.queries import load_queries
from atlas_common.db.tenancy import Beat
from atlas_common.errors import ServiceError
from atlas_common.telemetry.logs import logger

WRITER_DEAD_SECONDS = 2.0
POLL_FRESH_SECONDS = 1.0

_SAMPLES_MAX = 64
# Seconds per second that two clocks may part: NTP slews at up to 500e-6, quartz drifts 100e-6.
_DRIFT = 600e-6
_TOLERANCE_SECONDS = 1e-4
_QUERIES = load_queries("atlas_common.db")
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class PrimarySample:
    """One answer of the primary. `sent` and `received` are this process's monotonic seconds."""

    sent: float
    received: float
    primary_now: datetime
    beat: Beat


class PrimaryClock:
    """The primary's time and newest heartbeat as far as they are known. Pure: no clock, no I/O."""

    def __init__(self) -> None:
        self._samples: deque[PrimarySample] = deque(maxlen=_SAMPLES_MAX)

    @property
    def newest_beat(self) -> Beat | None:
        """The newest heartbeat the primary has told of."""
        return self._samples[-1].beat if self._samples else None

    def observe(self, sample: PrimarySample) -> None:
        """Learn from an answer. A clock that jumped (failover, step) starts the estimate anew."""
        if self._samples and not self._agrees(sample):
            self._samples.clear()
        self._samples.append(sample)

    def forget(self) -> None:
        """Another server is the primary: nothing is known of its clock."""
        self._samples.clear()

    def primary_now(self, now: float) -> datetime | None:
        """The latest that the primary's clock can show at `now`; None before any answer."""
        if not self._samples:
            return None
        return datetime.fromtimestamp(self._upper(now), UTC)

    def lag_seconds(self, beat: Beat, now: float) -> float:
        """How far a copy that holds `beat` can be behind at most.

        0 if the primary had no newer heartbeat a moment ago; infinite if nothing is known, or if
        the primary's own newest heartbeat is over two seconds old: then nobody beats, and a
        copy's heartbeat says nothing about the copy.
        """
        if not self._samples or beat.beat_id == 0:
            return math.inf
        newest = self._samples[-1]
        if newest.primary_now - newest.beat.beaten_at > timedelta(seconds=WRITER_DEAD_SECONDS):
            return math.inf
        if beat.beat_id >= newest.beat.beat_id and now - newest.sent <= POLL_FRESH_SECONDS:
            return 0.0
        return max(0.0, self._upper(now) - beat.beaten_at.timestamp())

    def _upper(self, now: float) -> float:
        # The server read its clock after `sent`, so no more than now - sent has passed since.
        return min(
            sample.primary_now.timestamp() + (now - sample.sent) * (1 + _DRIFT)
            for sample in self._samples
        )

    def _lower(self, now: float) -> float:
        return max(
            sample.primary_now.timestamp() + (now - sample.received) * (1 - _DRIFT)
            for sample in self._samples
        )

    def _agrees(self, sample: PrimarySample) -> bool:
        read = sample.primary_now.timestamp()
        return (
            self._lower(sample.sent) - _TOLERANCE_SECONDS
            <= read
            <= self._upper(sample.received) + _TOLERANCE_SECONDS
        )


class PrimaryClockPoller:
    """Asks the primary, again and again, on behalf of a PrimaryClock."""

    def __init__(
        self,
        database: Database,
        clock: PrimaryClock,
        interval_seconds: float = 0.2,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._monotonic = monotonic
        self._failing = False

    async def run(self) -> None:
        """Poll until cancelled, through outages."""
        while True:
            try:
                await self.poll()
            except (ServiceError, psycopg.Error) as error:
                if not self._failing:
                    _log.warning("primary clock unknown", error=str(error))
                self._failing = True
            else:
                self._failing = False
            await asyncio.sleep(self._interval_seconds)

    async def poll(self) -> None:
        """Ask once. Raises ServiceError or psycopg.Error."""
        async with self._database.transaction(read_only=True) as connection:
            sent = self._monotonic()  # After the wait for a connection: it would widen the bound.
            cursor = await connection.execute(_QUERIES["newest_beat"], {})
            row = await cursor.fetchone()
            received = self._monotonic()
        if row is not None:
            beat_id, beaten_at, primary_now = row
            self._clock.observe(
                PrimarySample(sent, received, primary_now, Beat(beat_id, beaten_at))
            )
