"""The wire form of freshness tokens, and their merge, which needs no key.

A token says which positions a reader must see. Its bytes, all numbers big-endian:

    version u8 = 1 | tenant_id u32 | segment*    sorted by lane, one per lane, at most 256
    segment: key_id u8 | lane u16 | epoch u64 | sequence u64 | mac 12 bytes

Each segment is sealed by itself (by the platform, which has the keys), so that a client merges
tokens by keeping, per lane, the segment with the greatest (epoch, sequence). The empty token asks
for nothing.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

VERSION = 1
SEGMENTS_MAX = 256
MAC_BYTES = 12
LANE_MAX = 2**15 - 1  # smallint in the database.
EPOCH_MAX = SEQUENCE_MAX = 2**63 - 1  # bigint in the database.

_HEADER = struct.Struct(">BI")
_SEGMENT = struct.Struct(f">BHQQ{MAC_BYTES}s")
TOKEN_BYTES_MAX = _HEADER.size + SEGMENTS_MAX * _SEGMENT.size


class MalformedTokenError(ValueError):
    """These bytes are no freshness token, or these tokens cannot be one token together."""


@dataclass(frozen=True, order=True, slots=True)
class Position:
    """How far a lane has been flushed. A greater (epoch, sequence) includes the lesser."""

    lane: int
    epoch: int
    sequence: int

    def __post_init__(self) -> None:
        if not (
            0 <= self.lane <= LANE_MAX
            and 0 <= self.epoch <= EPOCH_MAX
            and 0 <= self.sequence <= SEQUENCE_MAX
        ):
            raise MalformedTokenError(f"a position's numbers are out of range: {self}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A position, sealed."""

    position: Position
    key_id: int
    mac: bytes

    def rank(self) -> tuple[int, int, int, bytes]:
        """Which of two segments of a lane a merge keeps; key and seal only break ties."""
        return (self.position.epoch, self.position.sequence, self.key_id, self.mac)


@dataclass(frozen=True, slots=True)
class FreshnessToken:
    """A parsed token. Nothing is verified: that takes the keys."""

    tenant_id: int
    segments: tuple[Segment, ...]

    @property
    def positions(self) -> tuple[Position, ...]:
        """The positions asked for, sorted by lane."""
        return tuple(segment.position for segment in self.segments)

    def encode(self) -> bytes:
        """The wire form; b"" if there are no segments."""
        if not self.segments:
            return b""
        body = b"".join(
            _SEGMENT.pack(
                segment.key_id,
                segment.position.lane,
                segment.position.epoch,
                segment.position.sequence,
                segment.mac,
            )
            for segment in self.segments
        )
        return _HEADER.pack(VERSION, self.tenant_id) + body

    @classmethod
    def decode(cls, token: bytes) -> "FreshnessToken":
        """Parse one canonical, non-empty token. Raises MalformedTokenError."""
        body = len(token) - _HEADER.size
        if body <= 0 or body % _SEGMENT.size or len(token) > TOKEN_BYTES_MAX:
            raise MalformedTokenError(f"{len(token)} bytes are no freshness token")
        version, tenant_id = _HEADER.unpack_from(token)
        if version != VERSION:
            raise MalformedTokenError(f"freshness token of unknown version {version}")
        segments = tuple(
            Segment(Position(lane, epoch, sequence), key_id, mac)
            for key_id, lane, epoch, sequence, mac in _SEGMENT.iter_unpack(token[_HEADER.size :])
        )
        lanes = [segment.position.lane for segment in segments]
        if any(left >= right for left, right in pairwise(lanes)):
            raise MalformedTokenError("freshness token with lanes out of order")
        return cls(tenant_id, segments)


def merge_segments(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Per lane the greatest segment, sorted by lane. Raises MalformedTokenError above 256 lanes."""
    newest: dict[int, Segment] = {}
    for segment in segments:
        held = newest.get(segment.position.lane)
        if held is None or segment.rank() > held.rank():
            newest[segment.position.lane] = segment
    if len(newest) > SEGMENTS_MAX:
        raise MalformedTokenError(f"{len(newest)} lanes are too many for one freshness token")
    return tuple(newest[lane] for lane in sorted(newest))


def furthest(positions: Iterable[Position]) -> tuple[Position, ...]:
    """Per lane the greatest position, sorted by lane."""
    found: dict[int, Position] = {}
    for position in positions:
        found[position.lane] = max(position, found.get(position.lane, position))
    return tuple(found[lane] for lane in sorted(found))


def merge(*tokens: bytes) -> bytes:
    """The token that asks for all that these ask for; commutative, associative, idempotent.

    Empty tokens add nothing. Raises MalformedTokenError for bytes that are no token, and for tokens
    of different tenants.
    """
    parsed = [FreshnessToken.decode(token) for token in tokens if token]
    if not parsed:
        return b""
    tenants = {token.tenant_id for token in parsed}
    if len(tenants) > 1:
        raise MalformedTokenError("freshness tokens of different tenants do not merge")
    segments = merge_segments(segment for token in parsed for segment in token.segments)
    return FreshnessToken(tenants.pop(), segments).encode()
