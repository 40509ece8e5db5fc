"""What one half of a lane holds, from its opening until its flush is durable."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from atlas_ingest.lanes.batch import Batch, Flushed, Stored
from atlas_ingest.points import Ack

Half = Literal["a", "b"]
HALVES: tuple[Half, Half] = ("a", "b")


@dataclass(eq=False, slots=True)
class Load:
    """The batches of one flush. Its position is known from the beginning."""

    sequence: int
    half: Half
    batches: list[Batch] = field(default_factory=list)
    points: int = 0
    size_bytes: int = 0
    flushed: Flushed | None = None
    is_answered: bool = False
    is_durable: bool = False
    proof_lsn: int | None = None  # Durable once the server's disk has its log up to here.

    def add(self, batches: Sequence[Batch]) -> None:
        """Take batches in, before they are copied: whatever happens then, they belong here."""
        self.batches.extend(batches)
        self.points += sum(batch.point_count for batch in batches)
        self.size_bytes += sum(len(batch.rows) for batch in batches)

    def remove(self, batch: Batch) -> None:
        """Take out one that was refused."""
        self.batches.remove(batch)
        self.points -= batch.point_count
        self.size_bytes -= len(batch.rows)

    @property
    def wants_durability(self) -> bool:
        """Whether somebody waits for the disk."""
        return any(
            batch.ack is Ack.DURABLE and not batch.done.cancelled() for batch in self.batches
        )

    def answer(self, flushed: Flushed) -> None:
        """Tell all who wait."""
        for batch in self.batches:
            batch.settle(Stored(flushed.position, flushed.skipped.get(batch.number)))
        self.is_answered = True

    def release(self) -> None:
        """Give the memory back: nothing can be lost any more."""
        for batch in self.batches:
            batch.admission.release()
        self.batches.clear()
