"""The outermost scope: the call's span, its request id, one log line, its metrics."""

import asyncio
import random
import re
import time
from collections.abc import Mapping
from typing import Any

import grpc
from opentelemetry import context as otel_context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from atlas_common.call import request_context
from atlas_common.rpc.access_log import AccessLog
from atlas_common.rpc.scope import Call, Proceed
from atlas_common.telemetry import metrics, tracing
from atlas_common.telemetry.logs import logger
from atlas_common.telemetry.tracing import tracer

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")  # Goes into logs and headers: visible ASCII only.
# The server's fault, by OpenTelemetry's conventions for gRPC servers; the rest is the caller's.
_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_log = logger("atlas.rpc")
_duration = metrics.histogram("atlas.rpc.server.duration", "s", "Time a call took, by its outcome.")
_active = metrics.up_down_counter("atlas.rpc.server.active", "{calls}", "Calls at work.")


class Observation:
    """Traces, logs and counts calls."""

    def __init__(self, log: AccessLog) -> None:
        self._access = log

    async def observed(self, call: Call, proceed: Proceed) -> Any:
        """Watch the call."""
        metadata = call.text_metadata()
        id_ = _accepted(metadata.get(REQUEST_ID_KEY, ""))
        started = time.monotonic()
        _active.add(1)
        span = _span(call, metadata, id_)
        # Attached for good: the call's task has a context of its own, which ends with it.
        otel_context.attach(set_span_in_context(span))
        with request_context(id_):
            try:
                return await proceed()
            except asyncio.CancelledError:
                call.code = grpc.StatusCode.CANCELLED
                raise
            finally:
                ended = time.monotonic()
                _active.add(-1)
                _duration.record(ended - started, {"method": call.method, "code": call.code.name})
                _finish(span, call)
                if self._access.admits(call, ended):
                    self._write(call, ended - started)

    def _write(self, call: Call, seconds: float) -> None:
        left_out = self._access.take_left_out()
        _log.info(
            "call",
            method=call.method,
            code=call.code.name,
            reason=call.reason,
            seconds=round(seconds, 6),
            peer=call.context.peer(),
            **call.attributes,
            **({} if left_out is None else {"calls_left_out": left_out}),
        )


def _span(call: Call, metadata: Mapping[str, str], id_: str) -> Span:
    name = call.method.removeprefix("/")
    # No context manager: nothing of an exception goes into it, its text may hold a tenant's values.
    if not tracing.is_exported():
        return tracing.unrecorded_span(metadata)
    service, _, method = name.partition("/")
    return tracer.start_span(
        name,
        context=tracing.remote_context(metadata),
        kind=SpanKind.SERVER,
        attributes={
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "atlas.request_id": id_,
        },
    )


def _finish(span: Span, call: Call) -> None:
    if not span.is_recording():
        return
    span.set_attribute("rpc.grpc.status_code", call.code.value[0])
    if call.reason is not None:
        span.set_attribute("atlas.error.reason", call.reason)
    for key, value in call.attributes.items():
        span.set_attribute(f"atlas.{key}", value)
    if call.code in _SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR, call.reason or call.code.name))
    span.end()


def _accepted(id_: str) -> str:
    if id_ and _REQUEST_ID.fullmatch(id_):
        return id_
    return f"{random.getrandbits(128):032x}"
