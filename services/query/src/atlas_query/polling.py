"""Asks each server, again and again, how far it is; in doing so, finds out which are dead."""

from dataclasses import dataclass

import psycopg

from atlas_common.db import PrimaryClockPoller
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger
from atlas_query import store
from atlas_query.config import RouterConfig
from atlas_query.endpoint import Endpoint, MissedError
from atlas_query.freshness import FreshnessTracker
from atlas_query.policy import PRIMARY, Miss
from atlas_query.time_limit import within

log = logger(__name__)


@dataclass(slots=True)
class ReplicaPoller:
    """Tells the tracker what one replica holds."""

    endpoint: Endpoint
    tracker: FreshnessTracker
    config: RouterConfig

    async def run(self) -> None:
        """Poll until cancelled, through outages."""
        while True:
            await self.poll()
            await self.tracker.pause(
                self.config.poll_interval_seconds, self.config.waiting_poll_interval_seconds
            )

    async def poll(self) -> None:
        """Ask once."""
        name = self.endpoint.name
        was_reachable = self.tracker.sighting(name).is_reachable
        try:
            progress = await self.endpoint.polled(
                lambda: store.tier_progress(self.endpoint.database),
                self.config.poll_timeout_seconds,
            )
        except MissedError as error:
            if error.miss is Miss.BUSY:
                return  # Alive: it keeps its last sighting, which grows old all by itself.
            if was_reachable:
                log.warning("replica lost", replica=name, error=str(error))
            self.tracker.lost(name)
        else:
            if not was_reachable:
                log.info("replica found", replica=name)
            self.tracker.seen(name, progress.beat, progress.positions)


@dataclass(slots=True)
class PrimaryPoller:
    """Keeps the primary's clock known, and where it stands."""

    endpoint: Endpoint
    clock: PrimaryClockPoller
    tracker: FreshnessTracker
    config: RouterConfig
    _is_failing: bool = False

    async def run(self) -> None:
        """Poll until cancelled, through outages."""
        while True:
            await self.poll()
            await self.tracker.pause(
                self.config.poll_interval_seconds,
                self.config.waiting_poll_interval_seconds,
                of_primary=True,
            )

    async def poll(self) -> None:
        """Ask once."""
        was_answering = self.endpoint.is_answering
        try:
            await self.endpoint.polled(self.clock.poll, self.config.poll_timeout_seconds)
        except MissedError as error:
            if was_answering and not self.endpoint.is_answering:
                log.warning("primary lost", error=str(error))
            if error.miss is not Miss.BUSY:
                self.tracker.lost(PRIMARY)
        else:
            if not was_answering:
                log.info("primary found")
            await self._stand()

    async def _stand(self) -> None:
        """Not a part of the question above: a failure here says nothing of the primary's health."""
        try:
            standing = await within(
                self.config.poll_timeout_seconds,
                lambda: store.primary_standing(self.endpoint.database),
            )
        except (psycopg.Error, ServiceError, TimeoutError) as error:
            if not self._is_failing:
                log.warning("primary's standing unknown", error=str(error))
            self._is_failing = True
        else:
            self._is_failing = False
            self.tracker.stood(standing)
