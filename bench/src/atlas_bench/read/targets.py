"""What the read path is held to."""

from atlas_bench.targets import Target

TARGETS = (
    Target("ratios.hot_vs_echo", 0.70),
    Target("ratios.secured_vs_plain", 0.85),
    Target("ratios.batch_vs_single", 10.0),
    Target("ratios.filter_vs_eav", 20.0),
    Target("ratios.noisy_vs_alone", 1.5, is_most=True),
    Target("latency_ms.hot_p99", 10.0, is_most=True),
    Target("latency_ms.jsonb_p99", 50.0, is_most=True),
    Target("latency_ms.filter_p99", 50.0, is_most=True),
    Target("latency_ms.cold_p99", 50.0, is_most=True),
    Target("latency_ms.history_first_p99", 50.0, is_most=True),
    Target("latency_ms.router_overhead_p50", 1.0, is_most=True),
)
