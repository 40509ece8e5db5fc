"""Results as tables for people."""

from collections import Counter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

_WIDTH_OF_A_FILE = 130
_STEP_WIDTH = 56
_STEPS_SHOWN = 14
_PARTS_SHOWN = 8


def show(result: dict[str, Any]) -> None:
    """Print a result on stdout."""
    table = _TABLES[result["bench"]](result)
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_FILE
    runs = result["runs"]
    console.print(Group(_machine(result["machine"]), table, _processor(runs), *_failures(runs)))


def _machine(facts: dict[str, Any]) -> str:
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_bytes'] / 2**30:.0f} GiB, Python"
        f" {facts['python']}, Postgres {facts['postgres']['version']}"
        f" (fsync {facts['postgres']['fsync']})"
    )


def _processor(runs: list[dict[str, Any]]) -> str:
    """Say who used the processor while the platform worked."""
    used: Counter[str] = Counter()
    for run in runs:
        if not run["kind"].startswith(("baseline", "echo", "eav")):
            used.update(run.get("processor_seconds", {}))
    total = sum(used.values()) or 1.0
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in used.most_common(6))
    return f"Processor during the platform's runs: {shares}."


def _failures(runs: list[dict[str, Any]]) -> list[str]:
    errors: Counter[str] = Counter()
    for run in runs:
        errors.update(run.get("errors") or {})
    return [f"[red]{count} calls failed: {escape(words)}[/red]" for words, count in errors.items()]


def _ingest(result: dict[str, Any]) -> RenderableType:
    rates = Table("", "rows/s", "of its baseline", box=None, header_style="bold")
    ratios, audit = result["ratios"], result["audit"]
    for name, rate in result["rows_per_s"].items():
        rates.add_row(name, _number(rate, 0), _number(ratios.get(name), 2))
    kept = "equal" if audit["equal"] else "[red]NOT EQUAL[/red]"
    return Group(
        rates,
        "",
        _held(result["targets"]),
        f"{audit['acknowledged']:,} rows acknowledged, {audit['stored']:,} stored,"
        f" {audit['unknown']:,} unknown: {kept}. Took {result['took_seconds']:.0f} s"
        f"{' (quick: rough figures)' if result['quick'] else ''}.",
        *_growth(result.get("growth", {})),
        *_steps(result.get("profile")),
    )


def _held(targets: dict[str, dict[str, Any]]) -> Table:
    table = Table("held to", "bound", "aim", "measured", "", box=None, header_style="bold")
    for name, found in targets.items():
        bound = f"<= {found['at_most']:g}" if "at_most" in found else f">= {found['at_least']:g}"
        verdict = "met" if found["met"] else "[red]MISSED[/red]"
        table.add_row(name, bound, _number(found.get("aim"), 1), _number(found["is"], 2), verdict)
    return table


def _growth(curves: dict[str, list[dict[str, Any]]]) -> list[RenderableType]:
    if not curves:
        return []
    table = Table(
        "stored", "partitions", "rows/s", "baseline", "ratio", box=None, header_style="bold"
    )
    for points in curves.values():
        for point in points:
            table.add_row(
                f"{point['stored_rows']:,}",
                str(point["partitions"]),
                _number(point["rows_per_s"], 0),
                _number(point["baseline_rows_per_s"], 0),
                _number(point["ratio"], 2),
            )
    return ["", table]


def _steps(profile: dict[str, Any] | None) -> list[RenderableType]:
    """Show where the time went, most first; the JSON has more of it."""
    shown: list[RenderableType] = []
    for title, rows in (profile or {}).items():
        table = Table(box=None, header_style="bold")
        for name in rows[0] if rows else ():
            if name == "step":
                table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=_STEP_WIDTH)
            else:
                heading = name.replace("_per_", "/").replace("_", " ")
                table.add_column(heading, justify="right", no_wrap=True)
        for row in rows[:_STEPS_SHOWN]:
            table.add_row(*(escape(str(value)) for value in row.values()))
        shown += ["", f"[bold]{escape(title)}[/bold]", table]
    return shown


def _read(result: dict[str, Any]) -> RenderableType:
    stored = result["stored"]
    return Group(
        _latencies(result),
        "",
        _held(result["targets"]),
        *(f"[red bold]{escape(remark)}[/red bold]" for remark in result["remarks"]),
        f"{stored['points']:,} points in {stored['partitions']} partitions; and"
        f" {stored['neighbour_points']:,} of another tenant. Took {result['took_seconds']:.0f} s"
        f"{' (quick: rough figures)' if result['quick'] else ''}.",
        *_beside_ingest(result.get("under_ingest")),
        *_steps(result.get("profile")),
    )


def _beside_ingest(beside: dict[str, Any] | None) -> list[str]:
    """Say what reads waited for while ingest ran."""
    if beside is None:
        return []
    shares = list(beside["queued_share"].items())[:_PARTS_SHOWN]
    parts = ", ".join(f"{name} {share:.0%}" for name, share in shares)
    return [
        f"Under ingest ({beside['ingest_rows_per_s']:,.0f} rows/s) the cores were busy for"
        f" {beside['busy_share']:.0%} of the time. Of the time in which it was ready to run, a part"
        f" waited for a core: {parts}."
    ]


def _cdc(result: dict[str, Any]) -> RenderableType:
    rates = Table("", "rows/s", box=None, header_style="bold")
    for name, rate in result["rows_per_s"].items():
        rates.add_row(name, _number(rate, 0))
    lag, far = result.get("lag"), result.get("at_100m")
    said = [f"The reconciler had at most {result['rss_mb_max']:,.0f} MB of memory."]
    if lag is not None:
        said.append(
            f"Behind ingest at full speed the lag was {lag['lag_s_median']:.2f} s, at most"
            f" {lag['lag_s_max']:.2f} s, and grew by {lag['growth_s_per_s']:.3f} s a second."
        )
    if far:
        said.append(
            f"By the second half of {far['measured_to_rows']:,} rows, 100 million would take"
            f" {far['rss_mb']:,.0f} MB of memory and a file of {far['file_mb']:,.0f} MB."
        )
    quick = " (quick: rough figures)" if result["quick"] else ""
    return Group(
        rates,
        "",
        _held(result["targets"]),
        *said,
        f"Took {result['took_seconds']:.0f} s{quick}.",
        *_steps(result.get("profile")),
    )


def _reconcile(result: dict[str, Any]) -> RenderableType:
    table = Table("", "seconds", "rows/s", box=None, header_style="bold")
    rates = result["rows_per_s"]
    for name in dict.fromkeys([*result["seconds"], *rates]):
        table.add_row(name, _number(result["seconds"].get(name), 2), _number(rates.get(name), 0))
    quick = " (quick: rough figures)" if result["quick"] else ""
    return Group(
        table,
        "",
        _held(result["targets"]),
        *(f"[red bold]{escape(remark)}[/red bold]" for remark in result["remarks"]),
        f"{result['rows']:,} rows compared. Took {result['took_seconds']:.0f} s{quick}.",
    )


def _latencies(result: dict[str, Any]) -> Table:
    """Every kind of read: how many a second, how long one takes, and beside ingest's full load."""
    table = Table(
        "read", "served by", "calls/s", "p50 ms", "p99 ms", "p50 under ingest", "p99 under ingest",
        box=None, header_style="bold",
    )  # fmt: skip
    rates, latency = result["calls_per_s"], result["latency_ms"]
    beside = result.get("under_ingest", {}).get("latency_ms", {})
    names = [*latency, *beside, *(f"{name}_p50" for name in rates)]
    kinds = dict.fromkeys(name.removesuffix("_p50") for name in names if name.endswith("_p50"))
    for kind in kinds:
        sources: dict[str, float] = {}
        for suffix in ("_under_ingest", "_full_speed", ""):
            sources = result["sources"].get(f"{kind}{suffix}", sources)
        table.add_row(
            kind,
            ", ".join(f"{tier} {share:.0%}" for tier, share in sources.items()),
            _number(rates.get(kind), 0),
            *(
                _number(figures.get(f"{kind}_{percentile}"), 2)
                for figures in (latency, beside)
                for percentile in ("p50", "p99")
            ),
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


_TABLES = {"cdc": _cdc, "ingest": _ingest, "read": _read, "reconcile": _reconcile}
