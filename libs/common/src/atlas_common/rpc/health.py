"""grpc.health.v1, with watches that end when the service stops.

The stock servicer's Watch never returns, so one watcher would hold up every graceful stop for its
whole grace.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

LIVENESS = "liveness"
_Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # No stubs.
    """Tells the readiness of "" and of each service, and the liveness of "liveness"."""

    def __init__(self, services: Iterable[str]) -> None:
        self._ready_names = frozenset({"", *services})
        self._ready = False
        self._closed = False
        self._changed = asyncio.Condition()

    async def set_ready(self, ready: bool) -> None:
        """Change the readiness of the services; has no effect after `close`."""
        async with self._changed:
            self._ready = ready and not self._closed
            self._changed.notify_all()

    async def close(self) -> None:
        """NOT_SERVING from here on, and the end of all watches, once they have told so."""
        async with self._changed:
            self._ready, self._closed = False, True
            self._changed.notify_all()

    async def Check(  # noqa: N802
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        """The status of a service. NOT_FOUND for an unknown one."""
        status = self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _Status(status=status)

    async def Watch(  # noqa: N802
        self,
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> AsyncIterator[Any]:
        """The status of a service, now and at each change."""
        told: int | None = None
        while True:
            status = self._status(request.service)
            if status != told:
                yield _Status(status=status)
                told = status
            async with self._changed:
                if self._closed and told == self._status(request.service):
                    return
                if told == self._status(request.service):
                    await self._changed.wait()

    def _status(self, service: str) -> int:
        if service == LIVENESS:  # Answering is the proof: the loop runs.
            return int(_Status.NOT_SERVING if self._closed else _Status.SERVING)
        if service not in self._ready_names:
            return int(_Status.SERVICE_UNKNOWN)
        return int(_Status.SERVING if self._ready else _Status.NOT_SERVING)
