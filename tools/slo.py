"""tools/slo.py: writes ops/prometheus/rules/slo.yml, the objectives and their burning budgets.

Multi-window, multi-burn-rate alerts as in the Site Reliability Workbook, chapter 5: a burn is told
by a long window, and by a short one that it still goes on. The same sources give the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "ops" / "prometheus" / "rules" / "slo.yml"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
HEADER = "# Made by tools/slo.py: change it there.\n"
# Ours; what is refused (bad input, no right, no quota, no room) is told by other alerts.
_FAULTS = "UNKNOWN|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|DATA_LOSS"
# Not streams: those last as long as their callers like, and end with every deployment.
_WRITES = "/atlas.ingest.v1.IngestService/(Write|WriteArrow)"
_READS = "/atlas.query.v1.QueryService/(GetEntities|FindEntities|GetHistory|Aggregate)"
_POINT_READS = "/atlas.query.v1.QueryService/(GetEntities|FindEntities)"


@dataclass(frozen=True)
class Slo:
    """An objective over 30 days."""

    name: str
    objective: float
    """Share that has to be good."""
    promise: str
    errors: str
    """Share that was bad within {w}."""


@dataclass(frozen=True)
class Burn:
    """An alert: the budget burns so many times faster than it may, in both windows."""

    factor: float
    long: str
    short: str


def _failed(methods: str) -> str:
    calls = "atlas_rpc_server_duration_seconds_count"
    bad = f'sum(rate({calls}{{method=~"{methods}",code=~"{_FAULTS}"}}[{{w}}])) or vector(0)'
    return f'({bad}) / (sum(rate({calls}{{method=~"{methods}"}}[{{w}}])) > 0)'


def _slow(histogram: str, selector: str, seconds: str) -> str:
    # No whole seconds: releases of Prometheus write "1" and "1.0".
    fast = f'sum(rate({histogram}_bucket{{{selector}le="{seconds}"}}[{{w}}]))'
    return f"1 - {fast} / (sum(rate({histogram}_count{{{selector.rstrip(',')}}}[{{w}}])) > 0)"


def _stale(slo: str) -> str:
    return f'avg_over_time(atlas:stale:bool{{slo="{slo}"}}[{{w}}])'


SLOS = (
    Slo("writes-available", 0.999, "calls that write do not fail for our sake", _failed(_WRITES)),
    Slo(
        "writes-fast",
        0.99,
        "writes are acknowledged within 0.5 s",
        _slow("atlas_ingest_ack_seconds", "", "0.5"),
    ),
    Slo("reads-available", 0.999, "calls that read do not fail for our sake", _failed(_READS)),
    Slo(
        "reads-fast",
        0.99,
        "GetEntities and FindEntities are answered within 0.25 s",
        _slow("atlas_rpc_server_duration_seconds", f'method=~"{_POINT_READS}",code="OK",', "0.25"),
    ),
    Slo(
        "replicas-fresh",
        0.995,
        "of the time, a replica is at most 3 s behind",
        _stale("replicas-fresh"),
    ),
    Slo(
        "warehouse-fresh",
        0.995,
        "of the time, the warehouse is at most 5 min behind",
        _stale("warehouse-fresh"),
    ),
)
_REPLICAS, _WAREHOUSE = "atlas_query_replica_lag_seconds", "atlas_reconciler_lag_seconds"
# -1 is a lag that nobody knows. A standby of the reconciler knows none, its leader does.
STALE = {
    "replicas-fresh": f"(min({_REPLICAS} >= 0) > bool 3) or (max({_REPLICAS}) < bool 0)",
    "warehouse-fresh": f"(max({_WAREHOUSE}) > bool 300) + (max({_WAREHOUSE}) < bool 0)",
}
BURNS = {
    # 2% of the month's budget in an hour, 5% in six hours.
    "ErrorBudgetBurnFast": ("page", (Burn(14.4, "1h", "5m"), Burn(6, "6h", "30m"))),
    # 10% in a day or in three days.
    "ErrorBudgetBurnSlow": ("ticket", (Burn(3, "1d", "2h"), Burn(1, "3d", "6h"))),
}


def rules() -> dict[str, Any]:
    """The rule file."""
    return {
        "groups": [
            {"name": "atlas-slo", "interval": "30s", "rules": list(_recorded())},
            {"name": "atlas-slo-alerts", "rules": list(_alerts())},
        ]
    }


def _recorded() -> Iterator[dict[str, Any]]:
    for name, expr in STALE.items():
        yield {"record": "atlas:stale:bool", "labels": {"slo": name}, "expr": expr}
    for slo in SLOS:
        budget = f"vector({round(1 - slo.objective, 6)})"
        yield {"record": "atlas:slo_budget:ratio", "labels": {"slo": slo.name}, "expr": budget}
        for window in WINDOWS:
            yield {
                "record": f"atlas:slo_errors:ratio_rate{window}",
                "labels": {"slo": slo.name},
                "expr": slo.errors.replace("{w}", window),
            }
    # By time, not by calls: an hour without many callers counts as much as one with.
    yield {
        "record": "atlas:slo_budget_left:ratio30d",
        "expr": "1 - avg_over_time(atlas:slo_errors:ratio_rate1h[30d]) / atlas:slo_budget:ratio",
    }


def _alerts() -> Iterator[dict[str, Any]]:
    for name, (severity, burns) in BURNS.items():
        yield {
            "alert": name,
            "expr": " or ".join(f"({_burns(burn)})" for burn in burns),
            "for": "2m",
            "labels": {"severity": severity},
            "annotations": {
                "summary": "{{ $labels.slo }} uses up its error budget",
                "description": f"{{{{ $value | humanizePercentage }}}} are bad over {burns[0].long}"
                f" or {burns[1].long}.",
                "runbook_url": f"ops/runbooks/{name}.md",
            },
        }


def _burns(burn: Burn) -> str:
    long, short = (
        f"atlas:slo_errors:ratio_rate{window} > {burn.factor} * atlas:slo_budget:ratio"
        for window in (burn.long, burn.short)
    )
    return f"{long} and {short}"


def rendered() -> str:
    """The file's text."""
    return HEADER + yaml.safe_dump(rules(), sort_keys=False, width=120)


if __name__ == "__main__":
    FILE.write_text(rendered(), encoding="utf-8")
