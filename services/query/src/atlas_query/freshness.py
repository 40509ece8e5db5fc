"""How far each replica is, as last seen. Pure but for waking those who wait; told the time."""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from atlas.type.freshness import Position
from atlas_common.db import NO_BEAT, Beat, PrimaryClock


@dataclass(slots=True)
class Sighting:
    """A replica as its poller saw it last."""

    beat: Beat = NO_BEAT
    positions: tuple[Position, ...] = ()
    is_reachable: bool = False
    progress: int = 0


class FreshnessTracker:
    """Keeps what the pollers see, measures lag in the primary's time, and wakes waiting reads."""

    def __init__(
        self, replicas: Iterable[str], clock: PrimaryClock, monotonic: Callable[[], float]
    ) -> None:
        self._sightings = {name: Sighting() for name in replicas}
        self._clock = clock
        self._monotonic = monotonic
        self._moved = asyncio.Event()
        self._waiting = 0
        self._hurried = asyncio.Event()

    @property
    def is_awaited(self) -> bool:
        """Whether some read waits for a replica to move: then the pollers hurry."""
        return self._waiting > 0

    def sighting(self, replica: str) -> Sighting:
        """What is known of a replica."""
        return self._sightings[replica]

    def seen(self, replica: str, beat: Beat, positions: tuple[Position, ...]) -> None:
        """A poller's answer."""
        sighting = self._sightings[replica]
        if sighting.is_reachable and (sighting.beat, sighting.positions) == (beat, positions):
            return
        sighting.beat, sighting.positions, sighting.is_reachable = beat, positions, True
        self._progressed(sighting)

    def lost(self, replica: str) -> None:
        """A poller got no answer."""
        sighting = self._sightings[replica]
        if sighting.is_reachable:
            sighting.is_reachable = False
            self._progressed(sighting)

    def lag_seconds(self, replica: str) -> float:
        """How far a replica can be behind by what was seen of it last; infinite if unknown."""
        return self.lag_of(self._sightings[replica].beat)

    def lag_of(self, beat: Beat) -> float:
        """How far a copy that holds this heartbeat can be behind."""
        return self._clock.lag_seconds(beat, self._monotonic())

    def not_before(self, max_staleness_seconds: float) -> datetime | None:
        """The oldest heartbeat that a copy of at most this staleness can have as its newest.

        None when that cannot be told: no copy can be proven fresh then.
        """
        now = self._monotonic()
        primary_now, newest = self._clock.primary_now(now), self._clock.newest_beat
        if primary_now is None or newest is None:
            return None
        if math.isinf(self._clock.lag_seconds(newest, now)):
            return None
        bound = primary_now - timedelta(seconds=max_staleness_seconds)
        # Hearts beat five times a second: a copy that has the newest beat is not behind, although
        # that beat may be older than a very small bound.
        return min(bound, newest.beaten_at) if self._clock.lag_seconds(newest, now) == 0 else bound

    async def wait_progress(self, seconds: float) -> None:
        """Return when a replica has moved, at most after so many seconds."""
        with self._awaited():
            moved = self._moved
            try:
                async with asyncio.timeout(seconds):
                    await moved.wait()
            except TimeoutError:
                return

    async def pause(self, seconds: float, waiting_seconds: float) -> None:
        """A poller's pause: the shorter one as soon as some read waits."""
        if not self.is_awaited:
            try:
                async with asyncio.timeout(seconds):
                    await self._hurried.wait()
            except TimeoutError:
                return
        await asyncio.sleep(min(seconds, waiting_seconds))

    @contextmanager
    def _awaited(self) -> Iterator[None]:
        self._waiting += 1
        self._hurried.set()
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._hurried.clear()

    def _progressed(self, sighting: Sighting) -> None:
        sighting.progress += 1
        # A fresh event for those who come later: this one stays set for those who wait on it.
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
