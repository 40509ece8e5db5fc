"""A token bucket that may be overdrawn. Pure; the time is given."""

import math


class Bucket:
    """Fills at a rate, and holds what comes in so many seconds, but `least` at least.

    Who asks for more than is in it gets that, if there is one unit at least, and the next waits
    until the debt is repaid. So a batch that is larger than the bucket is not refused for ever, is
    not starved by small ones, and what costs is known only afterwards can be charged then. Over any
    time the bucket gives what came in, what it held, and one request.
    """

    __slots__ = ("_at", "_capacity", "_level", "_rate")

    def __init__(
        self, rate: float, burst_seconds: float, now: float, *, least: float = 1.0
    ) -> None:
        self._rate = rate
        self._capacity = self._level = max(least, rate * burst_seconds)
        self._at = now

    def take(self, amount: float, now: float) -> float:
        """0 if there was enough, which is taken; else in how many seconds there will be."""
        self._fill(now)
        needed = min(amount, 1.0)
        if self._level < needed:
            # Never 0: that it was not taken has to be seen.
            return max(1e-3, (needed - self._level) / self._rate)
        self._level -= amount
        return 0.0

    def charge(self, amount: float, now: float, *, debt_seconds_max: float = math.inf) -> None:
        """Take it, whether it is there or not; what is owed is repaid within `debt_seconds_max`."""
        self._fill(now)
        self._level = max(self._level - amount, -self._rate * debt_seconds_max)

    def _fill(self, now: float) -> None:
        level = self._level + (now - self._at) * self._rate
        self._level = min(self._capacity, level)
        self._at = now
