"""Asks each server, again and again, who it is and how far; so, finds out which are dead."""

import asyncio
from dataclasses import dataclass

import psycopg

from atlas_common.db import PrimaryClock, PrimarySample, rights
from atlas_common.errors import FatalError, ServiceError
from atlas_common.telemetry import logger
from atlas_query import store
from atlas_query.config import RouterConfig
from atlas_query.endpoint import Endpoint, MissedError
from atlas_query.freshness import FreshnessTracker
from atlas_query.policy import PRIMARY, Miss
from atlas_query.servers import Servers
from atlas_query.store import Look
from atlas_query.time_limit import within

log = logger(__name__)
_PAUSE_SECONDS = 1.0
_RIGHTS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Pollers:
    """What pollers of all servers have in common."""

    servers: Servers
    tracker: FreshnessTracker
    clock: PrimaryClock
    config: RouterConfig

    def of(self, endpoint: Endpoint) -> "ServerPoller":
        """One more."""
        return ServerPoller(endpoint, self)


class ServerPoller:
    """Tells what one server is and holds."""

    def __init__(self, endpoint: Endpoint, common: Pollers) -> None:
        self._endpoint = endpoint
        self._servers = common.servers
        self._tracker = common.tracker
        self._clock = common.clock
        self._config = common.config
        self._check_rights = rights.guard(endpoint.database)
        self._is_checked = False
        self._is_failing = False

    async def run(self) -> None:
        """Poll until cancelled, through outages."""
        is_primary = False
        while True:
            try:
                is_primary = await self.poll()
            except Exception:
                log.exception("poll failed", server=self._endpoint.name)
                await asyncio.sleep(_PAUSE_SECONDS)
            await self._tracker.pause(
                self._config.poll_interval_seconds,
                self._config.waiting_poll_interval_seconds,
                of_primary=is_primary,
            )

    async def poll(self) -> bool:
        """Ask once; whether the server is the primary."""
        name = self._endpoint.name
        try:
            look = await self._endpoint.polled(
                lambda: store.look(self._endpoint.database), self._config.poll_timeout_seconds
            )
            if not self._is_checked:
                await self._endpoint.polled(self._check_rights, _RIGHTS_SECONDS)
                self._is_checked = True
        except FatalError as error:
            self._servers.refuse(name, str(error))
            return False
        except MissedError as error:
            if error.miss is not Miss.BUSY:  # Busy is alive: its last sighting grows old by itself.
                self._lose(self._servers.missed(name), error)
            return False
        role = self._servers.saw(name, look.identity)
        if role == PRIMARY:
            await self._stand(look)
        elif role is not None:
            if not self._tracker.sighting(role).is_reachable:
                log.info("replica found", replica=role)
            self._tracker.seen(role, look.beat, look.positions)
        return role == PRIMARY

    def _lose(self, role: str | None, error: MissedError) -> None:
        if role is None:
            return
        if self._tracker.sighting(role).is_reachable:
            log.warning("server lost", server=self._endpoint.name, role=role, error=str(error))
        self._tracker.lost(role)

    async def _stand(self, look: Look) -> None:
        """Tell where the primary stands.

        Not a part of the question before: a failure here says nothing of the primary's health.
        """
        self._clock.observe(PrimarySample(look.sent, look.received, look.clock, look.beat))
        try:
            standing = await within(
                self._config.poll_timeout_seconds,
                lambda: store.primary_standing(self._endpoint.database),
            )
        except (psycopg.Error, ServiceError, TimeoutError) as error:
            if not self._is_failing:
                log.warning("primary's standing unknown", error=str(error))
            self._is_failing = True
        else:
            self._is_failing = False
            self._tracker.stood(standing)
