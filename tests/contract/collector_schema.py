"""What the collector's components can be told, of what ops/otel/collector.yaml tells them.

After their documentation (OpenTelemetry Collector and its contributions, 0.128). The collector
itself refuses a key that it does not know, and so does this.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Duration = Annotated[str, StringConstraints(pattern=r"^\d+(ms|s|m|h)$")]
Address = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+:\d{2,5}$")]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Endpoint(_Settings):
    endpoint: Address


class _Protocols(_Settings):
    grpc: _Endpoint


class _OtlpReceiver(_Settings):
    protocols: _Protocols


class _MemoryLimiter(_Settings):
    check_interval: Duration
    limit_mib: int = Field(gt=0)
    spike_limit_mib: int = Field(gt=0)

    @model_validator(mode="after")
    def _spike_is_smaller(self) -> "_MemoryLimiter":
        if self.spike_limit_mib >= self.limit_mib:
            raise ValueError("spike_limit_mib must be smaller than limit_mib")
        return self


class _Batch(_Settings):
    timeout: Duration
    send_batch_size: int = Field(gt=0)
    send_batch_max_size: int = Field(gt=0)

    @model_validator(mode="after")
    def _at_most_is_no_less(self) -> "_Batch":
        if self.send_batch_max_size < self.send_batch_size:
            raise ValueError("send_batch_max_size must be greater or equal to send_batch_size")
        return self


class _Tls(_Settings):
    insecure: bool


class _Queue(_Settings):
    queue_size: int = Field(gt=0)


class _Retry(_Settings):
    max_elapsed_time: Duration


class _OtlpExporter(_Endpoint):
    tls: _Tls
    sending_queue: _Queue
    retry_on_failure: _Retry


class _Conversion(_Settings):
    enabled: bool


class _PrometheusExporter(_Endpoint):
    resource_to_telemetry_conversion: _Conversion
    metric_expiration: Duration


class _Pipeline(_Settings):
    receivers: list[str] = Field(min_length=1)
    processors: list[str]
    exporters: list[str] = Field(min_length=1)


class _Service(_Settings):
    extensions: list[str]
    pipelines: dict[str, _Pipeline]


class _Collector(_Settings):
    receivers: dict[str, Any]
    processors: dict[str, Any]
    exporters: dict[str, Any]
    extensions: dict[str, Any]
    service: _Service


_COMPONENTS: dict[str, dict[str, type[_Settings]]] = {
    "receivers": {"otlp": _OtlpReceiver},
    "processors": {"memory_limiter": _MemoryLimiter, "batch": _Batch},
    "exporters": {"otlp": _OtlpExporter, "prometheus": _PrometheusExporter},
    "extensions": {"health_check": _Endpoint},
}
"""By type: what stands before the slash in a component's name."""


def check(collector: dict[str, Any]) -> None:
    """Raises ValueError for what a component cannot be told, KeyError for one that is not known."""
    _Collector.model_validate(collector)
    for kind, known in _COMPONENTS.items():
        for name, settings in collector[kind].items():
            known[name.partition("/")[0]].model_validate(settings)
