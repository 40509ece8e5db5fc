"""What one watcher is still to be sent, within bounds. Pure but for waking whoever sends it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from atlas.type.freshness import Position
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_query.watch.change import Change, Pair


@dataclass(frozen=True, slots=True)
class Moment:
    """A view of the data that has been sent whole, and where to go on from."""

    positions: tuple[Position, ...] = ()
    as_of: datetime | None = None
    floor: datetime | None = None
    """Every flush stamped before this is in the view (see standings.py); None: not known."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be sent now; with the moment that is reached when all of it has been sent."""

    changes: Sequence[Change]
    moment: Moment
    is_snapshot: bool = False
    reason: str = ""
    """Why there is a snapshot although the watcher asked to go on."""
    left_out: int = 0
    """Changes that newer ones of the same attributes took the place of."""


SNAPSHOT_BYTES_MAX = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Room:
    """The most a watcher may have waiting: in number before, in bytes after it is coalesced."""

    changes_max: int
    bytes_max: int


@dataclass(slots=True)
class _Pending:
    changes: list[Change] = field(default_factory=list)
    size_bytes: int = 0
    first_bytes: int = 0
    """Of the first look's answer, which has room of its own."""
    is_due: bool = False
    """To be sent although there may be no change in it."""
    is_snapshot: bool = False
    reason: str = ""
    left_out: int = 0


class Watcher:
    """Takes what the looks find, and hands it to whoever sends it, all of one time at a time.

    While the reader keeps up, every change is kept. Beyond the bound only the latest of each
    attribute is, of which there are no more than `room.changes_max`.
    """

    def __init__(
        self,
        tenant: Tenant,
        pairs: frozenset[Pair],
        room: Room,
        *,
        positions: tuple[Position, ...] = (),
        floor: datetime | None = None,
        restart_reason: str = "",
    ) -> None:
        self.tenant = tenant
        self.pairs = pairs
        self.positions = positions
        """What the first look must hold."""
        self.floor = floor
        """Go on with what was not in a view with this floor; None: begin with a snapshot."""
        self.restart_reason = restart_reason
        self.moment = Moment()
        self._room = room
        self._pending = _Pending()
        self._is_begun = False
        self._error: ServiceError | None = None
        self._wake = asyncio.Event()

    @property
    def pending_count(self) -> int:
        """Changes that wait to be sent."""
        return len(self._pending.changes)

    def begin(self, changes: Sequence[Change], moment: Moment, *, is_snapshot: bool) -> None:
        """The first look's answer: the latest values, or what came after the floor."""
        size_bytes = sum(change.size_bytes for change in changes)
        if size_bytes > SNAPSHOT_BYTES_MAX:
            self.stop(_too_large(size_bytes))
            return
        self._is_begun = True
        self._pending = _Pending(
            list(changes),
            size_bytes,
            size_bytes,
            is_due=True,
            is_snapshot=is_snapshot,
            reason=self.restart_reason if is_snapshot else "",
        )
        self.moment = moment
        self._wake.set()

    def offer(self, changes: Sequence[Change], moment: Moment, left_out: int = 0) -> None:
        """What a look found."""
        pending = self._pending
        self.moment = moment
        if not changes:
            return
        pending.changes += changes
        pending.size_bytes += sum(change.size_bytes for change in changes)
        pending.left_out += left_out
        bytes_max = self._room.bytes_max + pending.first_bytes
        if len(pending.changes) > self._room.changes_max or pending.size_bytes > bytes_max:
            self._coalesce()
        if pending.size_bytes > bytes_max:
            self.stop(_too_slow(pending.size_bytes, bytes_max))
        self._wake.set()

    def stop(self, error: ServiceError) -> None:
        """End the stream with this; what waits is not sent."""
        if self._error is None:
            self._error = error
            self._pending = _Pending()
        self._wake.set()

    async def take(self, seconds: float) -> Batch:
        """All that waits, as soon as there is something; after so many seconds also nothing.

        Before the first look has answered it waits for that. Raises the error of stop().
        """
        while not (self._is_begun or self._error):
            await self._wake.wait()
            self._wake.clear()
        if not (self._pending.changes or self._pending.is_due or self._error):
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()
        if self._error is not None:
            raise self._error
        pending, self._pending = self._pending, _Pending()
        return Batch(
            pending.changes, self.moment, pending.is_snapshot, pending.reason, pending.left_out
        )

    def _coalesce(self) -> None:
        """Keep the latest change of each attribute, in the order in which these came."""
        pending = self._pending
        latest = {change.pair: change for change in pending.changes}
        kept = sorted(latest.values(), key=lambda change: change.rank.arrival)
        pending.left_out += len(pending.changes) - len(kept)
        pending.changes = kept
        pending.size_bytes = sum(change.size_bytes for change in kept)


def _too_large(size_bytes: int) -> ServiceError:
    return errors.invalid_argument(
        "BATCH_TOO_LARGE",
        f"what comes first has {size_bytes} bytes, at most {SNAPSHOT_BYTES_MAX} are sent: watch"
        " fewer entities or attributes at a time",
        field="entity_keys",
        bytes=size_bytes,
        bytes_max=SNAPSHOT_BYTES_MAX,
    )


def _too_slow(size_bytes: int, bytes_max: int) -> ServiceError:
    return errors.resource_exhausted(
        "OVERLOADED",
        f"{size_bytes} bytes of changes wait to be read, at most {bytes_max} are kept: read faster,"
        " or watch fewer attributes; go on from the last resume_token",
        retry_after=1.0,
        bytes=size_bytes,
        bytes_max=bytes_max,
    )
