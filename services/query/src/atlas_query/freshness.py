"""How far each server is, as last seen. Pure but for waking those who wait; told the time."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from atlas.type.freshness import Position
from atlas_common.db import NO_BEAT, Beat, PrimaryClock
from atlas_query.policy import PRIMARY
from atlas_query.replay import ReplaySpeed
from atlas_query.standings import Standing, Standings


@dataclass(slots=True)
class Sighting:
    """A server as its poller saw it last."""

    beat: Beat = NO_BEAT
    positions: tuple[Position, ...] = ()
    is_reachable: bool = False
    progress: int = 0
    replay: ReplaySpeed = field(default_factory=ReplaySpeed)


class _Hurry:
    """Whether somebody waits; pollers sleep less then."""

    def __init__(self) -> None:
        self._waiting = 0
        self._event = asyncio.Event()

    @property
    def is_on(self) -> bool:
        return self._waiting > 0

    @contextmanager
    def on(self) -> Iterator[None]:
        self._waiting += 1
        self._event.set()
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._event.clear()

    async def begins(self, seconds: float) -> bool:
        """Whether it is on, or comes on within so many seconds."""
        if self.is_on:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


class FreshnessTracker:
    """Keeps what the pollers see, measures lag in the primary's time, and wakes waiting reads."""

    def __init__(self, clock: PrimaryClock, monotonic: Callable[[], float]) -> None:
        self._sightings: dict[str, Sighting] = {}
        self._steps = 0
        self._clock = clock
        self._monotonic = monotonic
        self._moved = asyncio.Event()
        self._hurry = _Hurry()
        self._primary_hurry = _Hurry()
        self.standings = Standings()
        """Where the primary has been."""

    @property
    def is_awaited(self) -> bool:
        """Whether some read waits for a replica to move: then the pollers hurry."""
        return self._hurry.is_on

    @property
    def newest_beat(self) -> Beat | None:
        """The newest heartbeat that the primary has told of."""
        return self._clock.newest_beat

    def sighting(self, name: str) -> Sighting:
        """What is known of a server; of one that was never seen, or has left, nothing."""
        return self._sightings.get(name) or Sighting()

    def stood(self, standing: Standing) -> None:
        """The primary's poller's answer."""
        self.standings.observe(standing)
        self.seen(PRIMARY, self._clock.newest_beat or NO_BEAT, standing.positions)

    def seen(self, name: str, beat: Beat, positions: tuple[Position, ...]) -> None:
        """A poller's answer."""
        sighting = self._sightings.setdefault(name, Sighting())
        sighting.replay.observe(self._monotonic(), beat.beaten_at)
        if sighting.is_reachable and (sighting.beat, sighting.positions) == (beat, positions):
            return
        sighting.beat, sighting.positions, sighting.is_reachable = beat, positions, True
        self._progressed(sighting)

    def lost(self, name: str) -> None:
        """A poller got no answer."""
        sighting = self.sighting(name)
        if sighting.is_reachable:
            sighting.is_reachable = False
            sighting.replay.forget()
            self._progressed(sighting)

    def forget(self, name: str) -> None:
        """A server has left, or is not what it was."""
        sighting = self._sightings.pop(name, None)
        if sighting is not None:
            self._progressed(sighting)

    def begin_anew(self) -> None:
        """Another server is the primary: nothing is known of its clock, or of where it was."""
        self._clock.forget()
        self.standings.begin_anew()
        self.forget(PRIMARY)

    def lag_seconds(self, replica: str) -> float:
        """How far a replica can be behind by what was seen of it last; infinite if unknown."""
        return self.lag_of(self.sighting(replica).beat)

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

    def fresh_in(
        self, name: str, positions: Sequence[Position], bound_seconds: float | None
    ) -> float | None:
        """In how many seconds a server will hold the positions, and be within the bound.

        By the speed at which it replays now; None: it does not move, or nobody can tell. A position
        is where the primary was first seen to hold it: it cannot be replayed before it is there.
        """
        sighting = self.sighting(name)
        if not sighting.is_reachable or sighting.beat == NO_BEAT:
            return None
        waits: list[float | None] = []
        if positions:
            written = self.standings.seen_at(positions)
            held = sighting.beat.beaten_at
            waits.append(None if written is None else sighting.replay.until(held, written))
        if bound_seconds is not None:
            waits.append(sighting.replay.until_within(self.lag_of(sighting.beat), bound_seconds))
        known = [wait for wait in waits if wait is not None]
        return max(known, default=None) if len(known) == len(waits) else None

    async def wait_progress(self, seconds: float, *, of_primary: bool = False) -> None:
        """Return when a server has moved, at most after so many seconds.

        The replicas' pollers hurry meanwhile, and with `of_primary` the primary's, too.
        """
        with ExitStack() as hurried:
            hurried.enter_context(self._hurry.on())
            if of_primary:
                hurried.enter_context(self._primary_hurry.on())
            moved = self._moved
            try:
                async with asyncio.timeout(seconds):
                    await moved.wait()
            except TimeoutError:
                return

    async def pause(
        self, seconds: float, waiting_seconds: float, *, of_primary: bool = False
    ) -> None:
        """A poller's pause: the shorter one as soon as some read waits."""
        hurry = self._primary_hurry if of_primary else self._hurry
        if await hurry.begins(seconds):
            await asyncio.sleep(min(seconds, waiting_seconds))

    def _progressed(self, sighting: Sighting) -> None:
        # Of all servers together: one that has left and come back is further, not where it began.
        self._steps += 1
        sighting.progress = self._steps
        # A fresh event for those who come later: this one stays set for those who wait on it.
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
