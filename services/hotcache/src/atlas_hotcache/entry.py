"""The form of a cache entry: a header that Valkey's scripts compare as text, and a body.

    generation 16 characters | version 16 hexadecimal digits | kind "V" or "T" | body

A value ("V") has a body, which may be empty: the entity is known to have no hot values. A tombstone
("T") has none: it says that the entity was changed to this version, and refuses older fills.
Versions are padded to one width, so that Lua compares them as text: its numbers are doubles, which
hold 53 bits of the 64.
"""

import secrets
from dataclasses import dataclass

GENERATION_CHARS = 16
_VERSION_DIGITS = 16
_KIND_AT = GENERATION_CHARS + _VERSION_DIGITS
HEADER_BYTES = _KIND_AT + 1
VERSION_MAX = 2**63 - 1
_VALUE, _TOMBSTONE = b"V", b"T"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is cached of one entity. `body` is None in a tombstone."""

    generation: str
    version: int
    body: bytes | None


def new_generation() -> str:
    """A name no generation had before.

    Random, not counted: a server that lost its memory, or a replica that took over with an older
    one, would count up to a number that was in use, and a fill begun then would be believed now.
    """
    return secrets.token_hex(GENERATION_CHARS // 2)


def version_text(version: int) -> str:
    """A version as entries hold it. Raises ValueError outside 0..VERSION_MAX."""
    if not 0 <= version <= VERSION_MAX:
        raise ValueError(f"{version} is no version")
    return f"{version:0{_VERSION_DIGITS}x}"


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    if len(entry.generation) != GENERATION_CHARS:
        raise ValueError(f"a generation has {GENERATION_CHARS} characters")
    header = f"{entry.generation}{version_text(entry.version)}".encode("ascii")
    return header + (_TOMBSTONE if entry.body is None else _VALUE + entry.body)


def decode(raw: bytes) -> Entry | None:
    """The entry in these bytes; None if they are none, which is a miss like any other."""
    header, kind, body = raw[:_KIND_AT], raw[_KIND_AT:HEADER_BYTES], raw[HEADER_BYTES:]
    try:
        text = header.decode("ascii")
        version = int(text[GENERATION_CHARS:], 16)
    except ValueError:
        return None
    if len(header) != _KIND_AT or not 0 <= version <= VERSION_MAX:
        return None
    if kind == _VALUE:
        return Entry(text[:GENERATION_CHARS], version, body)
    if kind == _TOMBSTONE and not body:
        return Entry(text[:GENERATION_CHARS], version, None)
    return None
