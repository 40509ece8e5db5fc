"""What one run measured."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

_LOWEST_US = 1
_HIGHEST_US = 600_000_000
_DIGITS = 3


def histogram() -> HdrHistogram:
    """Return an empty histogram of microseconds."""
    return HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)


@dataclass(frozen=True)
class Outcome:
    """How one call ended."""

    error: str = ""
    """Empty when it succeeded; else for example "UNAVAILABLE: the primary is restarting"."""
    source: str = ""
    """Which tier served it, where the answer says so."""
    answer_bytes: int = 0
    answered_at: float | None = None
    """By the event loop's clock; None: when the call ended."""


@dataclass
class Tally:
    """Counts and latencies of one run. Failed calls are counted and have no latency."""

    ok: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    answer_bytes_min: int = 0
    answer_bytes_max: int = 0
    """An answer of another size than all others is a wrong one, perhaps."""
    elapsed_seconds: float = 0.0
    latency: HdrHistogram = field(default_factory=histogram)
    send_lag: HdrHistogram = field(default_factory=histogram)
    """How late the driver itself sent: if this is not small, the driver was the bottleneck."""

    def record(self, latency_seconds: float, outcome: Outcome) -> None:
        """Count one finished call."""
        if outcome.error:
            self.errors[outcome.error] += 1
            return
        size = outcome.answer_bytes
        self.answer_bytes_min = min(self.answer_bytes_min, size) if self.ok else size
        self.answer_bytes_max = max(self.answer_bytes_max, size)
        self.ok += 1
        record_seconds(self.latency, latency_seconds)
        if outcome.source:
            self.sources[outcome.source] += 1

    def record_send_lag(self, lag_seconds: float) -> None:
        """Note how long after its scheduled time a call was sent."""
        record_seconds(self.send_lag, lag_seconds)

    def summary(self) -> dict[str, Any]:
        """Return it as JSON has it: milliseconds, calls per second."""
        return {
            "calls_ok": self.ok,
            "calls_failed": self.errors.total(),
            "errors": dict(self.errors.most_common(10)),
            "seconds": round(self.elapsed_seconds, 4),
            "calls_per_second": round(self.ok / self.elapsed_seconds, 2)
            if self.elapsed_seconds
            else 0.0,
            "latency_ms": percentiles(self.latency),
            "send_lag_ms": percentiles(self.send_lag),
            "sources": dict(self.sources),
            "answer_bytes": [self.answer_bytes_min, self.answer_bytes_max],
        }


def percentiles(histogram: HdrHistogram) -> dict[str, float] | None:
    """Return a histogram's usual percentiles in milliseconds; None when it is empty."""
    if histogram.get_total_count() == 0:
        return None
    wanted = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
    return {
        name: round(histogram.get_value_at_percentile(share) / 1_000, 3)
        for name, share in wanted.items()
    }


def record_seconds(histogram: HdrHistogram, seconds: float) -> None:
    """Count one duration; what is out of range counts as the nearest that is not."""
    histogram.record_value(min(max(round(seconds * 1e6), _LOWEST_US), _HIGHEST_US))
