"""What ingest counts."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from atlas_common.telemetry import metrics
from atlas_ingest.budget import Budget

points_accepted = metrics.counter("atlas.ingest.points_accepted", "{points}", "Points stored.")
points_rejected = metrics.counter("atlas.ingest.points_rejected", "{points}", "Points refused.")
ack_seconds = metrics.histogram("atlas.ingest.ack_seconds", "s", "From a call to its answer.")
flush_seconds = metrics.histogram("atlas.ingest.flush_seconds", "s", "One flush.")
stage_seconds = metrics.histogram("atlas.ingest.stage_seconds", "s", "One COPY into staging.")
flush_points = metrics.histogram("atlas.ingest.flush_points", "{points}", "Points of one flush.")
lane_claims = metrics.counter("atlas.ingest.lane_claims", "1", "Lanes claimed.")
lanes_adopted = metrics.counter("atlas.ingest.lanes_adopted", "1", "Ownerless lanes emptied.")
points_refilled = metrics.counter(
    "atlas.ingest.points_refilled", "{points}", "Points staged again after a loss."
)
failovers = metrics.counter("atlas.ingest.failovers", "1", "Promotions of another server noticed.")
flush_retries = metrics.counter("atlas.ingest.flush_retries", "1", "Flushes tried again.")
invalidations = metrics.counter(
    "atlas.ingest.invalidations", "1", "Flushes told to hotcache, by outcome."
)


def observe_pending(budget: Budget) -> None:
    """Show what waits whenever metrics are collected."""
    metrics.gauge(
        "atlas.ingest.pending_points", "{points}", "Points not answered yet.", lambda: budget.points
    )
    metrics.gauge(
        "atlas.ingest.pending_bytes", "By", "Bytes not answered yet.", lambda: budget.bytes
    )
    metrics.gauge(
        "atlas.ingest.pending_fill", "1", "How much of the room for both is taken.",
        lambda: budget.fill,
    )  # fmt: skip


class Lane(Protocol):
    """What is shown of one."""

    @property
    def is_live(self) -> bool:
        """Whether it is held and served."""
        ...

    @property
    def backlog_points(self) -> int:
        """Not flushed yet."""
        ...

    @property
    def oldest_appended_at(self) -> float | None:
        """When the oldest of them came, by time.monotonic()."""
        ...


def observe_lanes(lanes: Callable[[], Sequence[Lane]], lanes_max: int) -> None:
    """Show the lanes that this process holds whenever metrics are collected."""

    def age_seconds() -> float:
        times = [lane.oldest_appended_at for lane in lanes()]
        return max((time.monotonic() - each for each in times if each is not None), default=0.0)

    metrics.gauge(
        "atlas.ingest.lanes", "{lanes}", "Lanes held and served.",
        lambda: sum(lane.is_live for lane in lanes()),
    )  # fmt: skip
    metrics.gauge("atlas.ingest.lanes_limit", "{lanes}", "At most.", lambda: lanes_max)
    metrics.gauge(
        "atlas.ingest.backlog_points", "{points}", "Points taken and not flushed.",
        lambda: sum(lane.backlog_points for lane in lanes()),
    )  # fmt: skip
    metrics.gauge("atlas.ingest.backlog_age", "s", "Of the oldest of these points.", age_seconds)
