"""What the service counts: for GetCacheStatus, and for the collector."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from atlas_common import telemetry

_HITS = telemetry.metrics.counter("atlas.hotcache.hits", "1", "Entities answered from the cache.")
_MISSES = telemetry.metrics.counter("atlas.hotcache.misses", "1", "Entities read from the primary.")
_BYPASSES = telemetry.metrics.counter(
    "atlas.hotcache.bypasses", "1", "Calls that could not use the cache."
)
_INVALIDATIONS = telemetry.metrics.counter(
    "atlas.hotcache.invalidations", "1", "Entities declared changed by flushes."
)
_FILLS = telemetry.metrics.counter("atlas.hotcache.fills", "1", "Fills, by outcome.")
_GENERATIONS = telemetry.metrics.counter(
    "atlas.hotcache.generations", "1", "Times the whole cache was distrusted."
)
_CAUGHT_UP = telemetry.metrics.counter(
    "atlas.hotcache.caught_up", "1", "Flushes that nobody told of, made up for from the primary."
)
_CHECKS = telemetry.metrics.counter(
    "atlas.hotcache.checks", "1", "Hits compared with the primary, by outcome."
)
_INCONSISTENCIES = telemetry.metrics.counter(
    "atlas.hotcache.inconsistencies", "1", "Hits that the stated lag does not explain."
)


def show_lag(read: Callable[[], float]) -> None:
    """Export how stale the cache may be at most; -1: not known."""

    def finite() -> float:
        lag_seconds = read()
        return lag_seconds if math.isfinite(lag_seconds) else -1.0

    telemetry.metrics.gauge(
        "atlas.hotcache.lag", "s", "How far the cache can be behind the primary.", finite
    )


@dataclass(slots=True)
class Counts:
    """Totals since the process began."""

    hits: int = 0
    misses: int = 0
    invalidations: int = 0
    fills_refused: int = 0
    generations: int = 0
    caught_up_flushes: int = 0
    checks: int = 0
    inconsistencies: int = 0

    def answered(self, hits: int, misses: int) -> None:
        """A call was answered with this many entities from either side."""
        self.hits += hits
        self.misses += misses
        _HITS.add(hits)
        _MISSES.add(misses)

    def bypassed(self) -> None:
        """A call could not use the cache."""
        _BYPASSES.add(1)

    def invalidated(self, entity_count: int) -> None:
        """A flush changed this many entities."""
        self.invalidations += entity_count
        _INVALIDATIONS.add(entity_count)

    def filled(self, stored: int, refused: int) -> None:
        """A fill ended; refused ones lost to something newer."""
        self.fills_refused += refused
        _FILLS.add(stored, {"outcome": "stored"})
        _FILLS.add(refused, {"outcome": "refused"})

    def fill_failed(self, entity_count: int) -> None:
        """A fill did not reach the cache."""
        _FILLS.add(entity_count, {"outcome": "failed"})

    def forgot(self) -> None:
        """A new generation began."""
        self.generations += 1
        _GENERATIONS.add(1)

    def caught_up(self, flush_count: int) -> None:
        """So many flushes were made up for."""
        self.caught_up_flushes += flush_count
        _CAUGHT_UP.add(flush_count)

    def checked(self, outcome: str, *, is_inconsistent: bool) -> None:
        """A hit was compared with the primary."""
        self.checks += 1
        _CHECKS.add(1, {"outcome": outcome})
        if is_inconsistent:
            self.inconsistencies += 1
            _INCONSISTENCIES.add(1)
