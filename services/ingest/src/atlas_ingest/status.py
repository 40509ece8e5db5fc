"""What waits in staging, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class LaneRow:
    """A lane as the database sees it; `owned`: by any session."""

    lane: int
    owned: bool
    epoch: int
    sequence: int
    flushed_at: datetime
    staged_points: int
    staged_bytes: int
    age_seconds: float


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
