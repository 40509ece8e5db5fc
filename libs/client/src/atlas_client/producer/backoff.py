"""Pauses between attempts that go on for ever."""

import random

SECONDS_MIN = 0.05
SECONDS_MAX = 5.0


class Backoff:
    """Doubling up to five seconds, half of it random: who failed together comes back apart."""

    def __init__(self) -> None:
        self._seconds = SECONDS_MIN

    def reset(self) -> None:
        """Something went well."""
        self._seconds = SECONDS_MIN

    def next(self, *, at_least: float = 0.0) -> float:
        """Seconds to pause now; the next pause is longer."""
        pause = self._seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret.
        self._seconds = min(self._seconds * 2, SECONDS_MAX)
        return max(pause, min(at_least, SECONDS_MAX))
