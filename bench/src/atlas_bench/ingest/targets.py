"""What the write path is held to."""

from atlas_bench.targets import Target

TARGETS = (
    Target("ratios.write_arrow", 0.80, aim=1.0),
    Target("ratios.write_stream", 0.60, aim=0.80),
    Target("ratios.staged_burst", 2.0),
    Target("ratios.vs_executemany", 4.0, aim=6.0),
    Target("ratios.group_commit", 10.0),
    Target("ratios.growth", 0.8),
    Target("latency_ms.committed_p99", 250.0, is_most=True),
    Target("latency_ms.staged_p99", 25.0, is_most=True),
    Target("rss_mb_max", 512.0, is_most=True),
)
