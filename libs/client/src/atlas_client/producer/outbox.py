"""The batches of one life that are not acknowledged, in the order of their numbers."""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from atlas_client.producer.batch import Batch


class Outbox:
    """A queue with a mark: what lies before it has been sent on the stream of now.

    A life is one run of a producer's process. Its id is the producer_id of its streams, and its
    numbers are never given to other points: so whatever an earlier stream left under way, by the
    time it arrives it is either the same batch or none of ours.
    """

    def __init__(self, life: str, batches: Iterable[Batch] = ()) -> None:
        self.life = life
        self._batches = deque(batches)
        self._sent = 0
        self.last_numbered = self._batches[-1].sequence if self._batches else 0
        """The greatest number that was ever given here."""
        self.done_through = self._batches[0].sequence - 1 if self._batches else 0
        """Everything up to this number is done with."""
        self.memory_points = 0
        self.points = sum(batch.points for batch in self._batches)
        self.settled_points = 0
        """Points of batches that are done with."""

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def unsent(self) -> int:
        """How many batches wait to be sent."""
        return len(self._batches) - self._sent

    def append(self, batch: Batch) -> None:
        """Put a batch, numbered last_numbered + 1, at the end."""
        assert batch.sequence == self.last_numbered + 1
        self._batches.append(batch)
        self.last_numbered = batch.sequence
        self.memory_points += batch.memory_points
        self.points += batch.points

    def rewind(self) -> None:
        """Begin a stream: nothing has been sent on it."""
        self._sent = 0

    def first_unsent(self) -> Batch | None:
        """The batch to be sent next."""
        return next(islice(self._batches, self._sent, None), None)

    def mark_sent(self) -> None:
        """The first unsent batch is on its way."""
        self._sent += 1

    def finish_through(self, sequence: int) -> list[Batch]:
        """Take out the batches up to this number: they are acknowledged."""
        finished: list[Batch] = []
        while self._batches and self._batches[0].sequence <= sequence:
            batch = self._batches.popleft()
            self._sent = max(0, self._sent - 1)
            self.memory_points -= batch.memory_points
            self.points -= batch.points
            self.settled_points += batch.points
            finished.append(batch)
        self.done_through = max(self.done_through, sequence)
        return finished

    def in_memory_only(self) -> Sequence[Batch]:
        """Batches that would be lost with this process."""
        return [batch for batch in self._batches if batch.record is None]
