"""Where a history that is too long for one call is cut. Pure.

A cut lies between two event times, never among the points of one: the next call starts at the first
event time that was not sent, so that no point is lost and none is sent twice.
"""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Anything with an event time."""

    @property
    def event_us(self) -> int:
        """Microseconds since the epoch."""


TimedT = TypeVar("TimedT", bound=Timed)


class GroupTooLargeError(Exception):
    """A single event time has more points than the limit: nothing could be sent whole."""

    def __init__(self, event_us: int) -> None:
        super().__init__(f"more points at {event_us} us than the limit")
        self.event_us = event_us


class HistoryCut(Generic[TimedT]):
    """Lets through at most `limit` points, by whole event times.

    It is fed points in order of event time, at most `rows_max` (one more than the limit) of them:
    the last one tells that there is more.
    """

    def __init__(self, limit: int) -> None:
        self.rows_max = limit + 1
        self._fed = 0
        self._passed = 0
        self._group: list[TimedT] = []  # The points of the event time that may not be complete.

    def feed(self, points: Iterable[TimedT]) -> list[TimedT]:
        """Those points whose event times are complete now."""
        complete: list[TimedT] = []
        for point in points:
            if self._group and self._group[-1].event_us != point.event_us:
                complete += self._group
                self._group = []
            self._group.append(point)
            self._fed += 1
        self._passed += len(complete)
        return complete

    def end(self) -> tuple[list[TimedT], int | None]:
        """The rest; and, when the limit was reached, the event time to go on from.

        Raises GroupTooLargeError.
        """
        if self._fed < self.rows_max:
            return self._group, None
        cut_us = self._group[-1].event_us
        if self._passed == 0:
            raise GroupTooLargeError(cut_us)
        return [], cut_us
