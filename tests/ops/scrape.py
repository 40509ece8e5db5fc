"""A collector that keeps which series it would show to Prometheus, by Prometheus' names.

The names are made as the OpenTelemetry specification wants it ("Prometheus and OpenMetrics
Compatibility"), which the collector's Prometheus exporters follow.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as pb

_UNITS = {"s": "seconds", "By": "bytes"}
_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"


def prometheus_name(name: str, unit: str, kind: str) -> str:
    """The name without what a histogram adds. `kind`: counter, gauge or histogram."""
    suffix = "ratio" if unit == "1" and kind == "gauge" else _UNITS.get(unit)
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    if suffix is not None and suffix not in words:
        words.append(suffix)
    if kind == "counter":
        words.append("total")
    return "_".join(word for word in words if word)


def series_names(name: str, unit: str, kind: str) -> set[str]:
    """All names under which Prometheus has the metric."""
    base = prometheus_name(name, unit, kind)
    if kind == "histogram":
        return {f"{base}_{part}" for part in ("bucket", "count", "sum")}
    return {base}


class Scrape:
    """What has arrived so far."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.labels: dict[str, set[str]] = {}
        """Series name -> the names of labels seen on it."""
        self.jobs: dict[str, set[str]] = {}
        """Series name -> the jobs that send it."""
        self.buckets: dict[str, set[str]] = {}
        """Histogram -> its boundaries, as `le` has them."""

    def take(self, request: Any, _context: Any) -> Any:
        """Receive an export."""
        for block in request.resource_metrics:
            who = {item.key: item.value.string_value for item in block.resource.attributes}
            job = f"{who['service.namespace']}/{who['service.name']}"
            for scope in block.scope_metrics:
                for metric in scope.metrics:
                    self._note(metric, job)
        return pb.ExportMetricsServiceResponse()

    def _note(self, metric: Any, job: str) -> None:
        what = metric.WhichOneof("data")
        kind = what if what != "sum" else ("counter" if metric.sum.is_monotonic else "gauge")
        points = getattr(metric, what).data_points
        if not points:
            return
        labels = {item.key for point in points for item in point.attributes}
        for name in series_names(metric.name, metric.unit, kind):
            self.jobs.setdefault(name, set()).add(job)
            self.labels.setdefault(name, {"job", "instance"}).update(labels)
            if name.endswith("_bucket"):
                self.labels[name].add("le")
                self.buckets[name] = {f"{bound:g}" for bound in points[0].explicit_bounds}


@contextmanager
def scraping() -> Iterator[Scrape]:
    """Run it on a free port."""
    scrape = Scrape()
    server = grpc.server(ThreadPoolExecutor(2))
    handler: Any = grpc.unary_unary_rpc_method_handler(
        scrape.take,
        request_deserializer=pb.ExportMetricsServiceRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),)
    )
    scrape.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield scrape
    finally:
        server.stop(None).wait()
