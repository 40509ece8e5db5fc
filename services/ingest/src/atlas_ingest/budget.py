"""What this process holds in memory for calls that are not answered yet, and the bound on it."""

from types import TracebackType
from typing import Self

from atlas_common import errors

RETRY_AFTER_SECONDS = 0.25


class Budget:
    """Points and bytes of unanswered calls. One event loop uses it; nothing waits."""

    def __init__(self, *, points_max: int, bytes_max: int) -> None:
        self.points_max = points_max
        self.bytes_max = bytes_max
        self.points = 0
        self.bytes = 0

    @property
    def fill(self) -> float:
        """How much of it is taken: 0 to 1, and above for a call that was too large for it."""
        return max(self.points / self.points_max, self.bytes / self.bytes_max)

    def admit(self, points: int, size_bytes: int) -> "Admission":
        """Room for a call. Raises ServiceError RESOURCE_EXHAUSTED / OVERLOADED."""
        # One call always fits when there is no other: no size of message is refused for ever.
        if self.points and (
            self.points + points > self.points_max or self.bytes + size_bytes > self.bytes_max
        ):
            raise errors.resource_exhausted(
                "OVERLOADED",
                f"{self.points} points wait to be stored already: come back later",
                retry_after=RETRY_AFTER_SECONDS,
                pending_points=self.points,
                pending_points_max=self.points_max,
                pending_bytes=self.bytes,
                pending_bytes_max=self.bytes_max,
            )
        return Admission(self, points, size_bytes)


class Admission:
    """A call's share of the budget; given back at the end of the block, unless it is kept.

    Kept by a batch on its way to the database: its rows stay in memory also when the call that
    brought them is cancelled.
    """

    def __init__(self, budget: Budget, points: int, size_bytes: int) -> None:
        self._budget = budget
        self._points = points
        self._bytes = size_bytes
        self._kept = self._released = False
        budget.points += points
        budget.bytes += size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._kept:
            self.release()

    def keep(self) -> None:
        """Leave the release to someone else."""
        self._kept = True

    def release(self) -> None:
        """Give the share back; a second time changes nothing."""
        if not self._released:
            self._released = True
            self._budget.points -= self._points
            self._budget.bytes -= self._bytes
