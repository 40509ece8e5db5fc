"""How fast a backlog is worked off, and what grows meanwhile."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from atlas.reconciler.v1.reconciler_service_pb2 import GetPipelineStatusResponse
from atlas_bench.cdc import history
from atlas_bench.cdc.rig import Rig
from atlas_bench.errors import BenchError
from atlas_bench.progress import say
from atlas_cdc_reconciler.config import WarehouseConfig

_POLL_SECONDS = 0.1
_STANDSTILL_SECONDS_MAX = 180.0
"""Debezium's first batch takes long: its engine gives some thousand rows a second."""
CACHE_MB: float = WarehouseConfig.model_fields["memory_limit_mb"].default
"""What the service lets DuckDB have, unless told otherwise."""
_FAR = 100_000_000
_FAR_FROM = 5_000_000
_POINTS_MAX = 60


@dataclass(frozen=True)
class Sight:
    """The warehouse at one moment of the way."""

    at: float
    rows: int
    """Applied since the beginning."""
    rss_mb: float
    file_mb: float


def measure(rig: Rig) -> dict[str, Any]:
    """Fill while the reconciler stands, start it, watch it come up. Raises BenchError."""
    options = rig.options
    rig.settle()
    before = rig.status().applied_total
    rig.stop_reconciler()
    say(f"  writing {options.rows:,} rows, and a tenth for a neighbour")
    written = history.fill(rig, options.rows)
    rig.reconciler.launch()
    with rig.profiled("backlog"):
        sights = watched(rig, rig.status, before, written)
    if rig.profile is not None:
        rig.profile.count("backlog", written, {})
    runs = parts(sights, options.repeats, "backlog")
    for number, run in enumerate(runs, 1):
        say(f"  {number:>2} backlog {run['rows_per_s']:>12,.0f} rows/s")
    rig.note_memory()
    return {"runs": runs, "growth": _thinned(sights), "at_100m": extrapolated(sights, CACHE_MB)}


def watched(
    rig: Rig, status: Callable[[], GetPipelineStatusResponse], before: int, written: int
) -> list[Sight]:
    """Look until all is applied. The first sight with rows is where the clock starts."""
    sights: list[Sight] = []
    moved = time.monotonic()
    while not sights or sights[-1].rows < written:
        told = status()
        rows, now = told.applied_total - before, time.monotonic()
        if rows > 0 and (not sights or rows > sights[-1].rows):
            rss, size = rig.memory.now_mb, rig.warehouse.stat().st_size / 2**20
            sights.append(Sight(now, rows, round(rss, 1), round(size, 1)))
            moved = now
        elif now - moved > _STANDSTILL_SECONDS_MAX:
            raise BenchError(f"the warehouse stood still: {told.reason or 'no reason'}")
        time.sleep(_POLL_SECONDS)
    if len(sights) < 2:
        raise BenchError("the backlog was gone before it could be watched: ask for more rows")
    return sights


def parts(sights: list[Sight], count: int, kind: str) -> list[dict[str, Any]]:
    """Rates of as many parts of the way, equally long in rows."""
    first, last = sights[0], sights[-1]
    cuts = [first]
    for number in range(1, count):
        wanted = first.rows + (last.rows - first.rows) * number / count
        cut = next(sight for sight in sights if sight.rows >= wanted)
        if cut.rows > cuts[-1].rows:
            cuts.append(cut)
    if last.rows > cuts[-1].rows:
        cuts.append(last)
    return [
        {
            "kind": kind,
            "repeat": number,
            "rows": end.rows - start.rows,
            "seconds": round(end.at - start.at, 3),
            "rows_per_s": round((end.rows - start.rows) / (end.at - start.at), 1),
        }
        for number, (start, end) in enumerate(pairwise(cuts), 1)
    ]


def _thinned(sights: list[Sight]) -> list[dict[str, Any]]:
    every = -(-len(sights) // _POINTS_MAX)
    kept = [*sights[:-1:every], sights[-1]]
    began = sights[0].at
    return [{**asdict(sight), "at": round(sight.at - began, 2)} for sight in kept]


def extrapolated(sights: list[Sight], cache_mb: float) -> dict[str, float]:
    """Where the second half of the way points at 100 million rows, if it went on straight.

    Memory grows by what DuckDB caches of the file, until that is `cache_mb`: by more the line of
    the memory does not rise above where it began.
    """
    if sights[-1].rows < _FAR_FROM:
        return {}  # Caches and buffers still fill up.
    half = [sight for sight in sights if sight.rows >= sights[-1].rows / 2]
    rows = [sight.rows for sight in half]
    if len(set(rows)) < 2:
        return {}
    found: dict[str, float] = {"measured_to_rows": rows[-1]}
    for name in ("rss_mb", "file_mb"):
        line = statistics.linear_regression(rows, [getattr(sight, name) for sight in half])
        found[name] = round(line.slope * _FAR + line.intercept, 1)
        found[f"{name}_per_million"] = round(line.slope * 1e6, 3)
    found["rss_mb"] = min(found["rss_mb"], round(sights[0].rss_mb + cache_mb, 1))
    return found
