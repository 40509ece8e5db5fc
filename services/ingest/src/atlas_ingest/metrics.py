"""What ingest counts."""

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
