"""Where changes go. Sinks know nothing of sources; the pipeline joins them."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from atlas_cdc_reconciler.changes import Batch
from atlas_cdc_reconciler.source import CopiedRows, SourcePosition
from atlas_common.db import Beat


@dataclass(frozen=True, slots=True)
class Counts:
    """The books; since they commit with the rows: read = applied + dead_lettered + skipped."""

    read: int = 0
    applied: int = 0
    dead_lettered: int = 0
    skipped: int = 0

    @property
    def are_conserved(self) -> bool:
        """Whether nothing got lost on the way."""
        return self.read == self.applied + self.dead_lettered + self.skipped


@dataclass(frozen=True, slots=True)
class SinkState:
    """Where a sink stands."""

    position: SourcePosition | None
    """None: nothing was ever stored."""
    beat: Beat
    """The newest heartbeat that it holds."""


class FencedError(Exception):
    """Another instance has claimed the sink: whatever this one still has to say is not stored."""


class TooManyDeadLettersError(Exception):
    """So much cannot be applied that something else must be wrong than the changes."""


class Load(Protocol):
    """The first copy under way; stored as a whole, together with its position, or not at all."""

    async def append(self, copied: CopiedRows) -> None:
        """Take in rows; those that were rejected become dead letters."""
        ...


class Sink(Protocol):
    """A copy of the source's tables that knows how far it is."""

    async def claim(self, owner: str) -> int:
        """Become the one instance that may store anything; answers the epoch that begins.

        Each claim ends the epoch before: what an instance that lost its leadership without noticing
        stores afterwards raises FencedError, in the very transaction that would store it.
        """
        ...

    async def state(self) -> SinkState:
        """Where the sink stands."""
        ...

    def load(self, position: SourcePosition) -> AbstractAsyncContextManager[Load]:
        """Store the first copy. Leaving the block commits it, an exception drops all of it."""
        ...

    async def apply(self, batch: Batch) -> SinkState:
        """Store a batch: its rows, dead letters, counts and position in one transaction.

        A change that cannot be applied becomes a dead letter, and so do later ones of the same row;
        the rest of the batch is applied. A table that does not fit any more becomes dead letters
        from there on. Idempotent: a batch up to a position that the sink has is not applied again.
        Raises FencedError, TooManyDeadLettersError; WarehouseError when the sink itself fails,
        after which nothing of the batch is stored and it can be applied again.
        """
        ...

    async def counts(self) -> Mapping[str, Counts]:
        """The books per table."""
        ...


class WarehouseError(Exception):
    """The warehouse itself failed (disk, memory), not what was asked of it."""
