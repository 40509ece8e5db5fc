"""JSON lines on stderr: ours through structlog, everyone else's through logging, in one form."""

import asyncio
import json
import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from atlas_common import call
from atlas_common.tenant import tenant_or_none

_FRAMES_MAX = 30
_QUIET = {  # Libraries whose INFO is a line per connection or call.
    "psycopg.pool": logging.WARNING,
    "opentelemetry": logging.WARNING,
    "grpc": logging.WARNING,
    "asyncio": logging.WARNING,
}

_encode = json.JSONEncoder(default=str).encode  # json.dumps() would make an encoder for each line.


def logger(name: str) -> FilteringBoundLogger:
    """The logger of a module. The event is a fixed phrase; what varies goes into keywords."""
    return cast("FilteringBoundLogger", _ModuleLogger(name))


class _Turns:
    """Writes what is logged within one turn of the event loop at once, when the turn ends.

    A flush answers a thousand calls in a turn: a system call for each line, in which the
    interpreter changes hands, cost as much as all else of the line. Without a loop, as in threads,
    nothing waits.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque()
        self._due_in: asyncio.AbstractEventLoop | None = None

    def write(self, line: str) -> None:
        """Take a line."""
        self._lines.append(line)

    def flush(self) -> None:
        """See to it that it is written."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write_out()
            return
        if self._due_in is not loop:  # Nor one that has ended before its turn did.
            self._due_in = loop
            loop.call_soon(self.write_out)

    def write_out(self) -> None:
        """Write what there is; from any thread."""
        self._due_in = None  # Before the lines are taken: a later one calls again.
        lines = []
        while self._lines:
            try:
                lines.append(self._lines.popleft())
            except IndexError:  # Another thread was faster.
                break
        if lines:
            self._stream.write("".join(lines))
            self._stream.flush()


class _ModuleLogger:
    """Bound once for each time that logging is set up: structlog's own proxy is for every line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._of: object = None
        self._bound: Any = None

    def __getattr__(self, method: str) -> Any:
        setup = structlog.get_config()["processors"]
        if self._of is not setup:
            self._bound = structlog.get_logger(module=self._name).bind()
            self._of = setup
        return getattr(self._bound, method)


@contextmanager
def to_stderr(service: str, instance: str, level: str) -> Iterator[None]:
    """Write this process's log to stderr until the block ends."""

    def identify(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"], event["instance"] = service, instance
        return event

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        identify,
        _call_context,
        structlog.processors.ExceptionRenderer(
            # Without locals: they hold tenants' values and secrets.
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_FRAMES_MAX)
        ),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    turns = _Turns(sys.stderr)
    handler = logging.StreamHandler(cast("TextIO", turns))
    handler.setFormatter(_foreign_formatter(shared))
    root = logging.getLogger()
    before = root.handlers[:], root.level, {name: _level(name) for name in _QUIET}
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(quiet, number))
    structlog.configure(
        processors=[*shared, _as_json],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", turns)),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
        turns.write_out()
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        for name, old in before[2].items():
            logging.getLogger(name).setLevel(old)


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event)


def _foreign_formatter(shared: list[Processor]) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _as_json,
        ],
    )


def _call_context(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Which call, which tenant, which span: what joins the lines of one request."""
    span = trace.get_current_span().get_span_context()
    known: dict[str, Any] = {"request_id": call.request_id()}
    tenant = tenant_or_none()
    if tenant is not None:
        known["tenant"] = tenant.key
    if span.is_valid:
        known["trace_id"] = trace.format_trace_id(span.trace_id)
        known["span_id"] = trace.format_span_id(span.span_id)
    for key, value in known.items():
        if value is not None:
            event.setdefault(key, value)
    return event


def _level(name: str) -> int:
    return logging.getLogger(name).level
