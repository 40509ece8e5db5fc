"""Counters, histograms and gauges through OpenTelemetry; names are `atlas.<service>.<noun>`.

Instruments may be made at import: until a collector is configured they record into nothing.
Units: "s", "By", "1", or "{points}" for things counted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    Observation,
    UpDownCounter,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from atlas_common.config import TelemetryConfig
from atlas_common.telemetry.tracing import EXPORT_TIMEOUT_SECONDS, resource

Reading = float | Mapping[str, float]

_meter = metrics.get_meter("atlas")
_counters: list[Counter | UpDownCounter] = []
# OpenTelemetry's own boundaries are for milliseconds: everything would be in the first bucket.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_NUMBERS = (1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000)


def counter(name: str, unit: str, description: str) -> Counter:
    """A sum that only grows: `.add(1, {"reason": "x"})`."""
    made = _meter.create_counter(name, unit=unit, description=description)
    _counters.append(made)
    return made


def up_down_counter(name: str, unit: str, description: str) -> UpDownCounter:
    """A sum that grows and shrinks: `.add(-1)`."""
    made = _meter.create_up_down_counter(name, unit=unit, description=description)
    _counters.append(made)
    return made


def histogram(name: str, unit: str, description: str) -> Histogram:
    """A distribution: `.record(0.012, {"method": "x"})`."""
    return _meter.create_histogram(
        name,
        unit=unit,
        description=description,
        explicit_bucket_boundaries_advisory=_SECONDS if unit == "s" else _NUMBERS,
    )


def gauge(name: str, unit: str, description: str, read: Callable[[], Reading]) -> None:
    """A value that `read` looks up when metrics are collected; a mapping is by label `name`.

    It is read in the exporter's thread: what it iterates over may change meanwhile, and is read
    again then.
    """

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        try:
            reading = read()
        except RuntimeError:  # "changed during iteration"
            reading = read()
        if isinstance(reading, Mapping):
            return [Observation(value, {"name": label}) for label, value in reading.items()]
        return [Observation(reading)]

    _meter.create_observable_gauge(name, [observe], unit=unit, description=description)


@contextmanager
def exported(service: str, instance: str, config: TelemetryConfig) -> Iterator[None]:
    """Send metrics to the collector, if one is configured, until the block ends."""
    if config.otlp_endpoint is None:
        yield
        return
    exporter = OTLPMetricExporter(
        endpoint=config.otlp_endpoint,
        insecure=not config.otlp_endpoint.startswith("https"),
        timeout=EXPORT_TIMEOUT_SECONDS,
    )
    reader = PeriodicExportingMetricReader(
        exporter, export_interval_millis=config.metrics_interval_seconds * 1000
    )
    provider = MeterProvider([reader], resource=resource(service, instance), shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    for each in _counters:
        each.add(0)  # What never happened is 0, not absent: an alert sees its first time.
    try:
        yield
    finally:
        provider.shutdown(timeout_millis=EXPORT_TIMEOUT_SECONDS * 1000)
