"""Logs, traces and metrics of a process: `with telemetry.setup("query", config.telemetry): ...`."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from atlas_common.config import TelemetryConfig
from atlas_common.telemetry import logs, metrics, tracing
from atlas_common.telemetry.logs import logger
from atlas_common.telemetry.tracing import tracer

__all__ = ["logger", "metrics", "setup", "tracer"]


_log = logger(__name__)


@contextmanager
def setup(
    service: str,
    config: TelemetryConfig,
    *,
    instance: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Send this process's logs to stderr and its spans and metrics where the settings say.

    `settings`: the effective ones, as ServiceConfig.describe() tells them, for the first line. Once
    at a time. On exit what is still buffered gets a few seconds to leave.
    """
    with ExitStack() as stack:
        stack.enter_context(logs.to_stderr(service, instance, config.log_level))
        stack.enter_context(tracing.exported(service, instance, config))
        stack.enter_context(metrics.exported(service, instance, config))
        if settings is not None:
            _log.info("settings", settings=settings)
        yield
