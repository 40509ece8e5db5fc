"""A circuit breaker: stop asking an endpoint that only fails, and find out when it is back.

Closed: calls pass; `failures_max` failures in a row open it. Open: no call passes for
`open_seconds`. Half-open: one call at a time passes, the probe; its success closes the breaker, its
failure opens it again. A cancelled call says nothing about the endpoint: it counts neither way, and
a cancelled probe makes room for the next one.

Every call holds the permit it was let through with, and reports with it. Without permits a slow
call from before the breaker opened would be taken for the probe: begun in better times, it would
close the breaker on an endpoint that is down (or, failing late, open it on one that has just
recovered). Reports with a permit from before the last change of state are therefore ignored.

Not thread-safe: one event loop uses it, and no method waits.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerOpenError(Exception):
    """No call passes now. `retry_after` is in seconds; 0 when a probe is under way."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the breaker is open for another {retry_after:.3f} s")
        self.retry_after = retry_after


@dataclass(eq=False, slots=True)
class Permit:
    """Leave for one call. Report its outcome once, with the breaker that gave it."""

    era: int
    is_reported: bool = False


class Breaker:
    """The state machine. `clock` is in seconds and never goes back."""

    def __init__(
        self,
        failures_max: int = 5,
        open_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures_max < 1 or open_seconds <= 0:
            raise ValueError("a breaker needs failures_max >= 1 and open_seconds > 0")
        self._failures_max = failures_max
        self._open_seconds = open_seconds
        self._clock = clock
        self._failure_count = 0
        self._open_until: float | None = None  # None: closed.
        self._probe: Permit | None = None
        self._era = 0  # Rises with every change between closed and open.

    @property
    def state(self) -> BreakerState:
        """What the next call will find."""
        if self._open_until is None:
            return BreakerState.CLOSED
        if self._clock() < self._open_until:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    @property
    def retry_after(self) -> float:
        """Seconds until a probe may pass; 0 unless open."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def allow(self) -> Permit | None:
        """Leave for one call, or None. Whoever gets a permit reports with it, whatever happens."""
        match self.state:
            case BreakerState.CLOSED:
                return Permit(self._era)
            case BreakerState.OPEN:
                return None
            case BreakerState.HALF_OPEN:
                if self._probe is not None:
                    return None
                self._probe = Permit(self._era)
                return self._probe

    def success(self, permit: Permit) -> None:
        """The endpoint answered."""
        if not self._accept(permit):
            return
        self._failure_count = 0
        if permit is self._probe:
            self._close()

    def failure(self, permit: Permit) -> None:
        """The endpoint did not answer, or not as it should."""
        if not self._accept(permit):
            return
        self._failure_count += 1
        if permit is self._probe or self._failure_count >= self._failures_max:
            self._open()

    def cancelled(self, permit: Permit) -> None:
        """The call ended without saying anything about the endpoint."""
        if self._accept(permit) and permit is self._probe:
            self._probe = None

    @contextmanager
    def call(self, *failures: type[Exception]) -> Iterator[None]:
        """Let the block through: its end is a success, one of `failures` a failure.

        Anything else that it raises (cancellation above all, but also errors that are the caller's
        own) counts neither way. Raises BreakerOpenError instead of running the block.
        """
        permit = self.allow()
        if permit is None:
            raise BreakerOpenError(self.retry_after)
        try:
            yield
        except failures:
            self.failure(permit)
            raise
        except BaseException:
            self.cancelled(permit)
            raise
        self.success(permit)

    def _accept(self, permit: Permit) -> bool:
        if permit.is_reported:
            return False
        permit.is_reported = True
        return permit.era == self._era

    def _open(self) -> None:
        self._era += 1
        self._probe = None
        self._open_until = self._clock() + self._open_seconds

    def _close(self) -> None:
        self._era += 1
        self._probe = None
        self._failure_count = 0
        self._open_until = None
