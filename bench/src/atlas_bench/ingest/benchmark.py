"""The whole benchmark, scenario by scenario, and its result."""

import time
from dataclasses import asdict
from typing import Any

from atlas_bench import machine
from atlas_bench.ingest import growth, small_calls, stall, throughput
from atlas_bench.ingest.growth import IN_ONE, SPREAD, growth_ratio
from atlas_bench.ingest.options import IngestOptions
from atlas_bench.ingest.rig import Rig, running
from atlas_bench.ingest.runs import Runs
from atlas_bench.ingest.targets import TARGETS
from atlas_bench.progress import say
from atlas_bench.targets import verdicts


def measure(options: IngestOptions) -> dict[str, Any]:
    """Run it on a platform of its own; returns what --json prints. Raises BenchError."""
    began = time.monotonic()
    with running(options) as rig:
        facts = machine.facts(rig.stack.endpoints.primary)
        say(f"  a platform is up after {time.monotonic() - began:.1f} s")
        runs = Runs(rig)
        found = _scenarios(rig, runs)
        result = {
            "bench": "ingest",
            "quick": options.quick,
            **_figures(runs, found),
            # By the kernel's own books: the most that the process ever had.
            "rss_mb_max": round(rig.memory.peak_mb, 1),
            **found,
            **({"profile": rig.profile.tables()} if rig.profile else {}),
            "audit": rig.audit.summary(),
            "parameters": asdict(options),
            "machine": facts,
            "took_seconds": round(time.monotonic() - began, 1),
            "runs": runs.all,
        }
    return {**result, "targets": verdicts(TARGETS, result)}


def _scenarios(rig: Rig, runs: Runs) -> dict[str, Any]:
    only = set(rig.options.only)
    found: dict[str, Any] = {}
    rig.audit.restart()
    throughput.warm_up(rig)
    rig.audit.check("warm-up")
    if only & throughput.FULL_SPEED:
        throughput.measure(rig, runs)
        rig.audit.check("full speed")
    if "group_commit" in only:
        small_calls.group_commit(rig, runs)
        rig.audit.check("group_commit")
    if "latency" in only:
        small_calls.latency(rig, runs)
        rig.audit.check("latency")
    if "memory" in only:
        found["memory"] = stall.measure(rig, runs)
        rig.audit.check("memory")
    if "growth" in only:
        found["growth"] = growth.measure(rig, runs)
    return found


def _figures(runs: Runs, found: dict[str, Any]) -> dict[str, Any]:
    kinds = dict.fromkeys(run["kind"] for run in runs.all if not run["kind"].startswith("baseline"))
    curves = found.get("growth", {})
    ratios = {
        "write_arrow": runs.ratio("write_arrow"),
        "write_stream": runs.ratio("write_stream"),
        "write": runs.ratio("write"),
        "staged_burst": runs.ratio("staged_burst"),
        "staged_burst_stream": runs.ratio("staged_burst_stream"),
        "vs_executemany": runs.ratio("write_arrow", "executemany"),
        "vs_executemany_stream": runs.ratio("write_stream", "executemany"),
        "group_commit": runs.ratio("group_commit_on", "group_commit_off"),
        "group_commit_vs_copy_per_call": runs.ratio("group_commit_on", "copy_per_call"),
        "group_commit_vs_echo": runs.ratio("group_commit_on", "echo"),
        "growth": growth_ratio(curves.get(SPREAD)),
        "growth_of_baseline": growth_ratio(curves.get(SPREAD), "baseline_rows_per_s"),
        "growth_in_one_partition": growth_ratio(curves.get(IN_ONE)),
    }
    return {
        "rows_per_s": {
            "baseline": runs.baseline_rate(),
            **{
                kind: runs.rate(kind) for kind in kinds if not kind.startswith(("steady", "growth"))
            },
        },
        "ratios": {name: value for name, value in ratios.items() if value is not None},
        "latency_ms": small_calls.latency_medians(runs) if runs.of("steady_committed") else {},
    }
