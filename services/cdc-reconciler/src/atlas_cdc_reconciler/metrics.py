"""What the service measures of itself."""

import math
from collections.abc import Callable, Mapping

from atlas_common.telemetry import metrics

changes = metrics.counter(
    "atlas.reconciler.changes", "{changes}", "Changes read from the source, by what became of them."
)
violations = metrics.counter(
    "atlas.reconciler.violations",
    "{violations}",
    "Transactions in which read = applied + dead-lettered + skipped did not hold.",
)
apply_seconds = metrics.histogram("atlas.reconciler.apply", "s", "Applying one batch.")
batch_changes = metrics.histogram("atlas.reconciler.batch", "{changes}", "Changes of one batch.")
compaction_seconds = metrics.histogram(
    "atlas.reconciler.compaction", "s", "Sorting some of the history: batches wait for it."
)
windows = metrics.counter(
    "atlas.reconciler.windows", "{windows}", "Windows compared, by whether they agreed."
)

repaired_windows = metrics.counter(
    "atlas.reconciler.repaired", "{windows}", "Windows whose rows were taken from the source anew."
)
budget_breaches = metrics.counter(
    "atlas.reconciler.budget_breaches",
    "{breaches}",
    "Tenants whose verified past was older than the budget, after each round.",
)
compare_seconds = metrics.histogram(
    "atlas.reconciler.compare", "s", "Digesting the windows of one statement on both sides."
)
recoveries = metrics.counter(
    "atlas.reconciler.recoveries", "{recoveries}", "Times the slot was lost and made good."
)


def show_lag(read: Callable[[], float]) -> None:
    """Export how far the warehouse is behind; an unknown lag as -1, since infinity is no JSON."""

    def finite() -> float:
        lag_seconds = read()
        return lag_seconds if math.isfinite(lag_seconds) else -1.0

    metrics.gauge("atlas.reconciler.lag", "s", "How far the warehouse is behind.", finite)


def show_audit(
    discrepancies: Callable[[], float],
    open_letters: Callable[[], Mapping[str, float]],
    held_tables: Callable[[], Mapping[str, float]],
) -> None:
    """Export what the audit found last."""
    metrics.gauge(
        "atlas.reconciler.discrepancies",
        "{discrepancies}",
        "Books that do not balance, or do not say what the tables do; to be 0.",
        discrepancies,
    )
    metrics.gauge(
        "atlas.reconciler.dead_letters", "{letters}", "Open dead letters by class.", open_letters
    )
    metrics.gauge(
        "atlas.reconciler.held_tables",
        "{letters}",
        "Tables that do not fit the warehouse's any more, with their dead letters.",
        held_tables,
    )


def show_verified_age(read: Callable[[], float]) -> None:
    """Export how old the verified past of the tenant furthest behind is; -1: not known."""
    metrics.gauge(
        "atlas.reconciler.verified_age",
        "s",
        "Age of the verified past of the tenant that is furthest behind.",
        read,
    )
