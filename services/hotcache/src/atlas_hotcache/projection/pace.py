"""How much a job does at once, and how long it rests in between. Pure."""

ENTITIES_MIN = 1


class Pace:
    """Grows while batches are quick, halves when one fails or is slow.

    A batch holds the locks of its rows, for which flushes wait: so it is bounded by time, and by
    entities. Between batches the job rests for as long as the last one took: it never takes more
    than half of one database process.
    """

    def __init__(self, entities_max: int, seconds_max: float) -> None:
        """`seconds_max`: how long a batch should take at most."""
        self._entities_max = entities_max
        self._seconds_max = seconds_max
        self.entities = max(ENTITIES_MIN, entities_max // 4)
        """How many the next batch should have."""
        self.failures = 0
        """How many batches failed in a row."""

    def took(self, seconds: float) -> None:
        """A batch was done."""
        self.failures = 0
        if seconds > self._seconds_max:
            self._halve()
        elif seconds < self._seconds_max / 2:
            self.entities = min(self._entities_max, self.entities * 2)

    def failed(self) -> None:
        """A batch was not done: it waited for a lock for too long, or took too long itself."""
        self.failures += 1
        self._halve()

    def _halve(self) -> None:
        self.entities = max(ENTITIES_MIN, self.entities // 2)
