"""Waits until a tier holds positions."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from atlas.type.freshness import Position
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_query.consistency import Analytics, Source
from atlas_query.policy import PRIMARY
from atlas_query.standings import holds
from atlas_query.survey import Survey
from atlas_query.tier import PositionState, TierStanding

RETRY_AFTER_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Target:
    """Which tier is waited for; of replicas the one of this name, or any one, or all there are."""

    source: Source
    endpoint: str = ""
    is_all: bool = False


@dataclass(frozen=True, slots=True)
class Waited:
    """Those that hold the positions, and how long that took."""

    tiers: Sequence[TierStanding]
    seconds: float


class Waits:
    """Waits for one tier at a time, woken by what the pollers see."""

    def __init__(self, survey: Survey, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._survey = survey
        self._tracker = survey.tracker
        self._monotonic = monotonic

    async def wait(
        self, target: Target, positions: tuple[Position, ...], token: bytes, seconds: float
    ) -> Waited:
        """Return when the target holds the positions.

        Raises ServiceError: UNAVAILABLE / FRESHNESS_UNMET after so many seconds, with where the
        tier stands; FAILED_PRECONDITION / POSITION_LOST at once; INVALID_ARGUMENT / INVALID_FIELD
        for a replica that is not there; UNAVAILABLE / DEPENDENCY_UNAVAILABLE for a tier that is
        not configured.
        """
        began = self._monotonic()
        ends = began + seconds
        match target.source:
            case Source.CACHE:
                tiers = await self._cache(positions, token, ends)
            case Source.WAREHOUSE:
                tiers = [await self._warehouse(token, ends)]
            case _:
                tiers = await self._servers(target, positions, ends)
        return Waited(tiers, self._monotonic() - began)

    def _names(self, target: Target) -> list[str]:
        if target.source is Source.PRIMARY:
            return [PRIMARY]
        names = self._survey.router.replica_names
        if not names:
            raise _absent("replica")
        if not target.endpoint:
            return names
        if target.endpoint not in names:
            raise errors.invalid_argument(
                "INVALID_FIELD",
                f"there is no replica {target.endpoint!r}: there are {', '.join(names)}",
                field="endpoint",
            )
        return [target.endpoint]

    async def _servers(
        self, target: Target, positions: tuple[Position, ...], ends: float
    ) -> list[TierStanding]:
        standings: dict[str, TierStanding] = {}
        progress: dict[str, int] = {}
        while True:
            names = self._names(target)  # Anew: they join, leave and are promoted while we wait.
            standings = {name: standings[name] for name in names if name in standings}
            due = [name for name in names if self._is_due(name, standings, progress, positions)]
            progress.update({name: self._tracker.sighting(name).progress for name in due})
            looks = (self._look(name, positions) for name in due)
            standings.update(zip(due, await asyncio.gather(*looks), strict=True))
            for name in due:
                _check_lost(standings[name])
            reached = [standing for standing in standings.values() if standing.is_reached]
            awaited = [s for s in standings.values() if s.tier.is_available and not s.is_reached]
            if reached and not (target.is_all and awaited):
                return reached
            if any(self._is_due(name, standings, progress, positions) for name in names):
                continue  # It moved while we looked: nobody will wake us for that.
            left = ends - self._monotonic()
            if left <= 0:
                raise _late([self._survey.known(name, positions) for name in names])
            await self._tracker.wait_progress(left, of_primary=PRIMARY in names)

    def _is_due(
        self,
        name: str,
        standings: Mapping[str, TierStanding],
        progress: Mapping[str, int],
        positions: Sequence[Position],
    ) -> bool:
        """Not again before it has moved, and not if it cannot hold them yet by what was seen."""
        if name not in standings:
            return True  # The first look may know more than the poller's last.
        if standings[name].is_reached:
            return False
        sighting = self._tracker.sighting(name)
        has_moved = sighting.progress != progress.get(name)
        return has_moved and (not sighting.is_reachable or holds(sighting.positions, positions))

    async def _look(self, name: str, positions: Sequence[Position]) -> TierStanding:
        # One that hangs would hold us up until after the deadline: its poller is at it.
        if not self._tracker.sighting(name).is_reachable:
            return self._survey.known(name, positions)
        return await self._survey.server(name, positions)

    async def _cache(
        self, positions: tuple[Position, ...], token: bytes, ends: float
    ) -> list[TierStanding]:
        is_checked = False
        while True:
            standing = await self._survey.cache_of(positions, token)
            if standing is None:
                raise _absent("hotcache")
            if standing.is_reached:
                return [standing]
            if not is_checked:
                # The cache never says that something is lost: it only stays behind.
                _check_lost(await self._survey.server(PRIMARY, positions))
                is_checked = True
            left = ends - self._monotonic()
            if left <= 0:
                raise _late([standing])
            # Invalidations follow flushes at once, and whatever they miss is noticed at the next.
            await self._tracker.wait_progress(left, of_primary=True)

    async def _warehouse(self, token: bytes, ends: float) -> TierStanding:
        while True:
            # Waits there, woken by what is applied; never longer than the reconciler allows.
            left = max(0.0, ends - self._monotonic())
            standing = await self._survey.analytics(Analytics(token=token), left)
            if standing is None:
                raise _absent("warehouse")
            if standing.is_reached:
                return standing
            _check_lost(standing)
            if not standing.tier.is_available:
                raise errors.unavailable(
                    "DEPENDENCY_UNAVAILABLE", standing.why, retry_after=1.0, dependency="warehouse"
                )
            if ends - self._monotonic() <= 0:
                raise _late([standing])


def _check_lost(standing: TierStanding) -> None:
    if standing.state is PositionState.LOST:
        error = errors.failed_precondition(
            "POSITION_LOST",
            "a failover lost what the token stands for: read what is there, and write again what"
            " is missing",
            field="token",
        )
        raise _with(error, [standing])


def _late(standings: Sequence[TierStanding]) -> ServiceError:
    where = ", ".join(standing.tier.endpoint for standing in standings)
    error = errors.unavailable(
        "FRESHNESS_UNMET",
        f"{where} did not come to hold the token's positions in time: wait longer, or ask another"
        " tier",
        field="token",
        retry_after=RETRY_AFTER_SECONDS,
    )
    return _with(error, standings)


def _with(error: ServiceError, standings: Sequence[TierStanding]) -> ServiceError:
    # Not as keywords: an endpoint may have a name that is one of ours.
    error.metadata.update({standing.tier.endpoint: standing.told() for standing in standings})
    return error


def _absent(what: str) -> ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE", f"no {what} is configured for this service", dependency=what
    )
