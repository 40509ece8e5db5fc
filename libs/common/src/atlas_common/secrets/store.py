"""What a store of secrets gives."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Secret:
    """A secret as it was read."""

    text: str = field(repr=False)
    lease_seconds: float | None = None
    """For how long it is good from when it was asked for; None: until the store has another."""


class Store(Protocol):
    """Keeps secrets by name."""

    def fetch(self, name: str) -> Secret:
        """The secret as it is now. Blocks, within bounds of time and size.

        Raises ValueError, in words of ours that hold nothing secret.
        """
        ...
