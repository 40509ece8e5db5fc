"""What the query service counts."""

import math
from collections.abc import Callable, Mapping

from atlas_common.telemetry import metrics
from atlas_query.consistency import Level
from atlas_query.policy import Miss
from atlas_query.proof import Proof

_reads = metrics.counter("atlas.query.reads", "{reads}", "Reads served, by source and level.")
_misses = metrics.counter(
    "atlas.query.misses", "{reads}", "Endpoints that did not serve a read, by why."
)
_unmet = metrics.counter("atlas.query.unmet", "{reads}", "Reads refused as FRESHNESS_UNMET.")
_histories = metrics.counter(
    "atlas.query.new_histories", "1", "Elections of another primary, or of one on a new timeline."
)
_changes = metrics.counter("atlas.query.server_changes", "1", "Replicas that joined or left.")
_reloads = metrics.counter(
    "atlas.query.discoveries", "1", "Looks for replicas, by source and outcome."
)
_lag = metrics.histogram("atlas.query.lag", "s", "Measured lag of what was served.")


def show_replicas(lags_seconds: Callable[[], Mapping[str, float]]) -> None:
    """Export how far each server but the primary is behind; -1: not known, or not read."""

    def finite() -> Mapping[str, float]:
        return {name: lag if math.isfinite(lag) else -1.0 for name, lag in lags_seconds().items()}

    metrics.gauge("atlas.query.replica_lag", "s", "How far each replica is behind.", finite)


def served(proof: Proof) -> None:
    """A read was served."""
    labels = {"source": proof.source.value, "endpoint": proof.endpoint, "level": proof.level.value}
    _reads.add(1, labels)
    if proof.lag_seconds != float("inf"):
        _lag.record(proof.lag_seconds, labels)


def missed(endpoint: str, miss: Miss) -> None:
    """An endpoint did not serve a read that was sent to it."""
    _misses.add(1, {"endpoint": endpoint, "why": miss.name.lower()})


def unmet(level: Level) -> None:
    """No tier met the freshness a read asked for."""
    _unmet.add(1, {"level": level.value})


def new_history() -> None:
    """Another primary was elected."""
    _histories.add(1)


def server_changed(change: str) -> None:
    """A replica `joined` or `left`."""
    _changes.add(1, {"change": change})


def discovered(source: str, *, ok: bool) -> None:
    """The list of replicas was looked at, or could not be."""
    _reloads.add(1, {"source": source, "outcome": "ok" if ok else "failed"})
