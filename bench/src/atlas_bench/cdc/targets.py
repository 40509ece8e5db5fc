"""What the way into the warehouse, and reads of it, are held to."""

from atlas_bench.targets import Target

TARGETS = (
    Target("rows_per_s.backlog", 100_000.0),
    Target("ratios.vs_debezium", 5.0),
    Target("ratios.warehouse_vs_postgres", 4.0),
    Target("freshness_p99_s", 2.0, is_most=True),
    # Lag that grows by less than a hundredth of the time that passes does not grow.
    Target("lag.growth_s_per_s", 0.01, is_most=True),
    Target("rss_mb_max", 1024.0, is_most=True),
    Target("at_100m.rss_mb", 1024.0, is_most=True),
)
