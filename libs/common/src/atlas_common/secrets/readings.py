"""How reading secrets goes, as metrics."""

from opentelemetry import metrics

# Not by `telemetry.metrics`, which needs the settings, which need this.
_readings = metrics.get_meter("atlas").create_counter(
    "atlas.secrets.readings",
    unit="{readings}",
    description="Readings of secrets, by source and outcome; what failed leaves the last one.",
)


def succeeded(kind: str) -> None:
    """A source of this kind gave its secret."""
    _readings.add(1, {"source": kind, "outcome": "read"})


def failed(kind: str) -> None:
    """It did not, or gave what is none."""
    _readings.add(1, {"source": kind, "outcome": "failed"})
