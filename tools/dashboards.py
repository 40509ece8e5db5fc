"""tools/dashboards.py: writes ops/grafana/dashboards/*.json. The same sources give the same bytes.

A panel is a title, a unit and queries; where it stands follows from its order.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DIRECTORY = ROOT / "ops" / "grafana" / "dashboards"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
"""As the provisioning names it."""
_COLUMNS, _HEIGHT = 3, 8


@dataclass(frozen=True)
class Panel:
    """Lines over time. `queries`: legend -> PromQL; `budget`: a red line at this value."""

    title: str
    unit: str
    queries: dict[str, str]
    budget: float | None = None
    description: str = ""


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels. `service`: with a choice of services, for `$service` in queries."""

    uid: str
    title: str
    rows: dict[str, Sequence[Panel]]
    service: bool = field(default=False)


def _rate(counter: str, by: str = "") -> str:
    """By a label: without the series that only says that nothing was counted yet."""
    if not by:
        return f"sum(rate({counter}[$__rate_interval]))"
    return f'sum by ({by}) (rate({counter}{{{by}!=""}}[$__rate_interval]))'


def _quantiles(histogram: str, by: str = "", selector: str = "") -> dict[str, str]:
    labels = ", ".join(filter(None, (by, "le")))
    rate = f"sum by ({labels}) (rate({histogram}_bucket{selector}[$__rate_interval]))"
    name = f" {{{{{by}}}}}" if by else ""
    return {f"p{round(q * 100)}{name}": f"histogram_quantile({q}, {rate})" for q in (0.5, 0.99)}


_LAG_REPLICAS = Panel(
    "Replicas behind",
    "s",
    {"{{name}}": "min by (name) (atlas_query_replica_lag_seconds)"},
    budget=3,
    description="-1: not known, or not read. Budget 3 s.",
)
_LAG_WAREHOUSE = Panel(
    "Warehouse behind",
    "s",
    {"warehouse": "max(atlas_reconciler_lag_seconds)"},
    budget=300,
    description="-1: not known. Budget 5 min.",
)
_VERIFIED = Panel(
    "Age of verified_through",
    "s",
    {"furthest behind": "max(atlas_reconciler_verified_age_seconds)"},
    budget=300,
    description="Of the tenant that is furthest behind; -1: nothing was compared yet.",
)
_BACKLOG = Panel(
    "Staging backlog",
    "short",
    {"{{instance}}": "sum by (instance) (atlas_ingest_backlog_points)"},
    budget=1e6,
)
_BREAKERS = Panel(
    "Breakers open",
    "short",
    {"{{job}} to {{name}}": "max by (job, name) (atlas_breaker_open)"},
    budget=1,
)
_LETTERS = Panel(
    "Dead letters",
    "short",
    {
        "warehouse, {{name}}": "sum by (name) (atlas_reconciler_dead_letters)",
        "sources of ingest": "sum(atlas_ingest_dead_letters_total)",
    },
)

DASHBOARDS = (
    Dashboard(
        "atlas-overview",
        "Atlas: overview",
        {
            "Objectives": (
                Panel(
                    "Error budget left, 30 days",
                    "percentunit",
                    {"{{slo}}": "atlas:slo_budget_left:ratio30d"},
                    budget=0,
                    description="Below 0: the objective is missed.",
                ),
                Panel(
                    "Burn rate over an hour",
                    "short",
                    {"{{slo}}": "atlas:slo_errors:ratio_rate1h / on (slo) atlas:slo_budget:ratio"},
                    budget=14.4,
                    description="1: the budget lasts for exactly 30 days. 14.4 pages.",
                ),
                Panel(
                    "Alerts firing",
                    "short",
                    {"{{alertname}}": 'count by (alertname) (ALERTS{alertstate="firing"})'},
                ),
            ),
            "Traffic": (
                Panel(
                    "Points stored", "short", {"1/s": _rate("atlas_ingest_points_accepted_total")}
                ),
                Panel("Reads", "reqps", {"{{source}}": _rate("atlas_query_reads_total", "source")}),
                Panel(
                    "Failed calls",
                    "reqps",
                    {
                        "{{job}} {{code}}": "sum by (job, code) "
                        "(job_method_code:atlas_rpc_failures:rate5m)"
                    },
                ),
            ),
            "Freshness": (_LAG_REPLICAS, _LAG_WAREHOUSE, _VERIFIED),
            "What should be nothing": (_BACKLOG, _BREAKERS, _LETTERS),
        },
    ),
    Dashboard(
        "atlas-ingest",
        "Atlas: ingest",
        {
            "Points": (
                Panel(
                    "Points",
                    "short",
                    {
                        "stored": _rate("atlas_ingest_points_accepted_total"),
                        "refused": _rate("atlas_ingest_points_rejected_total"),
                        "staged again after a loss": _rate("atlas_ingest_points_refilled_total"),
                    },
                ),
                Panel(
                    "Acknowledged after", "s", _quantiles("atlas_ingest_ack_seconds", "ack"), 0.5
                ),
                _BACKLOG,
            ),
            "Lanes": (
                Panel(
                    "Lanes",
                    "short",
                    {
                        "held": "sum(atlas_ingest_lanes)",
                        "at most": "sum(atlas_ingest_lanes_limit)",
                    },
                ),
                Panel(
                    "Flush and COPY",
                    "s",
                    {
                        f"{step} {name}": query
                        for step in ("flush", "stage")
                        for name, query in _quantiles(f"atlas_ingest_{step}_seconds").items()
                    },
                ),
                Panel("Points of a flush", "short", _quantiles("atlas_ingest_flush_points")),
            ),
            "Saturation": (
                Panel(
                    "Room for writes taken",
                    "percentunit",
                    {"{{instance}}": "max by (instance) (atlas_ingest_pending_fill_ratio)"},
                    budget=0.8,
                ),
                Panel(
                    "Oldest point not flushed",
                    "s",
                    {"{{instance}}": "max by (instance) (atlas_ingest_backlog_age_seconds)"},
                    budget=30,
                ),
                Panel(
                    "Memory of unanswered calls",
                    "bytes",
                    {"{{instance}}": "sum by (instance) (atlas_ingest_pending_bytes)"},
                ),
            ),
            "Trouble": (
                Panel(
                    "Losses made good",
                    "short",
                    {
                        "flushes tried again": _rate("atlas_ingest_flush_retries_total"),
                        "lanes claimed": _rate("atlas_ingest_lane_claims_total"),
                        "lanes adopted": _rate("atlas_ingest_lanes_adopted_total"),
                        "failovers": _rate("atlas_ingest_failovers_total"),
                    },
                ),
                Panel(
                    "Flushes told to hotcache",
                    "short",
                    {"{{outcome}}": _rate("atlas_ingest_invalidations_total", "outcome")},
                ),
                Panel(
                    "Partitions",
                    "short",
                    {
                        "rows without one": "max(atlas_ingest_default_rows)",
                        "postponed": "max(atlas_ingest_partitions_postponed)",
                    },
                ),
            ),
        },
    ),
    Dashboard(
        "atlas-reads",
        "Atlas: reads and freshness",
        {
            "Reads": (
                Panel(
                    "Served by", "reqps", {"{{source}}": _rate("atlas_query_reads_total", "source")}
                ),
                Panel(
                    "Asked for", "reqps", {"{{level}}": _rate("atlas_query_reads_total", "level")}
                ),
                Panel(
                    "Refused, or passed on",
                    "reqps",
                    {
                        "not fresh enough": _rate("atlas_query_unmet_total"),
                        "passed on: {{why}}": _rate("atlas_query_misses_total", "why"),
                    },
                ),
            ),
            "Freshness": (
                _LAG_REPLICAS,
                Panel(
                    "Lag of what was served",
                    "s",
                    _quantiles("atlas_query_lag_seconds", "source"),
                ),
                Panel(
                    "Cache behind",
                    "s",
                    {"{{instance}}": "max by (instance) (atlas_hotcache_lag_seconds)"},
                    budget=3,
                    description="-1: not known.",
                ),
            ),
            "Cache": (
                Panel(
                    "Hit rate",
                    "percentunit",
                    {
                        "hits": f"{_rate('atlas_hotcache_hits_total')} / "
                        f"({_rate('atlas_hotcache_hits_total')} + "
                        f"{_rate('atlas_hotcache_misses_total')})"
                    },
                ),
                Panel(
                    "Fills and bypasses",
                    "short",
                    {
                        "fill {{outcome}}": _rate("atlas_hotcache_fills_total", "outcome"),
                        "bypassed": _rate("atlas_hotcache_bypasses_total"),
                        "invalidated": _rate("atlas_hotcache_invalidations_total"),
                    },
                ),
                Panel(
                    "Compared with the primary",
                    "short",
                    {
                        "{{outcome}}": _rate("atlas_hotcache_checks_total", "outcome"),
                        "inconsistent": _rate("atlas_hotcache_inconsistencies_total"),
                    },
                ),
            ),
            "Saturation": (
                _BREAKERS,
                Panel(
                    "Connections taken",
                    "percentunit",
                    {
                        "{{instance}} {{name}}": "max by (instance, name) (atlas_db_pool_in_use{"
                        'job="atlas/query"} / atlas_db_pool_limit{job="atlas/query"})'
                    },
                    budget=1,
                ),
                Panel(
                    "Replicas that came and went",
                    "short",
                    {
                        "{{change}}": _rate("atlas_query_server_changes_total", "change"),
                        "other primary": _rate("atlas_query_new_histories_total"),
                    },
                ),
            ),
        },
    ),
    Dashboard(
        "atlas-cdc",
        "Atlas: CDC and reconciliation",
        {
            "Stream": (
                _LAG_WAREHOUSE,
                Panel(
                    "Changes",
                    "short",
                    {"{{outcome}}": _rate("atlas_reconciler_changes_total", "outcome")},
                ),
                Panel("Applying a batch", "s", _quantiles("atlas_reconciler_apply_seconds")),
            ),
            "Slot": (
                Panel(
                    "Log kept for the slot",
                    "bytes",
                    {
                        "kept": "max(atlas_reconciler_slot_retained_bytes)",
                        "until it is lost": "max(atlas_reconciler_slot_safe_bytes)",
                    },
                    description="-1: no slot, or no bound.",
                ),
                Panel(
                    "Share of what is kept at most",
                    "percentunit",
                    {"used": "max(atlas_reconciler_slot_used_share_ratio)"},
                    budget=0.8,
                ),
                Panel("Phase", "short", {"{{name}}": "max by (name) (atlas_reconciler_phase > 0)"}),
            ),
            "Reconciliation": (
                _VERIFIED,
                Panel(
                    "Windows compared",
                    "short",
                    {
                        "equal: {{matched}}": _rate("atlas_reconciler_windows_total", "matched"),
                        "repaired": _rate("atlas_reconciler_repaired_total"),
                    },
                ),
                Panel("Comparing", "s", _quantiles("atlas_reconciler_compare_seconds")),
            ),
            "What should be nothing": (
                _LETTERS,
                Panel(
                    "Books",
                    "short",
                    {
                        "do not balance": "max(atlas_reconciler_discrepancies)",
                        "violations": _rate("atlas_reconciler_violations_total"),
                        "held: {{name}}": "max by (name) (atlas_reconciler_held_tables)",
                    },
                ),
                Panel(
                    "Slots lost and made good",
                    "short",
                    {"times": "sum(atlas_reconciler_recoveries_total)"},
                ),
            ),
        },
    ),
    Dashboard(
        "atlas-service",
        "Atlas: calls of a service",
        {
            "Rate, errors, duration": (
                Panel(
                    "Calls",
                    "reqps",
                    {"{{method}}": 'job_method:atlas_rpc_calls:rate5m{job="$service"}'},
                ),
                Panel(
                    "Not OK",
                    "reqps",
                    {
                        "{{method}} {{code}}": "job_method_code:atlas_rpc_failures:rate5m"
                        '{job="$service"}'
                    },
                ),
                Panel(
                    "Duration, p99",
                    "s",
                    {"{{method}}": 'job_method:atlas_rpc_duration_seconds:p99_5m{job="$service"}'},
                ),
            ),
            "Utilization, saturation": (
                Panel(
                    "Calls at work",
                    "short",
                    {"{{instance}}": 'sum by (instance) (atlas_rpc_server_active{job="$service"})'},
                ),
                Panel(
                    "Connections at work",
                    "short",
                    {
                        "{{instance}} {{name}}": "sum by (instance, name) "
                        '(atlas_db_pool_in_use{job="$service"})'
                    },
                ),
                Panel(
                    "Calls that wait for a connection",
                    "short",
                    {
                        "{{instance}} {{name}}": "sum by (instance, name) "
                        '(atlas_db_pool_waiting{job="$service"})'
                    },
                ),
            ),
            "Duration": (
                Panel(
                    "Duration, median",
                    "s",
                    {"{{method}}": 'job_method:atlas_rpc_duration_seconds:p50_5m{job="$service"}'},
                ),
                Panel(
                    "Breakers open",
                    "short",
                    {
                        "{{instance}} to {{name}}": "max by (instance, name) "
                        '(atlas_breaker_open{job="$service"})'
                    },
                ),
                Panel(
                    "Refused by quotas",
                    "reqps",
                    {
                        "{{instance}}": "sum by (instance) "
                        '(rate(atlas_quota_refusals_total{job="$service"}[$__rate_interval]))'
                    },
                ),
            ),
        },
        service=True,
    ),
)


def built() -> dict[str, str]:
    """File name -> its text."""
    return {
        f"{dashboard.uid.removeprefix('atlas-')}.json": json.dumps(_model(dashboard), indent=1)
        + "\n"
        for dashboard in DASHBOARDS
    }


def _model(dashboard: Dashboard) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in dashboard.rows.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
                "panels": [],
            }
        )
        for column, panel in enumerate(row):
            width = 24 // _COLUMNS
            place = {"x": column * width, "y": y + 1, "w": width, "h": _HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
        y += 1 + _HEIGHT
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["atlas"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [_services()] if dashboard.service else []},
        "links": [{"type": "dashboards", "tags": ["atlas"], "title": "Atlas", "asDropdown": False}],
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    thresholds: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.budget is not None:
        thresholds.append({"color": "red", "value": panel.budget})
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "custom": {
                    "fillOpacity": 5,
                    "thresholdsStyle": {"mode": "off" if panel.budget is None else "line"},
                },
                "thresholds": {"mode": "absolute", "steps": thresholds},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
            }
            for n, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def _services() -> dict[str, Any]:
    query = "label_values(atlas_rpc_server_active, job)"
    return {
        "name": "service",
        "label": "Service",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "services"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "current": {},
    }


def main() -> None:
    """Write the files, and remove those that are not made any more."""
    files = built()
    for path in DIRECTORY.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")


METRIC = re.compile(r"\batlas_[a-z0-9_]+")
"""A metric of ours within PromQL."""

if __name__ == "__main__":
    main()
