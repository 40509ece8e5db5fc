"""Results as tables for people."""

from collections import Counter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

_WIDTH_OF_A_FILE = 110


def show(result: dict[str, Any]) -> None:
    """Print a result on stdout."""
    table = _ingest(result) if result["bench"] == "ingest" else _read(result)
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
        if run["kind"] != "baseline":
            used.update(run["processor_seconds"])
    total = sum(used.values()) or 1.0
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in used.most_common(6))
    return f"Processor during the platform's runs: {shares}."


def _failures(runs: list[dict[str, Any]]) -> list[str]:
    errors: Counter[str] = Counter()
    for run in runs:
        errors.update(run["errors"])
    return [f"[red]{count} calls failed: {escape(words)}[/red]" for words, count in errors.items()]


def _ingest(result: dict[str, Any]) -> RenderableType:
    medians, parameters = result["medians"], result["parameters"]
    table = Table("", "rows/s", "ack p50 ms", "ack p99 ms", box=None, header_style="bold")
    table.add_row("raw COPY", _number(medians["baseline"]["rows_per_second"], 0), "", "")
    table.add_row("Write, full speed", _number(medians["platform"]["rows_per_second"], 0), "", "")
    offered = medians["platform_open_loop"]
    table.add_row(
        f"Write, {parameters['points_per_second']:,.0f} rows/s offered",
        _number(offered["rows_per_second"], 0),
        _number(offered["ack_p50_ms"], 1),
        _number(offered["ack_p99_ms"], 1),
    )
    share = result["ratios"]["rows_per_second_platform_to_baseline"]
    verified = result["verified"]
    kept = "all there" if verified["nothing_lost"] else "ROWS ARE MISSING"
    return Group(
        table,
        f"Write reaches {_number(share, 2)} of raw COPY (medians of {parameters['repeats']} runs,"
        f" {parameters['ack'].upper()}).",
        f"{verified['rows_acknowledged']:,} rows acknowledged, {verified['rows_stored']:,} stored:"
        f" {kept}.",
    )


def _read(result: dict[str, Any]) -> RenderableType:
    table = Table(
        "operation", "served by", "calls/s", "of echo", "p50 ms", "x echo", "p99 ms", "x echo",
        "cache hits", box=None, header_style="bold",
    )  # fmt: skip
    for name, middle in result["medians"].items():
        platform, ratios = middle["platform"], result["ratios"][name]
        hits = platform["cache_hit_share"]
        table.add_row(
            name,
            ", ".join(f"{tier} {share:.0%}" for tier, share in platform["sources"].items()),
            _number(platform["calls_per_second"], 0),
            _number(ratios["calls_per_second_platform_to_baseline"], 2),
            _number(platform["p50_ms"], 2),
            _number(ratios["p50_ms_platform_to_baseline"], 1),
            _number(platform["p99_ms"], 2),
            _number(ratios["p99_ms_platform_to_baseline"], 1),
            "-" if hits is None else f"{hits:.1%}",
        )
    parameters = result["parameters"]
    return Group(
        table,
        f"calls/s: {parameters['callers']} callers without pause. p50, p99:"
        f" {parameters['calls_per_second']:.0f} calls/s offered. Medians of"
        f" {parameters['repeats']} runs.",
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
