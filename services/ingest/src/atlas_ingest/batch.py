"""A write's rows on their way into the database, and what becomes of them."""

import asyncio
from dataclasses import dataclass, field

from atlas_common.errors import ServiceError
from atlas_common.token import Position
from atlas_ingest.budget import Admission


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An earlier request of the same id: where it was stored, its body, its answer."""

    position: Position
    body_hash: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """The flush with the batch is committed. `duplicate`: nothing of this batch was stored."""

    position: Position
    duplicate: Duplicate | None


@dataclass(frozen=True, slots=True)
class Flushed:
    """A committed flush. `changes`: tenant id -> entity ids and their new versions."""

    position: Position
    point_count: int
    duplicates: dict[int, Duplicate]
    changes: dict[int, tuple[list[int], list[int]]]


@dataclass(eq=False, slots=True)
class Batch:
    """Encoded rows of one write. `number` tells it from the others of its flush."""

    number: int
    tenant_id: int
    request_id: str
    body_hash: bytes
    answer: bytes
    rows: bytes
    point_count: int
    durable: bool
    admission: Admission
    appended_at: float
    done: asyncio.Future[Stored] = field(default_factory=asyncio.Future)
    is_staging: bool = False  # The COPY with it has begun: it may be stored whatever happens.
    flushed: Flushed | None = None  # The flush with it is committed.

    @property
    def is_abandoned(self) -> bool:
        """Nobody waits for it any more."""
        return self.done.cancelled()

    def store(self, flushed: Flushed) -> None:
        """Tell the caller where it is."""
        duplicate = flushed.duplicates.get(self.number)
        if not self.done.done():
            self.done.set_result(Stored(flushed.position, duplicate))
        self.admission.release()

    def fail(self, error: ServiceError) -> None:
        """Tell the caller why it is not stored, or not known to be."""
        if not self.done.done():
            self.done.set_exception(error)
        self.admission.release()
