"""What maintenance shows: numbers that are zero when all is well."""

from atlas_common.telemetry import metrics
from atlas_ingest.maintenance.partitions import Partitions
from atlas_ingest.maintenance.retention import Retention


def observe_partitions(partitions: Partitions) -> None:
    """Show what the last look found whenever metrics are collected."""
    health = partitions.health
    metrics.gauge(
        "atlas.ingest.default_rows",
        "{points}",
        "Rows in the default partition: no partition was made for them.",
        lambda: health.default_rows,
    )
    metrics.gauge(
        "atlas.ingest.default_rows_age_seconds",
        "s",
        "Since the oldest row in the default partition was stored.",
        lambda: health.default_age_seconds,
    )
    metrics.gauge(
        "atlas.ingest.partitions_postponed",
        "{partitions}",
        "Partitions that could not be made because a transaction was in the way.",
        lambda: health.postponed,
    )


def observe_retention(retention: Retention) -> None:
    """Show what the last walk left undone whenever metrics are collected."""
    metrics.gauge(
        "atlas.ingest.retention_unfinished",
        "{steps}",
        "Steps of retention that are due and could not be done, by result.",
        lambda: retention.unfinished,
    )
