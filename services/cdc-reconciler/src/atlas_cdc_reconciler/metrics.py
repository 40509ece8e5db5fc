"""What the service measures of itself."""

import math
from collections.abc import Callable

from atlas_common.telemetry import metrics

changes = metrics.counter(
    "atlas.reconciler.changes", "{changes}", "Changes read from the source, by what became of them."
)
apply_seconds = metrics.histogram("atlas.reconciler.apply", "s", "Applying one batch.")
batch_changes = metrics.histogram("atlas.reconciler.batch", "{changes}", "Changes of one batch.")
windows = metrics.counter(
    "atlas.reconciler.windows", "{windows}", "Windows compared, by whether they agreed."
)

repaired_windows = metrics.counter(
    "atlas.reconciler.repaired", "{windows}", "Windows whose rows were taken from the source anew."
)
compare_seconds = metrics.histogram(
    "atlas.reconciler.compare", "s", "Digesting the windows of one statement on both sides."
)


def show_lag(read: Callable[[], float]) -> None:
    """Export how far the warehouse is behind; an unknown lag as -1, since infinity is no JSON."""

    def finite() -> float:
        lag_seconds = read()
        return lag_seconds if math.isfinite(lag_seconds) else -1.0

    metrics.gauge("atlas.reconciler.lag", "s", "How far the warehouse is behind.", finite)
