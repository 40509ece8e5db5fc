"""The whole benchmark, and its result."""

import time
from dataclasses import asdict
from typing import Any

from atlas_bench import machine, processor
from atlas_bench.cdc import analytics, backlog, debezium, freshness, live
from atlas_bench.cdc.options import CdcOptions
from atlas_bench.cdc.rig import Rig, running
from atlas_bench.cdc.targets import TARGETS
from atlas_bench.medians import median, paired_ratio
from atlas_bench.progress import say
from atlas_bench.targets import verdicts


def measure(options: CdcOptions) -> dict[str, Any]:
    """Run it on a platform of its own; returns what --json prints. Raises BenchError."""
    began = time.monotonic()
    with running(options) as rig:
        facts = machine.facts(rig.stack.endpoints.primary)
        say(f"  a platform is up after {time.monotonic() - began:.1f} s")
        runs: list[dict[str, Any]] = []
        found = _scenarios(rig, runs)
        rig.note_memory()
        result = {
            "bench": "cdc",
            "quick": options.quick,
            **_figures(runs),
            "rss_mb_max": round(rig.rss_mb_max, 1),
            **found,
            **({"profile": rig.profile.tables()} if rig.profile else {}),
            "parameters": asdict(options),
            "machine": facts,
            "took_seconds": round(time.monotonic() - began, 1),
            "runs": runs,
        }
    return {**result, "targets": verdicts(TARGETS, result)}


def _scenarios(rig: Rig, runs: list[dict[str, Any]]) -> dict[str, Any]:
    only = set(rig.options.only)
    found: dict[str, Any] = {}
    for name in rig.options.only:
        before = processor.read(rig.stack.state.path)
        made = len(runs)
        match name:
            case "debezium":
                runs += debezium.measure(rig)
            case "backlog":
                seen = backlog.measure(rig)
                runs += seen.pop("runs")
                found |= seen
            case "analytics" if "backlog" in only:
                runs += analytics.measure(rig)
            case "live":
                runs.append(live.measure(rig))
            case "freshness":
                runs.append(freshness.measure(rig))
        # The first run of a scenario carries what all of it used.
        if len(runs) > made:
            after = processor.read(rig.stack.state.path)
            runs[made]["processor_seconds"] = after.since(before)
    return found


def _figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    def of(kind: str) -> list[dict[str, Any]]:
        return [run for run in runs if run["kind"] == kind]

    rates = {
        kind: median(run["rows_per_s"] for run in of(kind))
        for kind in ("backlog", "live", "debezium")
    }
    ratios = {
        "vs_debezium": paired_ratio(of("slot"), of("debezium"), "rows_per_s"),
        "warehouse_vs_postgres": paired_ratio(of("postgres"), of("warehouse"), "seconds"),
    }
    figures: dict[str, Any] = {
        "rows_per_s": {kind: rate for kind, rate in rates.items() if rate is not None},
        "ratios": {name: value for name, value in ratios.items() if value is not None},
    }
    for run in of("live"):
        figures["lag"] = {
            name: run[name]
            for name in ("lag_s_max", "lag_s_median", "growth_s_per_s", "behind_at_end_s")
        }
        figures["rows_per_s"]["ingest"] = run["ingest_rows_per_s"]
    for run in of("freshness"):
        seen = run["commit_to_visible_ms"]
        figures["freshness_p50_s"] = round(seen["p50"] / 1000, 4)
        figures["freshness_p99_s"] = round(seen["p99"] / 1000, 4)
    return figures
