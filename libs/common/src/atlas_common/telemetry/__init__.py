"""Logs, traces and metrics of a process: `with telemetry.setup("query", config.telemetry): ...`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from atlas_common.config import TelemetryConfig
from atlas_common.telemetry import logs, metrics, tracing
from atlas_common.telemetry.logs import logger
from atlas_common.telemetry.tracing import tracer

__all__ = ["logger", "metrics", "setup", "tracer"]


@contextmanager
def setup(service: str, config: TelemetryConfig, *, instance: str = "") -> Iterator[None]:
    """Send this process's logs to stderr and its spans and metrics where the settings say.

    Once at a time. On exit what is still buffered gets a few seconds to leave.
    """
    with ExitStack() as stack:
        stack.enter_context(logs.to_stderr(service, instance, config.log_level))
        stack.enter_context(tracing.exported(service, instance, config))
        stack.enter_context(metrics.exported(service, instance, config))
        yield
