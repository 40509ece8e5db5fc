"""Positions in the write-ahead log."""

from dataclasses import dataclass
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
