"""Joins the traces on a point's way: a flush has a trace whose ids follow from its position.

Whoever holds a freshness token, or sees the position pass by in the log, knows the flush's span
without being told of it: the call that wrote and the batch that reached the warehouse link to it.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, TraceFlags

from atlas.type.freshness import Position
from atlas_common.telemetry import tracing
from atlas_common.telemetry.tracing import tracer

LINKS_MAX = 32
"""Of one span: a flush has a thousand callers, and says whose some of them are."""
_POSITION = "atlas.position"


def span_context(position: Position) -> SpanContext:
    """The span of the flush that made the position."""
    digest = hashlib.blake2b(_text(position).encode(), digest_size=24).digest()
    return SpanContext(
        trace_id=int.from_bytes(digest[:16]),
        span_id=int.from_bytes(digest[16:]),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def caller() -> SpanContext | None:
    """The running call's span, for the flush to link to; None if nobody takes spans."""
    if not tracing.is_exported():
        return None
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def link_current(position: Position) -> None:
    """Link the running call's span to the flush that its answer's token names."""
    span = trace.get_current_span()
    if span.is_recording():
        span.add_link(span_context(position), {_POSITION: _text(position)})


@contextmanager
def flush_span(
    position: Position, point_count: int, callers: Iterable[SpanContext | None]
) -> Iterator[None]:
    """The span of a flush, around it; it links to those whose points it moves."""
    if not tracing.is_exported():
        yield
        return
    known = islice((each for each in callers if each is not None), LINKS_MAX)
    with tracing.given_ids(span_context(position)):
        span = tracer.start_span(
            "flush",
            context=Context(),
            links=[Link(each) for each in known],
            attributes={_POSITION: _text(position), "atlas.points": point_count},
        )
    with _current(span):
        yield


@contextmanager
def within(position: Position) -> Iterator[None]:
    """What is done in the block is done for the flush: its spans are the flush's children."""
    if not tracing.is_exported():
        yield
        return
    with trace.use_span(trace.NonRecordingSpan(span_context(position))):
        yield


@contextmanager
def apply_span(positions: Iterable[Position], change_count: int) -> Iterator[None]:
    """The span of a batch on its way into the warehouse; it links to the flushes it holds.

    Without any there is none: hearts beat five times a second. Of very many, the last.
    """
    last = list(positions)[-LINKS_MAX:]
    if not last or not tracing.is_exported():
        yield
        return
    links = [Link(span_context(each), {_POSITION: _text(each)}) for each in last]
    attributes = {"atlas.changes": change_count}
    with _current(
        tracer.start_span("apply", context=Context(), links=links, attributes=attributes)
    ):
        yield


@contextmanager
def _current(span: Span) -> Iterator[None]:
    # Of an error its name alone: the database's own words may hold values.
    with trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _text(position: Position) -> str:
    return f"{position.lane}:{position.epoch}:{position.sequence}"
