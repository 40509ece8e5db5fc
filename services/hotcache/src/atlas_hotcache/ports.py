"""What the domain says to its stores, and the records they exchange."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_common.values import DataType, Scalar
from atlas_hotcache.entry import Entry
from atlas_hotcache.lag import PrimaryView
from atlas_hotcache.marks import CacheState, Move, Outcome


class CacheUnavailableError(Exception):
    """The cache did not do as asked; the message says why, for people."""


class PrimaryUnavailableError(Exception):
    """The primary did not say how far it is."""


@dataclass(frozen=True, slots=True)
class HotValue:
    """The latest value of a hot attribute. `event_time_us`: microseconds since the epoch."""

    attribute: str
    data_type: DataType
    value: Scalar
    event_time_us: int


@dataclass(frozen=True, slots=True)
class HotRow:
    """An entity's row of the projection; version 0 and no values if it has none."""

    entity_id: int
    version: int
    values: tuple[HotValue, ...]


@dataclass(frozen=True, slots=True)
class PrimaryRead:
    """Rows of one snapshot, one per id asked; how far its lanes were, its history, its time."""

    rows: tuple[HotRow, ...]
    positions: Mapping[int, Position]
    source: str
    as_of_us: int


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity as it is cached and answered. `body` is its values, encoded."""

    entity_id: int
    version: int
    body: bytes
    is_cached: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read of the primary gave: fit to be answered and to be cached."""

    entities: tuple[Entity, ...]
    positions: Mapping[int, Position]
    source: str
    as_of_us: int


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the cache held at one moment. `server_us`: its own clock, microseconds."""

    state: CacheState | None
    entries: Mapping[int, Entry]
    server_us: int


class Change(NamedTuple):
    """A flush gave an entity this version."""

    tenant_id: int
    entity_id: int
    version: int


@dataclass(frozen=True, slots=True)
class MissedFlush:
    """A flush that the primary remembers: where it was, and what it changed."""

    position: Position
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Missed:
    """How far a snapshot's lanes were, and flushes on the way there. Some may be missing."""

    view: PrimaryView
    flushes: tuple[MissedFlush, ...]


@dataclass(frozen=True, slots=True)
class FillResult:
    """How many entries a fill stored, and how many lost to something newer."""

    stored: int
    refused: int


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The cache server's identity, what it evicted so far, and the state."""

    state: CacheState | None
    run_id: str
    evicted_count: int


class Primary(Protocol):
    """The primary database."""

    async def read(
        self, tenant: Tenant, entity_ids: Sequence[int], positions: tuple[Position, ...]
    ) -> PrimaryRead:
        """Rows of a snapshot that holds the positions. Raises what calls may fail with."""

    async def peek(self, tenant: Tenant, entity_id: int) -> PrimaryRead:
        """One row, for nobody who waits for it. Raises PrimaryUnavailableError."""

    async def view(self) -> PrimaryView:
        """How far the lanes are. Raises PrimaryUnavailableError."""

    async def missed(self, after: Mapping[int, int], changes_max: int) -> Missed:
        """What the primary remembers of flushes after these sequences, by lane.

        No flushes at all where they changed more than `changes_max`. Raises
        PrimaryUnavailableError.
        """


class Cache(Protocol):
    """One shard of the cache; see ValkeyCache. Everything raises CacheUnavailableError."""

    async def lookup(self, tenant_id: int, entity_ids: Sequence[int]) -> Lookup: ...

    async def fill(
        self, tenant_id: int, lookup: Lookup, evicted_count: int | None, reading: Reading
    ) -> FillResult: ...

    async def invalidate(self, position: Position, changes: Sequence[Change]) -> Outcome: ...

    async def advance(self, position: Position, after: Position) -> Outcome: ...

    async def make_up(
        self, generation: str, moves: Sequence[Move], changes: Sequence[Change]
    ) -> bool: ...

    async def forget(
        self, expected: CacheState | None, run_id: str, source: str, marks: Sequence[Position]
    ) -> bool: ...

    async def status(self) -> ServerStatus: ...
