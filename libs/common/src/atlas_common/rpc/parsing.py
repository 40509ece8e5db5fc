"""From the bytes of a request to its message, with a bound on what they can grow to.

Two bytes on the wire make an empty element of a repeated field, which takes a hundred in memory:
16 MiB would become 800. So a message's fields are counted before they are made.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from atlas_common import errors

Parse = Callable[[bytes], Any]
FIELDS_MAX = 250_000
"""Fields of one message, each element of a repeated one counted; those within an element only where
it has repeated fields itself. The contract's limits allow a tenth of that."""

_FIELD_BYTES_MIN = 2
_DEPTH_MAX = 100  # As protobuf's parsers have it.
_VARINT, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5


def parser(parse: Parse | None) -> Parse:
    """`parse`, a message class's FromString, made safe; without it, the bytes themselves.

    What it returns raises ServiceError INVALID_FIELD, BATCH_TOO_LARGE.
    """
    if parse is None:
        return bytes
    descriptor: Descriptor | None = getattr(getattr(parse, "__self__", None), "DESCRIPTOR", None)

    def parsed(data: bytes) -> Any:
        # Fewer bytes than this cannot be too many fields: most messages are not looked through.
        if descriptor is not None and len(data) > FIELDS_MAX * _FIELD_BYTES_MIN:
            _check_fields(data, descriptor)
        try:
            return parse(data)
        except DecodeError as error:
            raise errors.invalid_argument("INVALID_FIELD", f"no valid message: {error}") from None

    return parsed


async def parsed_each(requests: AsyncIterator[bytes], parse: Parse) -> AsyncIterator[Any]:
    """The messages of a stream; raises what `parse` does where they are awaited."""
    async for data in requests:
        yield parse(data)


def _check_fields(data: bytes, descriptor: Descriptor) -> None:
    if _Count(data).of(0, len(data), descriptor, 0) > FIELDS_MAX:
        raise errors.invalid_argument(
            "BATCH_TOO_LARGE",
            f"the message has more than {FIELDS_MAX} fields: send several smaller ones",
            fields_max=FIELDS_MAX,
        )


class _Count:
    """Counts fields in a message's bytes; what is malformed ends it, and the parser refuses."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields = 0

    def of(self, at: int, end: int, descriptor: Descriptor, depth: int) -> int:
        """Those between the positions and all before; stops soon after FIELDS_MAX."""
        inside = _inside(descriptor)
        while at < end and depth < _DEPTH_MAX and self._fields <= FIELDS_MAX:
            self._fields += 1  # All of them: what is skipped takes time as well.
            tag, at = self._varint(at)
            kind = tag & 7
            if kind == _LENGTH:
                length, at = self._varint(at)
                inner = inside.get(tag >> 3)
                if inner is not None:
                    self.of(at, min(at + length, end), inner, depth + 1)
                at += length
            elif kind == _VARINT:
                _, at = self._varint(at)
            else:
                at += 8 if kind == _FIXED_64 else 4 if kind == _FIXED_32 else 0
        return self._fields

    def _varint(self, at: int) -> tuple[int, int]:
        data = self._data
        if at >= len(data):
            return 0, at
        value = data[at]
        if value < 0x80:  # As most are.
            return value, at + 1
        value, shift = value & 0x7F, 7
        for byte in data[at + 1 : at + 10]:
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at + 1 + shift // 7
            shift += 7
        return value, len(data)


@cache
def _inside(descriptor: Descriptor) -> Mapping[int, Descriptor]:
    """By field number, the messages that have repeated fields within."""
    return {
        field.number: field.message_type
        for field in descriptor.fields
        if field.message_type is not None and _has_repeated(field.message_type)
    }


def _has_repeated(descriptor: Descriptor) -> bool:
    seen: set[str] = set()
    waiting = [descriptor]
    while waiting:
        message = waiting.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            if field.is_repeated:
                return True
            if field.message_type is not None:
                waiting.append(field.message_type)
    return False
