"""How large an Arrow IPC stream is, found from its frames before anything in it is decoded.

A compressed body states the size of each of its buffers, and Arrow allocates what it states: a
message of a few kilobytes could ask for gigabytes. So the statements are added up first. They stand
in flatbuffers; see Arrow's "Columnar Format", "Serialization and Interprocess Communication", with
Message.fbs and Schema.fbs for the numbers of the fields. Nothing read here is trusted further than
to add it up: pyarrow verifies all of it again when it decodes.
"""

import struct
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.ipc

ROWS_MAX = 100_000
DECODED_BYTES_MAX = 64 * 2**20
FRAMES_MAX = 1_000
_SCHEMA_BYTES_MAX = 2**20
_BUFFERS_MAX = 1_000

_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3  # Of the union MessageHeader.
_LONG = struct.Struct("<q")
_LENGTH = struct.Struct("<i")
_PLACE = struct.Struct("<qq")


NOT_ARROW = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises of bytes that are no Arrow; the last of names that are no UTF-8."""


class ArrowInvalidError(ValueError):
    """Bytes that are not what WriteArrow takes; `reason` is a name of ErrorReason."""

    def __init__(self, message: str, *, reason: str = "ARROW_INVALID") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Extent:
    """Rows, and bytes of the buffers once they are decompressed, dictionaries included."""

    rows: int
    decoded_bytes: int


def measure(ipc_stream: bytes) -> Extent:
    """The extent of a stream within the bounds.

    Raises ArrowInvalidError: ARROW_INVALID, or BATCH_TOO_LARGE beyond ROWS_MAX rows,
    DECODED_BYTES_MAX bytes or FRAMES_MAX frames.
    """
    source = pa.BufferReader(ipc_stream)
    try:
        extent = _measure(pa.ipc.MessageReader.open_stream(source))
    except NOT_ARROW as error:
        raise not_arrow(error) from None
    except (struct.error, IndexError, OverflowError):
        raise ArrowInvalidError("is no Arrow IPC stream: a frame's metadata is broken") from None
    rest = len(ipc_stream) - source.tell()
    if rest:
        raise ArrowInvalidError(
            f"has {rest} bytes behind the end of its Arrow IPC stream: send each stream in a"
            " message of its own"
        )
    return extent


def not_arrow(error: Exception) -> ArrowInvalidError:
    """What pyarrow says of bytes that it cannot read, without its line breaks."""
    cause = " ".join(str(error).split())[:200]
    return ArrowInvalidError(f"is no Arrow IPC stream: {cause}")


def _measure(reader: Any) -> Extent:
    rows = decoded_bytes = 0
    for number in range(FRAMES_MAX + 1):
        try:
            frame = reader.read_next_message()
        except StopIteration:
            if number == 0:
                raise ArrowInvalidError("is empty: send a schema and record batches") from None
            return Extent(rows, decoded_bytes)
        kind, header = _header(frame.metadata)
        if (kind == _SCHEMA) != (number == 0):
            raise ArrowInvalidError("is no Arrow IPC stream: it has to begin with its one schema")
        if kind == _SCHEMA:
            _check_schema(frame.metadata, header)
            continue
        frame_rows, frame_bytes = _sizes(kind, header, frame.body)
        rows += frame_rows
        decoded_bytes += frame_bytes
        if rows > ROWS_MAX:
            raise _too_large(f"{rows} rows or more", f"{ROWS_MAX} rows")
        if decoded_bytes > DECODED_BYTES_MAX:
            raise _too_large(f"{decoded_bytes} bytes or more", f"{DECODED_BYTES_MAX} bytes")
    raise _too_large(f"more than {FRAMES_MAX} record batches and dictionaries", "so many")


def _too_large(what: str, most: str) -> ArrowInvalidError:
    return ArrowInvalidError(
        f"has {what}, at most {most} fit in one message: split it", reason="BATCH_TOO_LARGE"
    )


def _check_schema(metadata: Any, header: "_Table") -> None:
    if metadata.size > _SCHEMA_BYTES_MAX:
        raise ArrowInvalidError(f"has a schema of {metadata.size} bytes: send the known columns")
    at = header.field(0)
    if at and header.data[at] != 0:
        raise ArrowInvalidError("is big-endian: send it little-endian")


def _sizes(kind: int, header: "_Table", body: Any) -> tuple[int, int]:
    """Rows and decoded bytes of a frame."""
    if kind == _DICTIONARY:
        records = header.table(1)
    elif kind == _RECORDS:
        records = header
    else:
        raise ArrowInvalidError("is no Arrow IPC stream of record batches")
    at = records.field(0)
    length = _LONG.unpack_from(records.data, at)[0] if at else 0
    if length < 0:
        raise ArrowInvalidError("is no Arrow IPC stream: a batch has less than no rows")
    rows = 0 if kind == _DICTIONARY else length
    if not records.field(3):
        return rows, body.size if body is not None else 0
    return rows, _decompressed_bytes(records, memoryview(body) if body is not None else b"")


def _decompressed_bytes(records: "_Table", body: "memoryview | bytes") -> int:
    total = 0
    for offset, length in records.structs(2):
        if length == 0:
            continue
        if offset < 0 or length < _LONG.size:
            raise ArrowInvalidError("is no Arrow IPC stream: a compressed buffer has no size")
        (size,) = _LONG.unpack_from(body, offset)
        if size < -1:
            raise ArrowInvalidError("is no Arrow IPC stream: a buffer has a negative size")
        total += length if size == -1 else size  # -1: this one is not compressed.
    return total


def _header(metadata: Any) -> tuple[int, "_Table"]:
    data = memoryview(metadata)
    message = _Table(data, _LENGTH.unpack_from(data, 0)[0])
    at = message.field(1)
    return (data[at] if at else 0), message.table(2)


class _Table:
    """A table in a flatbuffer; reading outside the buffer raises struct.error or IndexError."""

    def __init__(self, data: memoryview, position: int) -> None:
        if position < 0:
            raise IndexError
        self.data = data
        self._position = position
        self._fields = position - _LENGTH.unpack_from(data, position)[0]
        if self._fields < 0:
            raise IndexError
        self._fields_size = struct.unpack_from("<H", data, self._fields)[0]

    def field(self, number: int) -> int:
        """Where a field's bytes stand; 0 if it is not there."""
        slot = 4 + 2 * number
        if slot + 2 > self._fields_size:
            return 0
        offset = struct.unpack_from("<H", self.data, self._fields + slot)[0]
        return self._position + offset if offset else 0

    def table(self, number: int) -> "_Table":
        """The table that a field refers to."""
        return _Table(self.data, self._target(number))

    def structs(self, number: int) -> list[tuple[int, int]]:
        """The items of a vector of two longs each."""
        if not self.field(number):
            return []
        at = self._target(number)
        (count,) = struct.unpack_from("<I", self.data, at)
        if count > _BUFFERS_MAX:
            raise ArrowInvalidError(f"is no Arrow IPC stream of ours: a frame has {count} buffers")
        return [_PLACE.unpack_from(self.data, at + 4 + 16 * index) for index in range(count)]

    def _target(self, number: int) -> int:
        at = self.field(number)
        if not at:
            raise IndexError
        return at + int(struct.unpack_from("<I", self.data, at)[0])
