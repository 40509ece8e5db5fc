"""How long to wait before the next try."""

SECONDS_MIN, SECONDS_MAX = 0.05, 5.0


class Backoff:
    """Doubles from try to try up to a bound; begins anew after a success."""

    def __init__(self, seconds_min: float = SECONDS_MIN, seconds_max: float = SECONDS_MAX) -> None:
        self._seconds_min = seconds_min
        self._seconds_max = seconds_max
        self._seconds = seconds_min

    def next_seconds(self) -> float:
        """The wait before the next try."""
        seconds = self._seconds
        self._seconds = min(seconds * 2, self._seconds_max)
        return seconds

    def reset(self) -> None:
        """Something went well."""
        self._seconds = self._seconds_min
