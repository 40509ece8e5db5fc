"""One batch on its way in, whichever door it came through."""

from collections.abc import Callable
from dataclasses import dataclass

from atlas_ingest.columns import Columns
from atlas_ingest.points import Ack, DeadLetter, ProducerSequence, Rejections, SourceOffset


@dataclass(frozen=True, slots=True)
class Write:
    """A batch, and what is to be done with it.

    A repetition is known by request_id, by producer or by source; two of them are never given, but
    for a message of a topic that has a request_id besides.
    """

    columns: Columns
    size_bytes: int
    partial_success: bool = False
    validate_only: bool = False
    ack: Ack = Ack.DURABLE
    request_id: str = ""  # Empty: not repeatable.
    body_hash: bytes = b""  # Of all that decides what is stored; empty without a request_id.
    producer: ProducerSequence | None = None
    source: SourceOffset | None = None
    # Stored with the batch, once, if some of its points are refused.
    dead_letter: Callable[[Rejections], DeadLetter] | None = None

    @property
    def moves_a_position(self) -> bool:
        """Whether something follows it: then it passes through the flush even if it is refused."""
        return self.producer is not None or self.source is not None
