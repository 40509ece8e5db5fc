"""Jobs on the projection, and indexes of cold attributes, as Python has them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_client.values import from_timestamp


class JobKind(StrEnum):
    """What a job is for."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    REBUILD = "rebuild"
    VERIFY = "verify"
    UNKNOWN = "unknown"
    """Of a newer platform."""


class JobState(StrEnum):
    """How far a job is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """Of a newer platform."""


class IndexState(StrEnum):
    """How far the index of an attribute is."""

    NONE = "none"
    """There is none: of a dry run, or once it is dropped."""
    BUILDING = "building"
    READY = "ready"
    """Filters may be over the attribute."""
    DROPPING = "dropping"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Of a newer platform."""


@dataclass(frozen=True, slots=True)
class AttributeIndex:
    """The index of a cold attribute; see AttributeIndex in atlas.hotcache.v1."""

    attribute: str
    state: IndexState
    partition_count: int
    partitions_done: int
    scanned_point_estimate: int
    indexed_point_estimate: int
    byte_count: int
    message: str
    create_time: datetime | None
    update_time: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state not in {IndexState.BUILDING, IndexState.DROPPING}


@dataclass(frozen=True, slots=True)
class Difference:
    """An attribute of an entity that two places say differently; values are JSON, cut.

    `place`: projection (compared with the points) or cache (compared with the projection). `kind`:
    missing, extra, older, newer, wrong.
    """

    place: str
    kind: str
    entity_id: int
    entity: str
    attribute: str
    expected: str
    expected_time: datetime | None
    found: str
    found_time: datetime | None


@dataclass(frozen=True, slots=True)
class ProjectionJob:
    """A job; see ProjectionJob in atlas.hotcache.v1 for what the numbers count."""

    job_id: int
    kind: JobKind
    state: JobState
    step: str
    dry_run: bool
    repair: bool
    attribute: str
    sample_percent: int
    entities_total: int
    entities_done: int
    entities_changed: int
    point_count: int
    byte_count: int
    missing_count: int
    extra_count: int
    different_count: int
    cache_count: int
    repaired_count: int
    uncompared_count: int
    message: str
    create_time: datetime
    update_time: datetime
    finish_time: datetime | None
    differences: tuple[Difference, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state is not JobState.RUNNING

    @property
    def differences_found(self) -> int:
        """In the projection and in the cache."""
        return self.missing_count + self.extra_count + self.different_count + self.cache_count

    @property
    def differences_left(self) -> int:
        """Those that were not put right."""
        return self.differences_found - self.repaired_count


def job_of(message: pb.ProjectionJob) -> ProjectionJob:
    """The record of a message."""
    finished = message.HasField("finish_time")
    return ProjectionJob(
        job_id=message.job_id,
        kind=_KINDS.get(message.kind, JobKind.UNKNOWN),
        state=_STATES.get(message.state, JobState.UNKNOWN),
        step=message.step,
        dry_run=message.dry_run,
        repair=message.repair,
        attribute=message.attribute,
        sample_percent=message.sample_percent,
        entities_total=message.entities_total,
        entities_done=message.entities_done,
        entities_changed=message.entities_changed,
        point_count=message.point_count,
        byte_count=message.byte_count,
        missing_count=message.missing_count,
        extra_count=message.extra_count,
        different_count=message.different_count,
        cache_count=message.cache_count,
        repaired_count=message.repaired_count,
        uncompared_count=message.uncompared_count,
        message=message.message,
        create_time=from_timestamp(message.create_time),
        update_time=from_timestamp(message.update_time),
        finish_time=from_timestamp(message.finish_time) if finished else None,
        differences=tuple(map(_difference, message.differences)),
    )


def index_of(message: pb.AttributeIndex) -> AttributeIndex:
    """The record of a message."""
    return AttributeIndex(
        attribute=message.attribute,
        state=_INDEX_STATES.get(message.state, IndexState.UNKNOWN),
        partition_count=message.partition_count,
        partitions_done=message.partitions_done,
        scanned_point_estimate=message.scanned_point_estimate,
        indexed_point_estimate=message.indexed_point_estimate,
        byte_count=message.byte_count,
        message=message.message,
        create_time=_moment(message, "create_time"),
        update_time=_moment(message, "update_time"),
    )


def no_index(attribute: str) -> AttributeIndex:
    """The record of an index that is gone."""
    return index_of(pb.AttributeIndex(attribute=attribute))


def _moment(message: pb.AttributeIndex, field: Literal["create_time", "update_time"]) -> Any:
    return from_timestamp(getattr(message, field)) if message.HasField(field) else None


_INDEX_STATES = {
    pb.ATTRIBUTE_INDEX_STATE_UNSPECIFIED: IndexState.NONE,
    pb.ATTRIBUTE_INDEX_STATE_BUILDING: IndexState.BUILDING,
    pb.ATTRIBUTE_INDEX_STATE_READY: IndexState.READY,
    pb.ATTRIBUTE_INDEX_STATE_DROPPING: IndexState.DROPPING,
    pb.ATTRIBUTE_INDEX_STATE_FAILED: IndexState.FAILED,
}
_KINDS = {
    pb.PROJECTION_JOB_KIND_PROMOTE: JobKind.PROMOTE,
    pb.PROJECTION_JOB_KIND_DEMOTE: JobKind.DEMOTE,
    pb.PROJECTION_JOB_KIND_REBUILD: JobKind.REBUILD,
    pb.PROJECTION_JOB_KIND_VERIFY: JobKind.VERIFY,
}
_STATES = {
    pb.PROJECTION_JOB_STATE_RUNNING: JobState.RUNNING,
    pb.PROJECTION_JOB_STATE_DONE: JobState.DONE,
    pb.PROJECTION_JOB_STATE_FAILED: JobState.FAILED,
    pb.PROJECTION_JOB_STATE_CANCELLED: JobState.CANCELLED,
}


def _difference(message: pb.ProjectionDifference) -> Difference:
    expected, found = message.HasField("expected_time"), message.HasField("found_time")
    return Difference(
        place=_word(pb.ProjectionDifference.Place, message.place, "PLACE_"),
        kind=_word(pb.ProjectionDifference.Kind, message.kind, "KIND_"),
        entity_id=message.entity_id,
        entity=message.entity_key,
        attribute=message.attribute,
        expected=message.expected,
        expected_time=from_timestamp(message.expected_time) if expected else None,
        found=message.found,
        found_time=from_timestamp(message.found_time) if found else None,
    )


def _word(enum: type, number: int, prefix: str) -> str:
    try:
        name: str = enum.Name(number)  # type: ignore[attr-defined]
    except ValueError:
        return str(number)
    return name.removeprefix(prefix).lower()
