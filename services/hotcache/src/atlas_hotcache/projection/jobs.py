"""What a job on the projection is, and which steps it takes. Pure.

    promotion   drain -> fill -> compare -> settle -> hot
    demotion    cold -> expire -> withdraw -> drain -> clean
    rebuild     rebuild
    verify      compare
    dry run     compare, of any kind
    cancelled promotion: withdraw -> drain -> clean, from wherever it was

Each step may be taken again from its beginning, or from the job's cursor: what it did is not undone
and not done twice. See ADR 13 for why this order, and what would fail in another.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a job is for."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    REBUILD = "rebuild"
    VERIFY = "verify"


class State(StrEnum):
    """How far a job is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Step(StrEnum):
    """What a job does now."""

    DRAIN = "drain"
    """Wait for the flushes that may not know of the attribute's transition."""
    FILL = "fill"
    """Project the attribute's latest points, batch by batch."""
    COMPARE = "compare"
    """Compare with the points."""
    SETTLE = "settle"
    """Wait until no cache entry of before is left."""
    EXPIRE = "expire"
    """Wait until nobody remembers that the attribute was hot."""
    WITHDRAW = "withdraw"
    """Let flushes project the attribute no more."""
    CLEAN = "clean"
    """Take the attribute's values out of the projection, batch by batch."""
    REBUILD = "rebuild"
    """Make the projection anew, batch by batch."""
    END = "end"


WRITES = frozenset({Step.FILL, Step.CLEAN, Step.REBUILD})
"""Steps that change the projection batch by batch."""

ROUNDS_MAX = 3
"""How often a promotion fills in at most, before it gives up."""

_AFTER: dict[Kind, dict[Step, Step]] = {
    Kind.PROMOTE: {
        Step.DRAIN: Step.FILL,
        Step.FILL: Step.COMPARE,
        Step.COMPARE: Step.SETTLE,
        Step.SETTLE: Step.END,
    },
    Kind.DEMOTE: {
        Step.EXPIRE: Step.WITHDRAW,
        Step.WITHDRAW: Step.DRAIN,
        Step.DRAIN: Step.CLEAN,
        Step.CLEAN: Step.END,
    },
    Kind.REBUILD: {Step.REBUILD: Step.END},
    Kind.VERIFY: {Step.COMPARE: Step.END},
}


@dataclass(frozen=True, slots=True)
class Progress:
    """A job's numbers; see ProjectionJob in the contract."""

    entities_total: int = 0
    entities_done: int = 0
    entities_changed: int = 0
    point_count: int = 0
    byte_count: int = 0
    missing_count: int = 0
    extra_count: int = 0
    different_count: int = 0
    cache_count: int = 0
    repaired_count: int = 0
    uncompared_count: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is stored. `attribute_id`: of a promotion or demotion."""

    tenant_id: int
    job_id: int
    kind: Kind
    state: State
    step: Step
    attribute_id: int | None
    sample_percent: int
    dry_run: bool
    repair: bool
    is_cancelled: bool
    round: int
    """How often it has filled in."""
    last_sequence: int
    """Of the projection's lane: the last change that this job made; 0: none."""
    step_seconds: float
    """For how long it has been in its step, by the database's clock."""
    message: str
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    progress: Progress
    differences: tuple[dict[str, Any], ...] = ()

    @property
    def repairs(self) -> bool:
        """Whether it puts right what it finds to differ; a promotion does, or it could not end."""
        return not self.dry_run and (self.repair or self.kind is Kind.PROMOTE)

    @property
    def compares_cache(self) -> bool:
        """Whether cache entries are compared, too: a promotion's are all made anew."""
        return self.kind is Kind.VERIFY


def next_step(job: Job) -> Step:
    """The step after the job's own. Raises KeyError for a step that its kind does not have."""
    if job.dry_run:
        return {Step.COMPARE: Step.END}[job.step]
    kind = Kind.DEMOTE if job.is_cancelled else job.kind
    return _AFTER[kind][job.step]


def end_state(job: Job) -> State:
    """The state of a job that has taken its last step."""
    return State.CANCELLED if job.is_cancelled else State.DONE
