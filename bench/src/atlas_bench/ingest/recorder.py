"""Counts what a run of the driver did."""

import resource
import time
from collections import Counter

from hdrh.histogram import HdrHistogram

from atlas_bench.ingest.job import WriteRun
from atlas_bench.tally import histogram, percentiles, record_seconds

_SLICE_SECONDS = 0.25
_ERRORS_KEPT = 10


class Recorder:
    """The books of one run. Used by one event loop."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._processor_began = _processor_seconds()
        self._last_answer = self._began
        self._acknowledged = self._unknown = self._calls = self._overloaded = 0
        self._errors: Counter[str] = Counter()
        self._latency: HdrHistogram = histogram()
        self._send_lag: HdrHistogram = histogram()
        self._slices: dict[int, tuple[int, int]] = {}

    def acknowledged(self, points: int, latency_seconds: float | None = None) -> None:
        """Count an answer."""
        self._calls += 1
        self._acknowledged += points
        self._last_answer = time.monotonic()
        if latency_seconds is not None:
            record_seconds(self._latency, latency_seconds)
        self._slice(points, 0)

    def overloaded(self) -> None:
        """Count a call that was told to come again."""
        self._overloaded += 1
        self._slice(0, 1)

    def failed(self, points: int, words: str) -> None:
        """Count a call that came to nothing, or perhaps not."""
        self._unknown += points
        self._errors[words] += 1

    def sent_late(self, seconds: float) -> None:
        """Note how long after its scheduled time a call was sent."""
        record_seconds(self._send_lag, seconds)

    def close(self) -> WriteRun:
        """Return the sums."""
        timeline = [
            (self._began + (number + 1) * _SLICE_SECONDS, *counts)
            for number, counts in sorted(self._slices.items())
        ]
        return WriteRun(
            points_acknowledged=self._acknowledged,
            points_unknown=self._unknown,
            seconds=round(self._last_answer - self._began, 4),
            calls=self._calls,
            overloaded=self._overloaded,
            errors=dict(self._errors.most_common(_ERRORS_KEPT)),
            latency_ms=percentiles(self._latency),
            send_lag_ms=percentiles(self._send_lag),
            driver_seconds=round(_processor_seconds() - self._processor_began, 3),
            timeline=timeline,
        )

    def _slice(self, points: int, refused: int) -> None:
        number = int((time.monotonic() - self._began) / _SLICE_SECONDS)
        before = self._slices.get(number, (0, 0))
        self._slices[number] = (before[0] + points, before[1] + refused)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
