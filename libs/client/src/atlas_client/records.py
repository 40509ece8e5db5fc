"""What goes in and what comes back, as plain frozen records."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from atlas_client.consistency import Level, OnUnmet
from atlas_client.values import DataType, ReadValue, Value


class AckLevel(StrEnum):
    """When a write is answered, and so what the answer survives."""

    STAGED = "staged"
    """Copied, not visible yet; the death of ingest and of Postgres together loses it."""
    COMMITTED = "committed"
    """Visible on the primary; a crash of Postgres may lose the last moments."""
    DURABLE = "durable"
    """On disk."""


class Source(StrEnum):
    """Where an answer came from."""

    PRIMARY = "primary"
    REPLICA = "replica"
    CACHE = "cache"
    WAREHOUSE = "warehouse"


class UnknownAttributes(StrEnum):
    """What ingest does with a point whose attribute is not in the catalog."""

    REJECT = "reject"
    REGISTER = "register"


class AggregateFunction(StrEnum):
    """What an aggregate computes."""

    COUNT = "count"
    SUM = "sum"
    AVG = "avg"
    MIN = "min"
    MAX = "max"
    FIRST = "first"
    """The value with the least event time."""
    LAST = "last"


class BucketFunction(StrEnum):
    """What a downsampled history computes of the points in a bucket."""

    MIN = "min"
    MAX = "max"
    AVG = "avg"
    LAST = "last"
    FIRST = "first"
    COUNT = "count"


class PositionState(StrEnum):
    """Where a tier stands to a freshness token."""

    REACHED = "reached"
    PENDING = "pending"
    LOST = "lost"
    """A failover lost what the token stands for: it will never be reached."""


class ReadKind(StrEnum):
    """What is read; it decides which tiers come into question."""

    LATEST_HOT = "latest_hot"
    LATEST_ALL = "latest_all"
    FIND = "find"
    HISTORY = "history"
    AGGREGATE = "aggregate"


class RouteAction(StrEnum):
    """What would become of a read."""

    READ = "read"
    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Point:
    """One observed value at one event time."""

    entity: str
    attribute: str
    value: Value
    time: datetime | None = None
    """Aware. None: the moment of the write."""
    quality: int = 0


@dataclass(frozen=True, slots=True)
class PointError:
    """What is wrong with one point of a write."""

    index: int
    reason: str
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class ProducerPosition:
    """How far a producer's batches are stored."""

    sequence: int
    """The last stored one; 0: none yet."""
    stored_at: datetime | None
    token: bytes
    """Holds everything up to the sequence."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a write."""

    request_id: str
    token: bytes
    """Give it to a read as at_least_as_fresh(token); a Session does so by itself."""
    accepted_count: int
    rejected_count: int
    errors: tuple[PointError, ...]
    """The first 100 of the rejected points."""
    ack: AckLevel | None
    duplicate: bool
    """The request_id had been stored before; nothing was stored now."""


@dataclass(frozen=True, slots=True)
class ArrowWriteResult:
    """What became of a stream of Arrow messages."""

    request_id: str
    token: bytes
    """Give it to a read as at_least_as_fresh(token); a Session does so by itself."""
    accepted_count: int
    rejected_count: int
    errors: tuple[PointError, ...]
    """The first 100 of the rejected rows; their indexes count rows from the stream's beginning."""
    ack: AckLevel | None
    duplicate_messages: int
    """Messages that had been stored before under this request_id."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a tenant may take; None: as much as the platform says."""

    points_per_second: float | None = None
    calls_per_second: float | None = None
    """Of each service apart."""
    entities: int | None = None
    attributes: int | None = None
    concurrent_streams: int | None = None
    """Of each service apart."""
    warehouse_seconds_per_minute: float | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of the platform."""

    tenant_id: int
    key: str
    display_name: str
    unknown_attributes: UnknownAttributes
    retention_class: str = ""
    late_data_window: timedelta | None = None
    """How old a point may be; None: as the platform has it."""
    quotas: Quotas = field(default_factory=Quotas)
    """Its own."""


@dataclass(frozen=True, slots=True)
class Entity:
    """An asset in the catalog."""

    entity_id: int
    key: str
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class Attribute:
    """The definition of an attribute."""

    name: str
    data_type: DataType
    hot: bool = False
    unit: str = ""
    validation_regex: str = ""
    min_value: str = ""
    max_value: str = ""
    allowed_values: tuple[str, ...] = ()
    attribute_id: int = 0
    """Given by the platform; ignored in definitions."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one attribute."""

    attribute: str
    value: ReadValue
    time: datetime
    quality: int = 0


@dataclass(frozen=True, slots=True)
class ReadMetadata:
    """The proof of what was served."""

    source: Source | None
    endpoint: str
    consistency: Level | None
    lag: timedelta | None
    """Measured, an upper bound; None is unknown."""
    as_of: datetime | None
    """The answer holds everything committed before."""
    token: bytes
    """Give it to the next read for monotonic reads; a Session does so by itself."""
    verified_through: datetime | None
    route_reason: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntityState:
    """Latest values of an entity."""

    entity: str
    entity_id: int
    readings: tuple[Reading, ...]
    """Ordered by attribute name."""

    @property
    def values(self) -> dict[str, ReadValue]:
        """Attribute name -> latest value."""
        return {reading.attribute: reading.value for reading in self.readings}


@dataclass(frozen=True, slots=True)
class EntitiesResult:
    """Latest values of the entities asked for. Iterates over those found, in the order asked."""

    entities: tuple[EntityState, ...]
    not_found: tuple[str, ...]
    metadata: ReadMetadata

    def __iter__(self) -> Iterator[EntityState]:
        return iter(self.entities)

    def __getitem__(self, entity: str) -> EntityState:
        """Return the entity's state. Raises KeyError when it was not found."""
        for state in self.entities:
            if state.entity == entity:
                return state
        raise KeyError(entity)


@dataclass(frozen=True, slots=True)
class AggregateRow:
    """One group of an aggregate."""

    attribute: str
    results: Mapping[AggregateFunction, float]
    """NaN where the group has no number."""
    entity: str | None = None
    bucket_time: datetime | None = None
    percentiles: Mapping[float, float] = field(default_factory=dict)
    quality: int | None = None
    """None unless grouped by quality."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One place that reads are served from."""

    source: Source | None
    endpoint: str
    available: bool
    lag: timedelta | None
    breaker: str
    note: str = ""
    """For people: which server is the primary, or why a server is not read."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The points of one attribute in one bucket of time; there is at least one."""

    attribute: str
    time: datetime
    """The bucket's beginning."""
    results: Mapping[BucketFunction, ReadValue]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """Changes of watched entities; without any it is a sign of life."""

    entities: tuple[EntityState, ...]
    """Each one's readings in the order in which they arrived, not by name."""
    snapshot: bool
    """The readings are the latest values, all of them: forget what you had."""
    snapshot_reason: str
    """Why there is a snapshot although a resume_token was given."""
    resume_token: bytes
    """Give it to the next watch(); empty while more of the same moment follows."""
    token: bytes
    """What all that came holds; for reads that are as fresh."""
    as_of: datetime | None
    """Everything committed before has come."""
    coalesced_count: int
    """Changes left out because newer ones of the same attributes follow: you read too slowly."""


@dataclass(frozen=True, slots=True)
class TierState:
    """A tier, and where it stands to a token."""

    source: Source | None
    endpoint: str
    available: bool
    breaker: str
    lag: timedelta | None
    position: PositionState | None
    token: bytes
    """What it holds; empty where that is not known."""
    fresh_in: timedelta | None
    """In how long it will be fresh enough, as it moves now; None: it is, or nobody knows."""
    reads_running: int


@dataclass(frozen=True, slots=True)
class WaitResult:
    """The tiers that hold a token's positions, and how long that took."""

    tiers: tuple[TierState, ...]
    waited: timedelta


@dataclass(frozen=True, slots=True)
class RouteCandidate:
    """A tier, and what speaks for or against it."""

    tier: TierState
    verdict: str


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """What would become of a read now."""

    action: RouteAction | None
    source: Source | None
    endpoint: str
    reason: str
    on_unmet: OnUnmet | None
    when_unmet: str
    candidates: tuple[RouteCandidate, ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """Count and checksum of a set of rows."""

    row_count: int
    checksum: str


@dataclass(frozen=True, slots=True)
class WindowResult:
    """One window of ingestion time, compared."""

    start_time: datetime | None
    end_time: datetime | None
    source: Digest
    warehouse: Digest
    matched: bool


class DifferenceKind(StrEnum):
    """How a row differs between source and warehouse."""

    MISSING = "missing"
    """The source has it, the warehouse does not."""
    EXTRA = "extra"
    """The warehouse has it, the source does not; or has it once more."""
    DIFFERENT = "different"
    """Both have a point of the series and times, with another value or quality."""
    UNKNOWN = "unknown"
    """Said by a newer service."""


@dataclass(frozen=True, slots=True)
class RowVersion:
    """What one side has of a row; the value as a text for people."""

    quality: int
    data_type: DataType | None
    value: str


@dataclass(frozen=True, slots=True)
class RowDifference:
    """A row that differs, with the versions of both sides."""

    kind: DifferenceKind
    entity_id: int
    attribute_id: int
    event_time: datetime | None
    ingest_time: datetime | None
    source: RowVersion | None
    warehouse: RowVersion | None
    copies: int
    """How many such rows are missing or too many."""


@dataclass(frozen=True, slots=True)
class WindowDifferences:
    """The rows at fault for a window that does not agree."""

    start_time: datetime | None
    end_time: datetime | None
    rows: tuple[RowDifference, ...]
    complete: bool
    """False: more rows differ than are named."""


@dataclass(frozen=True, slots=True)
class WindowRepair:
    """A window that did not agree, and what was done about it."""

    differences: WindowDifferences
    rows_deleted: int
    rows_inserted: int
    matched: bool
    """Compared once more, behind the repair."""


@dataclass(frozen=True, slots=True)
class RepairSummary:
    """The end of a repair."""

    windows_compared: int
    windows_mismatched: int
    windows_repaired: int
    verified_through: datetime | None


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """A column of a row that both sides have, as people write it. None is NULL."""

    name: str
    source: str | None
    warehouse: str | None


@dataclass(frozen=True, slots=True)
class KeyDifference:
    """A row of the catalog that differs."""

    kind: DifferenceKind
    key: str
    columns: tuple[ColumnDifference, ...]
    """Those that differ, of a row that both sides have."""


@dataclass(frozen=True, slots=True)
class TableResult:
    """The tenant's rows of a table of the catalog, on both sides."""

    table: str
    source: Digest
    warehouse: Digest
    matched: bool
    rows: tuple[KeyDifference, ...]
    complete: bool
    """False: more rows differ than are named."""


@dataclass(frozen=True, slots=True)
class ReconciliationReport:
    """What an earlier comparison found."""

    report_id: int
    cause: str
    create_time: datetime | None
    through_time: datetime | None
    windows_compared: int
    windows_mismatched: int
    difference_count: int
    """Of rows of the history."""
    complete: bool
    tables: tuple[TableResult, ...] = ()
    """Those of the catalog that differ."""

    @property
    def matched(self) -> bool:
        """Say whether nothing was found."""
        return not self.windows_mismatched and not self.tables


@dataclass(frozen=True, slots=True)
class ReconcileSummary:
    """The end of a reconciliation."""

    windows_compared: int
    windows_mismatched: int
    source: Digest
    """Of all rows of the tenant, windows verified before included."""
    warehouse: Digest
    verified_through: datetime | None
    report_id: int = 0
    """Of the report that was kept; 0: there is none."""
    tables_mismatched: int = 0
    """Of the catalog."""

    @property
    def matched(self) -> bool:
        """Say whether both copies are equal."""
        mismatched = self.windows_mismatched + self.tables_mismatched
        return mismatched == 0 and self.source == self.warehouse


@dataclass(frozen=True, slots=True)
class Verification:
    """Up to where the tenant's copies are proven equal."""

    verified_through: datetime | None
    check_time: datetime | None
    windows_mismatched: int


@dataclass(frozen=True, slots=True)
class TenantVerification:
    """Up to where one tenant's copies are proven equal, and its newest report."""

    tenant: str
    verified_through: datetime | None
    check_time: datetime | None
    windows_mismatched: int
    report_id: int
    """0: no reconciliation has found a difference."""
    report_time: datetime | None
    report_differences: int


@dataclass(frozen=True, slots=True)
class Verifications:
    """Those of all tenants; only the ones furthest behind if there are many."""

    tenants: tuple[TenantVerification, ...]
    tenant_count: int
    freshness_budget: timedelta | None
    """How old the verified past may be."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One writer's staging."""

    lane: int
    owned: bool
    sequence: int
    staged_points: int
    staged_bytes: int
    oldest_age: timedelta | None
    reason: str


@dataclass(frozen=True, slots=True)
class StagingStatus:
    """How far ingest has flushed, and what waits."""

    pending_points: int
    pending_points_max: int
    flushed_points_total: int
    rejected_points_total: int
    lanes: tuple[Lane, ...] = field(default=())

    @property
    def backlog_points(self) -> int:
        """Points staged and not flushed, over all lanes."""
        return sum(lane.staged_points for lane in self.lanes)


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """The cache over the hot attributes."""

    connected: bool
    hits_total: int
    misses_total: int
    invalidations_total: int
    fills_refused_total: int
    generations_total: int
    lag: timedelta | None


@dataclass(frozen=True, slots=True)
class HeldTable:
    """A table that does not fit the warehouse's any more: its changes are kept as dead letters."""

    table: str
    reason: str
    dead_letters: int


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """The replication slot that feeds the warehouse."""

    name: str
    wal_status: str
    """As Postgres says: reserved, extended, unreserved, lost; or missing."""
    active: bool
    safe_bytes: int | None
    """Log until it is lost; None: the server keeps any amount."""
    used_share: float
    """Of the log that the server keeps at most, 0 to 1; at 1 the slot is lost."""
    failover: bool
    """Whether standbys keep a copy of it."""
    invalidation_reason: str


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far comparing and copying is, or was when it ended."""

    tables_done: int
    tables_total: int
    tenants_done: int
    tenants_total: int
    percent: float
    rows_compared: int
    rows_differing: int
    rows_copied: int
    rows_rejected: int
    """Rows that the warehouse cannot hold."""
    spans_copied: int


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """The way into the warehouse. read = applied + dead-lettered + skipped."""

    phase: str
    applied_lsn: str
    lag: timedelta | None
    read_total: int
    applied_total: int
    dead_lettered_total: int
    skipped_total: int
    warehouse_rows: int
    slot_retained_bytes: int
    as_of: datetime | None
    reason: str
    held_tables: tuple[HeldTable, ...] = ()
    dead_letters_open: int = 0
    conserved: bool = True
    """Whether the books balance, and are what the tables say."""
    slot: SlotStatus | None = None
    copy: CopyProgress | None = None
    instance: str = ""
    leader: str = ""
    """Which instance leads; empty: not known."""
