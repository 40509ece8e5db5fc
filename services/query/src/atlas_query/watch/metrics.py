"""What watching counts."""

from atlas_common.telemetry import metrics

_looks = metrics.histogram("atlas.query.watch.look", "s", "How long looks for changes took.")
_sent = metrics.counter("atlas.query.watch.changes", "{changes}", "Changes sent to watchers.")
_left_out = metrics.counter(
    "atlas.query.watch.coalesced", "{changes}", "Changes left out because newer ones followed."
)


def looked(seconds: float) -> None:
    """A look was taken."""
    _looks.record(seconds, {})


def sent(changes: int, left_out: int) -> None:
    """Changes went to a watcher, others did not."""
    _sent.add(changes, {})
    if left_out:
        _left_out.add(left_out, {})
