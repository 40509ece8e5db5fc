"""A write's rows on their way into the database, and what becomes of them."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from opentelemetry.trace import SpanContext

from atlas_common.errors import ServiceError
from atlas_common.token import Position
from atlas_ingest.budget import Admission
from atlas_ingest.encode import BatchIdentity, batch_row
from atlas_ingest.points import Ack, DeadLetter


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why the flush stored nothing of a batch.

    A duplicate has the position, body and answer of what was stored first. Of a gap, `expected` is
    the sequence that the producer should have sent.
    """

    position: Position
    body_hash: bytes = b""
    answer: bytes = b""
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The position that holds the batch; `skipped`: nothing of it was stored by that flush."""

    position: Position
    skipped: Skipped | None = None


@dataclass(frozen=True, slots=True)
class Flushed:
    """A committed flush. `changes`: tenant id -> entity ids and their new versions."""

    position: Position
    point_count: int
    skipped: dict[int, Skipped]
    changes: dict[int, tuple[list[int], list[int]]]


@dataclass(eq=False, slots=True)
class Batch:
    """Encoded rows of one write. `number` tells it from the others of its flush.

    It keeps its share of the memory budget until its flush is durable, or it has failed.
    """

    number: int
    tenant_id: int
    rows: bytes
    point_count: int
    ack: Ack
    known_by: BatchIdentity
    dead_letter: DeadLetter | None
    admission: Admission
    appended_at: float  # time.monotonic()
    caller: SpanContext | None = None
    """The span of the call that brought it, if spans are taken."""
    done: asyncio.Future[Stored] = field(default_factory=asyncio.Future)
    is_staged: bool = False  # The COPY with it is committed.
    on_settled: Callable[[], None] | None = None  # Called once it is stored or has failed.

    @property
    def order_key(self) -> Hashable:
        """Batches of one key are stored in their order; None: of no order."""
        if self.known_by.producer is not None:
            return self.tenant_id, self.known_by.producer.producer_id
        if self.known_by.source is not None:
            return self.known_by.source.topic, self.known_by.source.partition
        return None

    @property
    def is_abandoned(self) -> bool:
        """Nobody waits for it any more, and nothing follows it."""
        return self.done.cancelled() and self.order_key is None

    @property
    def asks_staged(self) -> bool:
        """Its caller is answered as soon as it is copied."""
        return self.ack is Ack.STAGED

    def ledger_row(self, sequence: int) -> bytes:
        """Its row in staging beside its points."""
        return batch_row(self.number, self.tenant_id, self.known_by, sequence, self.dead_letter)

    def answer(self, stored: Stored) -> None:
        """Tell the caller where it is."""
        if not self.done.done():
            self.done.set_result(stored)

    def settle(self, stored: Stored) -> None:
        """It is flushed: nothing that follows it can overtake it any more."""
        self.answer(stored)
        self._settled()

    def fail(self, error: ServiceError) -> None:
        """Tell the caller why it is not stored, or not known to be; that is the end of it."""
        if not self.done.done():
            self.done.set_exception(error)
            # A stream that has ended meanwhile has nobody to look at it.
            self.done.exception()
        self.drop()

    def drop(self) -> None:
        """Forget it."""
        self.admission.release()
        self._settled()

    def _settled(self) -> None:
        if self.on_settled is not None:
            self.on_settled()
            self.on_settled = None
