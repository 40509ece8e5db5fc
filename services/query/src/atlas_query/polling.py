"""Asks each server, again and again, how far it is; in doing so, finds out which are dead."""

import asyncio
from dataclasses import dataclass

from atlas_common.db import PrimaryClockPoller
from atlas_common.telemetry import logger
from atlas_query import store
from atlas_query.config import RouterConfig
from atlas_query.endpoint import Endpoint, MissedError
from atlas_query.freshness import FreshnessTracker
from atlas_query.policy import Miss

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
    """Keeps the primary's clock known."""

    endpoint: Endpoint
    clock: PrimaryClockPoller
    config: RouterConfig

    async def run(self) -> None:
        """Poll until cancelled, through outages."""
        while True:
            await self.poll()
            await asyncio.sleep(self.config.poll_interval_seconds)

    async def poll(self) -> None:
        """Ask once."""
        was_answering = self.endpoint.is_answering
        try:
            await self.endpoint.polled(self.clock.poll, self.config.poll_timeout_seconds)
        except MissedError as error:
            if was_answering and not self.endpoint.is_answering:
                log.warning("primary lost", error=str(error))
        else:
            if not was_answering:
                log.info("primary found")
