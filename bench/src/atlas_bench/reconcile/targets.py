"""What reconciliation is held to."""

from atlas_bench.targets import Target

TARGETS = (
    Target("ratios.vs_reladiff", 3.0),
    Target("ratios.incremental_vs_full", 20.0),
    Target("ratios.ingest_slowdown", 0.10, is_most=True),
)
