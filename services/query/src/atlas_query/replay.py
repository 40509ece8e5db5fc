"""How fast a copy follows the primary, and when it will be where somebody wants it. Pure."""

from collections import deque
from datetime import datetime, timedelta

WINDOW_SECONDS = 5.0
STILL = 0.02
"""Slower than this (seconds of the primary's time a second), a copy does not move."""
_SPACING_SECONDS = 0.1
_SAMPLES_MAX = 64


class ReplaySpeed:
    """Seconds of the primary's time that a copy replays in a second, over the last few of them.

    Measured by the newest heartbeat it holds: 1 keeps up, more catches up, 0 stands still.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, datetime]] = deque(maxlen=_SAMPLES_MAX)

    def observe(self, now: float, beaten_at: datetime) -> None:
        """The copy's newest heartbeat at this moment; told also when it is still the same."""
        if self._samples and now - self._samples[-1][0] < _SPACING_SECONDS:
            return
        self._samples.append((now, beaten_at))
        while now - self._samples[0][0] > WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()

    def forget(self) -> None:
        """The copy was away: what it did before says nothing."""
        self._samples.clear()

    def speed(self) -> float | None:
        """None as long as nothing can be told."""
        if len(self._samples) < 2:
            return None
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return max(0.0, (last - first).total_seconds() / (ended - began))

    def until(self, held: datetime, wanted: datetime) -> float | None:
        """Seconds until a copy that holds everything before `held` holds all before `wanted`.

        None: it does not move, or nobody can tell.
        """
        missing = (wanted - held) / timedelta(seconds=1)
        if missing <= 0:
            return 0.0
        speed = self.speed()
        return None if speed is None or speed < STILL else missing / speed

    def until_within(self, lag_seconds: float, bound_seconds: float) -> float | None:
        """Seconds until the lag is within the bound: what is wanted moves on meanwhile."""
        if lag_seconds <= bound_seconds:
            return 0.0
        speed = self.speed()
        if speed is None or speed - 1 < STILL or lag_seconds == float("inf"):
            return None
        return (lag_seconds - bound_seconds) / (speed - 1)
