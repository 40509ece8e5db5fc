"""The bytes of a spool's segment files: framing alone, no files.

    segment: magic 8 bytes | header record | record*
    record:  length u32 | crc32 u32 | sequence u64 | points u32 | payload of `length` bytes

All numbers are big-endian; the checksum covers what follows it. The header record's payload is a
JSON object that names whose batches these are. What comes after the first record that is cut off or
does not match its checksum is not read: a crash leaves such an end, and behind a damaged length
nothing can be found.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = b"ATLSPL\x00\x01"
PAYLOAD_BYTES_MAX = 2**26  # A batch is far smaller; a greater length is damage.

_FRAME = struct.Struct(">II")
_NUMBERS = struct.Struct(">QI")
RECORD_BYTES = _FRAME.size + _NUMBERS.size


class DamagedRecordError(ValueError):
    """These bytes are not the record that was written."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose batches a segment holds; `life` is the producer_id of their streams."""

    tenant: str
    producer: str
    life: str


@dataclass(frozen=True, slots=True)
class Found:
    """A whole record in a segment; `offset` and `size` are those of the record in its file."""

    sequence: int
    points: int
    offset: int
    size: int


def encode_record(sequence: int, points: int, payload: bytes) -> bytes:
    """A record."""
    numbers = _NUMBERS.pack(sequence, points)
    checksum = zlib.crc32(payload, zlib.crc32(numbers))
    return b"".join((_FRAME.pack(len(payload), checksum), numbers, payload))


def decode_record(record: bytes) -> tuple[int, int, bytes]:
    """(sequence, points, payload). Raises DamagedRecordError."""
    if len(record) < RECORD_BYTES:
        raise DamagedRecordError("the record is cut off")
    length, checksum = _FRAME.unpack_from(record)
    payload = record[RECORD_BYTES:]
    if len(payload) != length:
        raise DamagedRecordError(f"the record has {len(payload)} bytes instead of {length}")
    numbers = record[_FRAME.size : RECORD_BYTES]
    if zlib.crc32(payload, zlib.crc32(numbers)) != checksum:
        raise DamagedRecordError("the checksum does not match")
    sequence, points = _NUMBERS.unpack(numbers)
    return sequence, points, payload


def encode_header(owner: Owner) -> bytes:
    """The beginning of a segment."""
    named = {"tenant": owner.tenant, "producer": owner.producer, "life": owner.life}
    return MAGIC + encode_record(0, 0, json.dumps(named).encode())


def read_header(file: BinaryIO) -> Owner:
    """The owner; leaves the file at the first record. Raises DamagedRecordError."""
    if file.read(len(MAGIC)) != MAGIC:
        raise DamagedRecordError("this is no segment of a spool")
    record = _next_record(file)
    if record is None:
        raise DamagedRecordError("the segment has no header")
    try:
        named = json.loads(decode_record(record)[2])
        return Owner(str(named["tenant"]), str(named["producer"]), str(named["life"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRecordError("the segment's header is damaged") from error


def scan(file: BinaryIO) -> Iterator[Found]:
    """The whole records from here on, up to the end or the first damaged one."""
    while True:
        offset = file.tell()
        record = _next_record(file)
        if record is None:
            return
        try:
            sequence, points, _ = decode_record(record)
        except DamagedRecordError:
            return
        yield Found(sequence, points, offset, len(record))


def _next_record(file: BinaryIO) -> bytes | None:
    head = file.read(RECORD_BYTES)
    if len(head) < RECORD_BYTES:
        return None
    length, _ = _FRAME.unpack_from(head)
    if length > PAYLOAD_BYTES_MAX:
        return None
    return head + file.read(length)  # decode_record() sees it when this is cut off.
