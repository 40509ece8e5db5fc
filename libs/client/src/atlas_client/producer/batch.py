"""Batches: how points become one, and what is known of one until it is acknowledged."""

from dataclasses import dataclass

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2

POINTS_MAX = 10_000
"""As WriteStreamBatch.points has it."""
BYTES_MAX = 4 * 2**20
"""A batch of this size is full: the platform takes messages of 16 MiB."""


@dataclass(frozen=True, slots=True)
class Record:
    """Where a batch lies in the spool."""

    segment: int
    offset: int
    size: int


@dataclass(eq=False, slots=True)
class Batch:
    """A numbered batch. `message`: a whole WriteStreamRequest; None: it is in the spool alone."""

    sequence: int
    points: int
    message: bytes | None
    record: Record | None = None

    @property
    def memory_points(self) -> int:
        """Its share of the memory."""
        return 0 if self.message is None else self.points


class OpenBatch:
    """Points on their way into a batch, which has no number yet."""

    def __init__(self) -> None:
        self._request = pb.WriteStreamRequest()
        self._batch = self._request.batch
        self._bytes = 0
        self.points = 0

    def add(self, point: value_pb2.Point) -> None:
        """Put a point at the end."""
        self._batch.points.append(point)
        self._bytes += point.ByteSize()
        self.points += 1

    def is_full(self, points_max: int) -> bool:
        """Whether it should be sent as it is."""
        return self.points >= points_max or self._bytes >= BYTES_MAX

    def numbered(self, sequence: int) -> Batch:
        """The batch under its number."""
        self._batch.sequence = sequence
        return Batch(sequence, self.points, self._request.SerializeToString())


def filler(sequence: int) -> bytes:
    """The message of a batch without points, which only uses up its number."""
    request = pb.WriteStreamRequest(batch=pb.WriteStreamBatch(sequence=sequence))
    return request.SerializeToString()


def points_of(message: bytes) -> tuple[value_pb2.Point, ...]:
    """The points of a batch."""
    return tuple(pb.WriteStreamRequest.FromString(message).batch.points)
