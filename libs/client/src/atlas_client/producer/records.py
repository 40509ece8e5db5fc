"""What a producer tells its caller."""

from dataclasses import dataclass

from atlas.type.v1 import value_pb2
from atlas_client.records import PointError


@dataclass(frozen=True, slots=True)
class RefusedBatch:
    """A batch with points that were refused: they are not stored, and are not sent again."""

    sequence: int
    reason: str
    """Why the batch was refused as a whole; empty when only its bad points were."""
    message: str
    rejected_count: int
    """How many points are not stored: all of the batch if it was refused as a whole."""
    errors: tuple[PointError, ...]
    """The first 100 bad points, by their index in `points`."""
    points: tuple[value_pb2.Point, ...]
    """The whole batch."""


@dataclass(frozen=True, slots=True)
class ProducerStats:
    """Counters since the producer began, and what is held just now."""

    taken_points: int
    """What send() and send_many() took."""
    accepted_points: int
    """Acknowledged as stored by this producer's batches."""
    refused_points: int
    refused_batches: int
    """Batches with any refused point."""
    acknowledged_batches: int
    duplicate_batches: int
    """Sent again after a break, and known to the platform: nothing was stored twice."""
    recovered_batches: int
    """Found stored after a break that cost their acknowledgement, with any errors in it."""
    lost_batches: int
    """Given up: an earlier process had them in memory alone, the spool's file was damaged, or the
    platform lost what it had acknowledged at a lower level than DURABLE."""
    streams: int
    """Streams that were opened: the first, and one for every break or long idle time."""
    waiting_points: int
    """Taken, or left by an earlier process, and not acknowledged."""
    memory_points: int
    """Of these, in memory."""
    spooled_batches: int
    spooled_bytes: int
    in_flight_batches: int
    connected: bool
    last_error: str
    """Why the last stream broke; empty once batches are acknowledged again."""
