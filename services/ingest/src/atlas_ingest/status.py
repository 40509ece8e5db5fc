"""What waits in staging, as plain values, and why it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

_ERROR_CHARACTERS_MAX = 200
_LATE_INTERVALS = 10
_LATE_SECONDS = 1.0
_FULL_DISK = ("No space left on device", "could not extend file")


@dataclass(frozen=True, slots=True)
class LaneRow:
    """A lane as the database sees it; `owned`: by any session. `waits_for`: what its flush does."""

    lane: int
    owned: bool
    epoch: int
    sequence: int
    flushed_at: datetime
    staged_points: int
    staged_bytes: int
    age_seconds: float
    waits_for: str


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """A lane; `is_ours`: this process owns it. `reason`: why its backlog does not shrink."""

    row: LaneRow
    is_ours: bool
    oldest_age_seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class StagingStatus:
    """All of it."""

    lanes: Sequence[LaneStatus]
    pending_points: int
    pending_points_max: int
    flushed_points: int
    rejected_points: int
    last_flush_seconds: float


@dataclass(frozen=True, slots=True)
class Flow:
    """How a lane of this process fares, and what it is meant to do."""

    backlog_points: int
    oldest_age_seconds: float
    last_error: str
    last_flush_seconds: float
    lanes: int
    lanes_max: int
    points_per_flush: int
    interval_seconds: float


def reason_of_others(row: LaneRow) -> str:
    """Why a lane that is not ours does not shrink; empty when it does, or nothing waits."""
    if not row.staged_points:
        return ""
    if not row.owned:
        return "no owner: the process that had the lane is gone; another adopts it within seconds"
    return row.waits_for


def reason_of_ours(row: LaneRow, flow: Flow, unreachable: str) -> str:
    """Why a lane of ours does not shrink; empty when it does.

    `unreachable`: why the database could not be asked. What is named first is what has to be put
    right first: as long as a lock is waited for, nothing is said of slowness.
    """
    if unreachable:
        return unreachable
    if row.waits_for:
        return row.waits_for
    if flow.last_error:
        return _of_error(flow.last_error)
    allowed_seconds = flow.interval_seconds * _LATE_INTERVALS + _LATE_SECONDS
    if flow.backlog_points > 2 * flow.points_per_flush or flow.oldest_age_seconds > allowed_seconds:
        return (
            f"flushes are slower than writes arrive: {flow.backlog_points} points wait, the last"
            f" flush took {flow.last_flush_seconds:.2f} s, {flow.lanes} of at most"
            f" {flow.lanes_max} lanes are at work"
        )
    return ""


def _of_error(error: str) -> str:
    """The first line alone: what follows may show the values of a row."""
    line = error.partition("\n")[0][:_ERROR_CHARACTERS_MAX]
    if any(words in error for words in _FULL_DISK):
        return f"the disk of the database is full: {line}"
    return f"the flush fails and is tried again: {line}"
