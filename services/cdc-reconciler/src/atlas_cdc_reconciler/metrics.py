"""What the service measures of itself."""

import math
from collections.abc import Callable, Mapping

from atlas_cdc_reconciler.progress import Phase
from atlas_cdc_reconciler.source.slot_state import SlotState
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
tables = metrics.counter(
    "atlas.reconciler.tables", "{tables}", "Tables of the catalog compared, by whether they agreed."
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


def show_progress(lag: Callable[[], float], phase: Callable[[], Phase]) -> None:
    """Export how far the warehouse is behind, and what the pipeline is doing.

    An unknown lag is -1, since infinity is no JSON.
    """

    def finite() -> float:
        lag_seconds = lag()
        return lag_seconds if math.isfinite(lag_seconds) else -1.0

    metrics.gauge("atlas.reconciler.lag", "s", "How far the warehouse is behind.", finite)
    metrics.gauge(
        "atlas.reconciler.phase",
        "{phase}",
        "1 for the phase it is in, else 0.",
        lambda: {each.value: float(each is phase()) for each in Phase},
    )


def show_slot(read: Callable[[], SlotState | None], used_share: Callable[[], float]) -> None:
    """Export how the slot stands; -1 where there is none, or no bound."""

    def retained() -> float:
        state = read()
        return -1.0 if state is None else float(state.retained_bytes)

    def safe() -> float:
        state = read()
        return -1.0 if state is None or state.safe_bytes is None else float(state.safe_bytes)

    def status() -> dict[str, float]:
        state = read()
        now = "missing" if state is None else state.wal_status
        names = ("reserved", "extended", "unreserved", "lost", "missing")
        return {name: float(name == now) for name in names}

    metrics.gauge(
        "atlas.reconciler.slot_retained", "By", "Log that the primary keeps for us.", retained
    )
    metrics.gauge(
        "atlas.reconciler.slot_safe", "By", "Log until the slot is lost; -1: no bound.", safe
    )
    metrics.gauge(
        "atlas.reconciler.slot_used_share", "1", "Of the log kept at most; 1: lost.", used_share
    )
    metrics.gauge(
        "atlas.reconciler.slot_wal_status", "{status}", "1 for the status it has, else 0.", status
    )


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
