"""The whole benchmark, and its result."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atlas_bench import machine
from atlas_bench.progress import say
from atlas_bench.read import noisy, under_ingest
from atlas_bench.read.answers import remarks, shares
from atlas_bench.read.estate import MEASURED
from atlas_bench.read.load import stored
from atlas_bench.read.options import ReadOptions
from atlas_bench.read.questions import Questions
from atlas_bench.read.rig import Rig, running
from atlas_bench.read.runs import Runs, reading_driver
from atlas_bench.read.targets import TARGETS
from atlas_bench.read.turns import Turns
from atlas_bench.targets import verdicts

_STEADY = (
    *("hot", "echo", "jsonb", "filter", "filter_all", "cold", "history_first"),
    *noisy.KINDS,
)
_FULL_SPEED = ("hot", "echo", "hot_named", "plain", "secured", "single", "batch")
_RATE = "calls_per_second"
_P99 = "latency_ms.p99"


def measure(options: ReadOptions, state: Path | None) -> dict[str, Any]:
    """Run it; returns what --json prints. Raises BenchError."""
    began = time.monotonic()
    with running(options, state) as rig, reading_driver() as ask_driver:
        facts = machine.facts(rig.endpoints.primary)
        say(f"  a platform is up after {time.monotonic() - began:.1f} s")
        data = stored(rig, options.estate)
        runs = Runs(rig, options.estate.tenant_keys[MEASURED], ask_driver)
        questions = Questions(options.estate, data.base_us, rig.copies_source, options.variants)
        turns = Turns(rig, data, questions, runs)
        turns.measure()
        if "noisy" in options.only:
            noisy.measure(turns)
        if "under_ingest" in options.only:
            under_ingest.measure(turns)
        result = {
            "bench": "read",
            "quick": options.quick,
            **_figures(turns),
            "sources": shares(runs.all),
            "remarks": remarks(runs.all),
            "stored": data.facts,
            **_profile(rig),
            "parameters": asdict(options),
            "machine": facts,
            "took_seconds": round(time.monotonic() - began, 1),
            "runs": runs.all,
        }
    return {**result, "targets": verdicts(TARGETS, result)}


def _figures(turns: Turns) -> dict[str, Any]:
    runs = turns.runs
    rates = {kind: runs.median(f"{kind}_full_speed", _RATE) for kind in _FULL_SPEED}
    ratios = {
        "hot_vs_echo": runs.ratio("hot_full_speed", "echo_full_speed", _RATE),
        "secured_vs_plain": runs.ratio("secured_full_speed", "plain_full_speed", _RATE),
        "batch_vs_single": runs.ratio("batch_full_speed", "single_full_speed", "entities_per_s"),
        "noisy_vs_alone": runs.ratio("noisy_beyond", "noisy_alone", _P99),
        "noisy_vs_at_quota": runs.ratio("noisy_beyond", "noisy_at_quota", _P99),
        "filter_vs_eav": runs.ratio("eav", "filter", "latency_ms.p50"),
    }
    latency = _latencies(runs)
    beside = (
        {"under_ingest": under_ingest.results(turns, latency)}
        if "under_ingest" in turns.rig.options.only
        else {}
    )
    return {
        "ratios": _known(ratios),
        "latency_ms": latency,
        "calls_per_s": _known(rates),
        **beside,
    }


def _latencies(runs: Runs) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind in _STEADY:
        found |= runs.percentiles(kind, kind)
    others = {
        "eav_p50": runs.median("eav", "latency_ms.p50"),
        "router_p50": runs.median("router", "latency_ms.p50"),
        "router_overhead_p50": runs.median("router", "overhead_ms.p50"),
        "router_overhead_p99": runs.median("router", "overhead_ms.p99"),
        "router_overhead_to_statement_p50": runs.median("router", "overhead_to_statement_ms.p50"),
        "transaction_p50": runs.median("router", "transaction_ms.p50"),
        "statement_p50": runs.median("router", "statement_ms.p50"),
    }
    return {**found, **_known(others)}


def _profile(rig: Rig) -> dict[str, Any]:
    return {"profile": rig.profile.tables()} if rig.profile else {}


def _known(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}
