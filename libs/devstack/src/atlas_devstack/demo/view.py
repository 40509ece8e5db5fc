"""The run as it goes: a live table on a terminal, a line now and then elsewhere."""

import asyncio
import time
from collections import deque
from datetime import UTC, datetime, timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from atlas_devstack.demo.tally import Tally
from atlas_devstack.demo.watch import Figures

_LINE_EVERY_SECONDS = 5.0
_REDRAW_SECONDS = 0.5
_RATE_SAMPLES_MAX = 12


class View:
    """Shows a tally and figures until told to stop."""

    def __init__(self, console: Console, tally: Tally, figures: Figures, seconds: float) -> None:
        self._console = console
        self._tally = tally
        self._figures = figures
        self._seconds = seconds
        self._began = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque([(self._began, 0)], maxlen=_RATE_SAMPLES_MAX)
        self.step = "feeding"

    async def run(self, stopping: asyncio.Event) -> None:
        """Draw until told to stop."""
        if not self._console.is_terminal:
            while not stopping.is_set():
                await _pause(stopping, _LINE_EVERY_SECONDS)
                self._console.print(self._line(), soft_wrap=True)
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while not stopping.is_set():
                live.update(self._picture(), refresh=True)
                await _pause(stopping, _REDRAW_SECONDS)

    def _rate(self) -> float:
        now, points = time.monotonic(), self._tally.points
        then, before = self._marks[0]
        self._marks.append((now, points))
        return (points - before) / max(now - then, 0.001)

    def _line(self) -> str:
        tally, figures = self._tally, self._figures
        probes = " ".join(
            f"{tier}:{each.checks}/{each.failures}" for tier, each in tally.probes.items()
        )
        lags = " ".join(f"{t.endpoint}:{_seconds(t.lag)}" for t in figures.tiers)
        return (
            f"{time.monotonic() - self._began:5.1f} s {self.step}"
            f" | {tally.points:,} points, {self._rate():,.0f}/s"
            f" | ack p50 {_ms(tally, 50)} p99 {_ms(tally, 99)}"
            f" | backlog {self._backlog()} | cache {self._hits()}"
            f" | lag {lags or '-'} | checks/wrong {probes}"
        )

    def _picture(self) -> Group:
        tally, figures = self._tally, self._figures
        elapsed = time.monotonic() - self._began
        head = Text(f"atlas demo: {self.step}, {elapsed:.0f} s of {self._seconds:.0f} s", "bold")
        facts = Table.grid(padding=(0, 2))
        rate = f"{self._rate():,.0f} points/s"
        facts.add_row(
            "written", rate, f"{tally.points:,} points", f"{len(tally.entities)} entities"
        )
        facts.add_row("acknowledged", f"p50 {_ms(tally, 50)}", f"p99 {_ms(tally, 99)}", "")
        facts.add_row("flush backlog", self._backlog(), "", "")
        facts.add_row("cache", self._hits(), "", "")
        lags = Table("tier", "endpoint", "lag", "state", box=None, header_style="bold")
        for tier in figures.tiers:
            state = "ok" if tier.available else "away"
            lags.add_row(str(tier.source or "?"), tier.endpoint, _seconds(tier.lag), state)
        probes = Table(
            "own writes read at", "checks", "wrong", "unavailable", box=None, header_style="bold"
        )
        for name, each in tally.probes.items():
            numbers = (each.checks, each.failures, each.unavailable)
            probes.add_row(name, *map(str, numbers), style="red" if each.failures else "")
        verified = Table("tenant", "points", "verified through", box=None, header_style="bold")
        for tenant, points in tally.acknowledged.items():
            through = figures.verified_through.get(tenant)
            age = f"{(datetime.now(UTC) - through).total_seconds():.0f} s ago" if through else "-"
            verified.add_row(tenant, f"{points:,}", age)
        problems = [Text(f"WRONG: {each}", "red") for each in tally.problems[:5]]
        return Group(head, facts, lags, probes, verified, *problems)

    def _backlog(self) -> str:
        staging = self._figures.staging
        if staging is None:
            return "-"
        return f"{staging.backlog_points:,} staged, {staging.pending_points:,} pending"

    def _hits(self) -> str:
        cache = self._figures.cache
        return "-" if cache is None else f"{cache.hits_total} hits, {cache.misses_total} misses"


def _ms(tally: Tally, percent: float) -> str:
    value = tally.ack.percentile_ms(percent)
    return "-" if value is None else f"{value:.0f} ms"


def _seconds(lag: timedelta | None) -> str:

    return "unknown" if lag is None else f"{lag.total_seconds():.2f} s"


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return
