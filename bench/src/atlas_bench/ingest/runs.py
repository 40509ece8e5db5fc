"""The runs of a benchmark, as they are kept and shown."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from atlas_bench import processor
from atlas_bench.ingest.direct import Written
from atlas_bench.ingest.job import WriteRun
from atlas_bench.ingest.rig import Rig
from atlas_bench.medians import median, paired_ratio
from atlas_bench.progress import say

BASELINE = "baseline"
Run = dict[str, Any]
AnyRun = TypeVar("AnyRun", Written, WriteRun)


class Runs:
    """All runs, in the order in which they were made."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.all: list[Run] = []

    def platform(
        self, kind: str, repeat: int, run: Callable[[], WriteRun], **facts: Any
    ) -> WriteRun:
        """Make a run of the platform, and keep it."""
        profile = self._rig.profile
        if profile is None:
            return self._make(kind, repeat, lambda: self._rig.audit.enter(run()), facts)

        def profiled() -> WriteRun:
            with profile.of(kind):
                made = self._rig.audit.enter(run())
                self._rig.settle()  # What is staged is flushed within the block, too.
            return made

        made = self._make(kind, repeat, profiled, facts)
        profile.count(kind, made.points_acknowledged, self.all[-1]["processor_seconds"])
        return made

    def direct(self, kind: str, repeat: int, run: Callable[[], Written], **facts: Any) -> Written:
        """Make a run that goes past the platform, and keep it."""
        return self._make(kind, repeat, run, facts)

    def beside(
        self,
        kind: str,
        repeat: int,
        run: Callable[[], WriteRun],
        *,
        seconds: float | None = None,
        **facts: Any,
    ) -> WriteRun:
        """Make a run of the platform right beside one of the baseline's; who is first takes turns.

        `seconds` is the length of the baseline's; the options', unless given.
        """
        name = f"{BASELINE}_of_{kind}"

        def baseline() -> Written:
            return self._rig.direct.copy(seconds or self._rig.options.seconds)

        if repeat % 2:
            self.direct(name, repeat, baseline, **facts)
            return self.platform(kind, repeat, run, **facts)
        made = self.platform(kind, repeat, run, **facts)
        self.direct(name, repeat, baseline, **facts)
        return made

    def keep(self, kind: str, repeat: int, details: Mapping[str, Any], **facts: Any) -> None:
        """Keep a run that was made elsewhere."""
        # One in which nothing arrived has no rate: no ratio is made of it.
        rate = details["rows_per_s"] or None
        kept: Run = {"kind": kind, "repeat": repeat, **facts, **details, "rows_per_s": rate}
        self.all.append(kept)
        say(_line(kept))

    def of(self, kind: str, **facts: Any) -> list[Run]:
        """Return the runs of a kind, of these facts."""
        return [
            run
            for run in self.all
            if run["kind"] == kind and all(run.get(name) == is_ for name, is_ in facts.items())
        ]

    def rate(self, kind: str, **facts: Any) -> float | None:
        """Return the median rate of a kind, rows per second."""
        return median(run["rows_per_s"] for run in self.of(kind, **facts))

    def ratio(self, kind: str, to: str | None = None, **facts: Any) -> float | None:
        """Return the median of the ratios of neighbours; to its own baseline, unless named."""
        against = self.of(to or f"{BASELINE}_of_{kind}", **facts)
        return paired_ratio(self.of(kind, **facts), against, "rows_per_s")

    def baseline_rate(self) -> float | None:
        """Return the median rate of all runs of the baseline."""
        kinds = (run for run in self.all if run["kind"].startswith(BASELINE))
        return median(run["rows_per_s"] for run in kinds)

    def _make(
        self, kind: str, repeat: int, run: Callable[[], AnyRun], facts: Mapping[str, Any]
    ) -> AnyRun:
        self._rig.settle()
        self._rig.memory.restart()
        before = processor.read(self._rig.stack.state.path)
        made = run()
        used = processor.read(self._rig.stack.state.path).since(before)
        details = (
            made.summary()
            if isinstance(made, WriteRun)
            else {
                "rows_per_s": round(made.rows_per_s, 1),
                "rows": made.rows,
                "seconds": round(made.seconds, 4),
            }
        )
        self.keep(
            kind,
            repeat,
            details,
            **facts,
            processor_seconds=used,
            ingest_rss_mb=round(self._rig.memory.most_mb, 1),
        )
        return made


def _line(run: Run) -> str:
    rate, errors = run["rows_per_s"], run.get("errors") or {}
    text = f"  {run['repeat']:>2} {run['kind']:<34}"
    text += f" {rate:>11,.0f} rows/s" if rate else f" {'-':>11} rows/s"
    if run.get("overloaded"):
        text += f", {run['overloaded']} told to come again"
    if errors:
        words, count = next(iter(errors.items()))
        text += f", {sum(errors.values())} FAILED ({count} x {words})"
    return text
