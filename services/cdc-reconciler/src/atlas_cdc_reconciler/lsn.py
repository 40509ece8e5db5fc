"""Positions in the logs that changes are read from."""

from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, order=True, slots=True)
class Lsn:
    """A byte position in the primary's write-ahead log; later is greater."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value < 2**64:
            raise ValueError(f"{self.value} is no log position")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read Postgres' notation, "16/B374D848". Raises ValueError."""
        high, slash, low = text.partition("/")
        if not slash:
            raise ValueError(f"{text!r} is no log position")
        return cls((int(high, 16) << 32) | int(low, 16))

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"


@dataclass(frozen=True, order=True, slots=True)
class LogPosition:
    """A point between two changes of one source's log; later is greater.

    Positions of different sources are not to be compared.
    """

    offset: int
    """What the source counts in: bytes of the write-ahead log, or a topic's messages."""
    lsn: Lsn = field(compare=False)
    """About where that is in the write-ahead log, for people to read."""

    @classmethod
    def at(cls, lsn: Lsn) -> Self:
        """A point in the write-ahead log itself."""
        return cls(lsn.value, lsn)

    def __str__(self) -> str:
        return str(self.lsn) if self.offset == self.lsn.value else f"{self.offset} ({self.lsn})"
