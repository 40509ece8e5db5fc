"""An OpenTelemetry collector that keeps what it is sent."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb


class Collector:
    """The spans and metrics that arrived, with their resources' attributes."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.spans: list[tuple[dict[str, str], str]] = []
        self.metrics: list[tuple[dict[str, str], str]] = []
        self.exports: list[tuple[str, str]] = []
        """The service that each export came from, and all of it as text."""
        self.points: dict[str, list[Any]] = {}
        """Metric -> its data points as they arrived last."""

    def take_spans(self, request: Any, _context: Any) -> Any:
        for block in request.resource_spans:
            self.exports.append((_resource(block).get("service.name", ""), str(block)))
            for scope in block.scope_spans:
                self.spans += [(_resource(block), span.name) for span in scope.spans]
        return trace_pb.ExportTraceServiceResponse()

    def take_metrics(self, request: Any, _context: Any) -> Any:
        for block in request.resource_metrics:
            self.exports.append((_resource(block).get("service.name", ""), str(block)))
            for scope in block.scope_metrics:
                self.metrics += [(_resource(block), metric.name) for metric in scope.metrics]
                for metric in scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data"))
                    self.points[metric.name] = list(data.data_points)
        return metrics_pb.ExportMetricsServiceResponse()


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    for service, take, messages in (
        ("trace.v1.TraceService", collector.take_spans, trace_pb.ExportTraceServiceRequest),
        (
            "metrics.v1.MetricsService",
            collector.take_metrics,
            metrics_pb.ExportMetricsServiceRequest,
        ),
    ):
        handler: Any = grpc.unary_unary_rpc_method_handler(
            take,
            request_deserializer=messages.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    f"opentelemetry.proto.collector.{service}", {"Export": handler}
                ),
            )
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _resource(block: Any) -> dict[str, str]:
    return {item.key: item.value.string_value for item in block.resource.attributes}
