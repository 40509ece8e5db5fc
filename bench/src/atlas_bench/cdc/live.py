"""Ingest at full speed, with the warehouse behind it: whether its lag grows."""

import statistics
import time
from dataclasses import replace
from typing import Any

from atlas_bench.cdc.rig import Rig
from atlas_bench.ingest.jobs import arrow_job
from atlas_bench.progress import say

_POLL_SECONDS = 0.25
_SETTLING_SECONDS = 5.0
"""At the beginning, which do not count."""


def measure(rig: Rig) -> dict[str, Any]:
    """Run it; the lag is what the reconciler says of itself. Raises BenchError."""
    seconds = rig.options.live_seconds
    job = replace(arrow_job(rig.options.ingest, rig.ingest), seconds=seconds)
    rig.drivers.prepare(job).result()
    rig.drivers.run(replace(job, seconds=1.0))
    rig.settle()
    before, began = rig.status().applied_total, time.monotonic()
    writing = rig.drivers.begin(job)
    looks: list[tuple[float, float, int]] = []
    while not writing.done():
        status = rig.status()
        lag = status.lag.ToNanoseconds() / 1e9
        looks.append((time.monotonic() - began, lag, status.applied_total - before))
        time.sleep(_POLL_SECONDS)
    written = writing.result()
    at_end = rig.status().applied_total - before
    applied_per_s = at_end / (time.monotonic() - began)
    rig.settle()
    caught_up = time.monotonic() - began - written.seconds
    rig.note_memory()
    steady = [look for look in looks if look[0] >= min(_SETTLING_SECONDS, seconds / 3)]
    growth = 0.0
    if len(steady) > 1:
        line = statistics.linear_regression(
            [look[0] for look in steady], [look[1] for look in steady]
        )
        growth = line.slope
    run = {
        "kind": "live",
        "repeat": 1,
        "rows_per_s": round(applied_per_s, 1),
        "ingest_rows_per_s": round(written.rows_per_s, 1),
        "ingest_errors": written.errors,
        "lag_s_max": round(max((look[1] for look in steady), default=0.0), 3),
        "lag_s_median": round(statistics.median([look[1] for look in steady] or [0.0]), 3),
        "growth_s_per_s": round(growth, 4),
        "behind_at_end_s": round(caught_up, 2),
    }
    say(
        f"   1 live {applied_per_s:>15,.0f} rows/s behind {written.rows_per_s:,.0f}"
        f" of ingest, lag up to {run['lag_s_max']} s"
    )
    return run
