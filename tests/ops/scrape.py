"""In the collector's place: takes what services export by OTLP, and is scraped by Prometheus.

The names are made as the OpenTelemetry specification wants it ("Prometheus and OpenMetrics
Compatibility"), and resources become labels as ops/otel/collector.yaml tells the collector's
exporter of Prometheus' format to do it.
"""

import math
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as pb

from atlas_devstack.ports import LOOPBACK

_UNITS = {"s": "seconds", "By": "bytes"}
_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"
_EXPIRATION_SECONDS = 60.0
"""The collector's metric_expiration."""
Labels = tuple[tuple[str, str], ...]


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
        """Where services export to."""
        self.target = ""
        """host:port that Prometheus scrapes."""
        self.labels: dict[str, set[str]] = {}
        """Series name -> the names of labels seen on it."""
        self.jobs: dict[str, set[str]] = {}
        """Series name -> the jobs that send it."""
        self.buckets: dict[str, set[str]] = {}
        """Histogram -> its boundaries, as `le` has them."""
        self._values: dict[tuple[str, Labels], tuple[float, float]] = {}
        """Series -> its value, and when it came."""
        self._lock = threading.Lock()

    def take(self, request: Any, _context: Any) -> Any:
        """Receive an export."""
        for block in request.resource_metrics:
            who = _attributes(block.resource)
            job = f"{who['service.namespace']}/{who['service.name']}"
            labels = {_label(name): value for name, value in who.items()}
            labels |= {"job": job, "instance": who["service.instance.id"]}
            for scope in block.scope_metrics:
                for metric in scope.metrics:
                    self._note(metric, labels)
        return pb.ExportMetricsServiceResponse()

    def exposition(self) -> str:
        """What the collector would answer to Prometheus, without types and help."""
        oldest = time.monotonic() - _EXPIRATION_SECONDS
        with self._lock:
            shown = [(key, value) for key, (value, came) in self._values.items() if came > oldest]
        return "".join(
            f"{name}{{{','.join(_quoted(label, text) for label, text in labels)}}} {value!r}\n"
            for (name, labels), value in shown
        )

    def _note(self, metric: Any, who: dict[str, str]) -> None:
        what = metric.WhichOneof("data")
        kind = what if what != "sum" else ("counter" if metric.sum.is_monotonic else "gauge")
        base = prometheus_name(metric.name, metric.unit, kind)
        now = time.monotonic()
        for point in getattr(metric, what).data_points:
            own = who | {_label(name): value for name, value in _attributes(point).items()}
            samples = _buckets(base, point) if kind == "histogram" else [_sample(base, point)]
            for name, extra, value in samples:
                labels = own | extra
                self.jobs.setdefault(name, set()).add(who["job"])
                self.labels.setdefault(name, set()).update(labels)
                if "le" in extra:
                    self.buckets.setdefault(name, set()).add(extra["le"])
                with self._lock:
                    self._values[name, tuple(sorted(labels.items()))] = (value, now)


def _attributes(owner: Any) -> dict[str, str]:
    return {item.key: _text(item.value) for item in owner.attributes}


def _text(value: Any) -> str:
    found = getattr(value, value.WhichOneof("value"))
    return str(found).lower() if isinstance(found, bool) else str(found)


def _label(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _quoted(label: str, text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{label}="{escaped}"'


def _sample(name: str, point: Any) -> tuple[str, dict[str, str], float]:
    return name, {}, float(getattr(point, point.WhichOneof("value")))


def _buckets(base: str, point: Any) -> Iterator[tuple[str, dict[str, str], float]]:
    below = 0
    for bound, count in zip((*point.explicit_bounds, math.inf), point.bucket_counts, strict=True):
        below += count
        le = "+Inf" if math.isinf(bound) else f"{bound:g}"
        yield f"{base}_bucket", {"le": le}, float(below)
    yield f"{base}_count", {}, float(point.count)
    yield f"{base}_sum", {}, float(point.sum)


@contextmanager
def scraping() -> Iterator[Scrape]:
    """Run it on free ports."""
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
    scrape.endpoint = f"http://{LOOPBACK}:{server.add_insecure_port(f'{LOOPBACK}:0')}"
    with ThreadingHTTPServer((LOOPBACK, 0), _answering(scrape)) as page:
        scrape.target = f"{LOOPBACK}:{page.server_address[1]}"
        thread = threading.Thread(target=page.serve_forever, name="exposition")
        thread.start()
        server.start()
        try:
            yield scrape
        finally:
            server.stop(None).wait()
            page.shutdown()
            thread.join()


def _answering(scrape: Scrape) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = scrape.exposition().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Nothing: it is scraped every second."""

    return Page
