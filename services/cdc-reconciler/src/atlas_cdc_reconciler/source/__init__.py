"""Where changes come from. Sources know nothing of sinks; the pipeline joins them."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from atlas_cdc_reconciler.changes import Batch, Relation
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.tables import Table


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Where a sink stands in a source."""

    source_id: str
    """Names the very log that `at` counts in: a position in another log means nothing."""
    at: LogPosition
    """All that was committed before it is in the sink, nothing that was committed after it."""
    timeline: int = 0
    """Of the log, where it forks when a standby is promoted; 0: not known, or it never does."""

    @property
    def lsn(self) -> Lsn:
        """The same in the write-ahead log, to be shown."""
        return self.at.lsn


@dataclass(frozen=True, slots=True)
class CopiedRows:
    """Rows of a table as they are in the source."""

    table: Table
    rows: pa.Table
    """In the warehouse's columns."""
    rejected: tuple[tuple[bytes, str], ...] = ()
    """Rows that the warehouse cannot hold: (raw bytes, reason)."""
    relation: Relation | None = None
    """How their raw bytes are read; None: as rows of a COPY of the table's columns."""


class SourceLostError(Exception):
    """The source cannot go on from the sink's position, now or ever: changes would be missing."""


class SlotLostError(SourceLostError):
    """The same, and the same server has all the rows: copying what differs makes it good."""


class ChangeStream(Protocol):
    """Changes from a position on, each transaction whole, in commit order."""

    async def next_batch(self) -> Batch:
        """Wait for the next batch. It may hold nothing but a later position.

        At least once: after a reconnect what was not confirmed comes again, and what the sink has
        is then left out and counted in `Batch.skipped`. Bounded in changes, except that no
        transaction is cut. Raises SourceLostError; ServiceError, psycopg.Error or OSError when the
        source is away, after which the stream is to be opened anew.
        """
        ...

    def confirm(self, position: LogPosition) -> None:
        """Say that the sink has everything before `position`, durably: the source may forget it.

        May be called again with the same position. Does not wait.
        """
        ...


class InitialSnapshot(Protocol):
    """All rows as of `position`: the snapshot and the stream from there on are exactly once."""

    @property
    def position(self) -> SourcePosition:
        """What to store together with the rows."""
        ...

    def rows(self) -> AsyncIterator[CopiedRows]:
        """Every row of every table once, in bounded pieces."""
        ...


class Source(Protocol):
    """A log of changes, and a way to begin with it."""

    def snapshot(self) -> AbstractAsyncContextManager[InitialSnapshot]:
        """Begin from nothing. Only for a sink without a position: what was begun before is dropped.

        Safe to repeat after a crash. Raises as `ChangeStream.next_batch`.
        """
        ...

    def stream(self, position: SourcePosition) -> AbstractAsyncContextManager[ChangeStream]:
        """Go on from where the sink stands.

        Raises SourceLostError if the log no longer reaches back to it, and as
        `ChangeStream.next_batch`.
        """
        ...
