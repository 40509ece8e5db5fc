"""Spans: always made and propagated (W3C), recorded and exported where the settings say."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from atlas_common.config import TelemetryConfig

EXPORT_TIMEOUT_SECONDS = 2

tracer = trace.get_tracer("atlas")
propagator: TextMapPropagator = TraceContextTextMapPropagator()
_TRACEPARENT = "traceparent"
_given: ContextVar[trace.SpanContext | None] = ContextVar("given", default=None)


class _Ids(RandomIdGenerator):
    """Random ones, unless they are given."""

    def generate_trace_id(self) -> int:
        given = _given.get()
        return super().generate_trace_id() if given is None else given.trace_id

    def generate_span_id(self) -> int:
        given = _given.get()
        return super().generate_span_id() if given is None else given.span_id


_ids = _Ids()


@contextmanager
def given_ids(ids: trace.SpanContext) -> Iterator[None]:
    """The one span that begins a trace within the block has these ids."""
    token = _given.set(ids)
    try:
        yield
    finally:
        _given.reset(token)


@contextmanager
def exported(service: str, instance: str, config: TelemetryConfig) -> Iterator[None]:
    """Export the spans that end within the block."""
    processors: list[SpanProcessor] = []
    if config.spans_file is not None:
        lines = JsonLinesExporter(Path(config.spans_file), service, instance)
        processors.append(SimpleSpanProcessor(lines))
    if config.otlp_endpoint is not None:
        exporter = OTLPSpanExporter(
            endpoint=config.otlp_endpoint,
            insecure=not config.otlp_endpoint.startswith("https"),
            timeout=EXPORT_TIMEOUT_SECONDS,
        )
        processors.append(BatchSpanProcessor(exporter))  # Bounded: drops beyond 2048 spans.
    _install(resource(service, instance))
    _outlet.processors = tuple(processors)
    try:
        yield
    finally:
        _outlet.processors = ()
        for processor in processors:
            processor.shutdown()  # Exports what is buffered first.


def is_exported() -> bool:
    """Whether anybody takes spans at this moment."""
    return bool(_outlet.processors)


def remote_context(carrier: Mapping[str, str]) -> otel_context.Context:
    """The caller's span, as its headers tell; nothing else of this process's context."""
    nothing = otel_context.Context()
    return propagator.extract(carrier, nothing) if _TRACEPARENT in carrier else nothing


def unrecorded_span(carrier: Mapping[str, str]) -> trace.Span:
    """What start_span() makes when nobody takes spans, without asking everybody who might.

    It has ids of its own and the caller's trace, for logs, errors and whoever records further on.
    """
    trace_id = _caller_trace_id(carrier) or _ids.generate_trace_id()
    return trace.NonRecordingSpan(
        trace.SpanContext(trace_id, _ids.generate_span_id(), is_remote=False)
    )


def _caller_trace_id(carrier: Mapping[str, str]) -> int:
    """0: the caller names no trace, or none that is valid."""
    if _TRACEPARENT not in carrier:
        return trace.INVALID_TRACE_ID
    caller = trace.get_current_span(remote_context(carrier)).get_span_context()
    return caller.trace_id if caller.is_valid else trace.INVALID_TRACE_ID


def resource(service: str, instance: str) -> Resource:
    """Who makes these spans and metrics, in OpenTelemetry's terms."""
    return Resource.create(
        {
            "service.name": service,
            "service.namespace": "atlas",
            "service.instance.id": instance,
        }
    )


class JsonLinesExporter(SpanExporter):
    """Appends one JSON object per span to a file: enough for tests and for a look by eye."""

    def __init__(self, path: Path, service: str, instance: str) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8", buffering=1)
        self._identity = {"service": service, "instance": instance}
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans, whole lines at a time."""
        lines = [json.dumps(self._line(span), default=str) + "\n" for span in spans]
        with self._lock:
            if self._file.closed:
                return SpanExportResult.FAILURE
            self._file.writelines(lines)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _line(self, span: ReadableSpan) -> dict[str, object]:
        context = span.get_span_context()
        return {
            **self._identity,
            "name": span.name,
            "kind": span.kind.name,
            "trace_id": trace.format_trace_id(context.trace_id) if context else None,
            "span_id": trace.format_span_id(context.span_id) if context else None,
            "parent_id": trace.format_span_id(span.parent.span_id) if span.parent else None,
            "start_ns": span.start_time,
            "end_ns": span.end_time,
            "status": span.status.status_code.name,
            "description": span.status.description,
            "attributes": dict(span.attributes or {}),
            "links": [
                {
                    "trace_id": trace.format_trace_id(link.context.trace_id),
                    "span_id": trace.format_span_id(link.context.span_id),
                }
                for link in span.links
            ],
        }


class _WhileExported(Sampler):
    """Records spans only while somebody takes them: to record one costs more than a small call.

    Trace ids are made and passed on all the same, for the logs and for whoever records further on.
    """

    def should_sample(  # noqa: PLR0917 - the signature is OpenTelemetry's.
        self,
        parent_context: otel_context.Context | None,  # noqa: ARG002
        trace_id: int,  # noqa: ARG002
        name: str,  # noqa: ARG002
        kind: SpanKind | None = None,  # noqa: ARG002
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002
        trace_state: TraceState | None = None,  # noqa: ARG002
    ) -> SamplingResult:
        recorded = Decision.RECORD_AND_SAMPLE if _outlet.processors else Decision.DROP
        return SamplingResult(recorded, attributes)

    def get_description(self) -> str:
        return "while exported"


class _Outlet(SpanProcessor):
    """Stands between the process's one tracer provider and the exporters of the moment.

    OpenTelemetry installs a provider once per process and for good; a process that sets telemetry
    up again (tests do) changes what hangs behind it.
    """

    processors: tuple[SpanProcessor, ...] = ()

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        for processor in self.processors:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self.processors:
            processor.on_end(span)


_outlet = _Outlet()
_installed = threading.Event()


def _install(who: Resource) -> None:
    if not _installed.is_set():
        provider = TracerProvider(
            sampler=_WhileExported(), resource=who, shutdown_on_exit=False, id_generator=_ids
        )
        provider.add_span_processor(_outlet)
        trace.set_tracer_provider(provider)
        _installed.set()
