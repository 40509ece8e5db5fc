"""Asking a service whether it is ready, by grpc.health.v1."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_SECONDS = 1.0


def is_serving(target: str, service: str = "") -> bool:
    """Say whether the service at "host:port" reports SERVING; "" asks for overall readiness."""
    # A channel of its own each time: a shared one would sit out its reconnect backoff (1 s and
    # more) while the service is already up. And on loopback nobody wants a proxy between.
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
