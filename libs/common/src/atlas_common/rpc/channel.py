"""Channels to the platform's other services.

A call carries on what its caller has: trace, tenant, request id, and the time that is left.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from atlas.wire.channel import RenewedChannel
from atlas_common import call as running
from atlas_common.config import PeerConfig
from atlas_common.rpc.identity import TENANT_KEY
from atlas_common.rpc.observation import REQUEST_ID_KEY
from atlas_common.rpc.tls import client_pem
from atlas_common.telemetry.tracing import propagator, tracer
from atlas_common.tenant import tenant_or_none

MESSAGE_BYTES_MAX = 16 * 2**20
ATTEMPTS_MAX = 3

_CallT = TypeVar("_CallT", bound=grpc.aio.Call)
_Continuation = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]]


@asynccontextmanager
async def open_channel(
    peer: PeerConfig, *, services: Sequence[ServiceDescriptor] = ()
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a peer; connects when it is used, reconnects within two seconds.

    Methods of `services` that declare an idempotency level are tried up to three times while the
    peer is UNAVAILABLE; no others are. Without a timeout of its own, a call gets the rest of the
    running call's time, at most `peer.timeout_seconds` (streams: only if there is a running call).
    Raises FatalError if the peer's certificate files cannot be used.
    """
    options = [
        ("grpc.service_config", json.dumps(service_config(services))),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # In truth how long one attempt to connect may take: handshakes under load take some 100 ms.
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5000),
    ]
    carry = _Carrier(peer)
    interceptors: list[grpc.aio.ClientInterceptor] = [
        _UnaryUnary(carry),
        _UnaryStream(carry),
        _StreamUnary(carry),
        _StreamStream(carry),
    ]
    channel = _channel(peer, options, interceptors)
    try:
        yield channel
    finally:
        await channel.close()


def _channel(
    peer: PeerConfig,
    options: list[tuple[str, Any]],
    interceptors: list[grpc.aio.ClientInterceptor],
) -> grpc.aio.Channel:
    if peer.tls is None:
        return grpc.aio.insecure_channel(peer.target, options=options, interceptors=interceptors)
    if peer.tls.server_name is not None:
        options = [*options, ("grpc.ssl_target_name_override", peer.tls.server_name)]

    def opened(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            peer.target, credentials, options=options, interceptors=interceptors
        )

    return RenewedChannel(client_pem(peer.tls), opened)


def service_config(services: Sequence[ServiceDescriptor]) -> dict[str, Any]:
    """gRPC's own retry rules for the idempotent methods of these services."""
    names = [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    ]
    if not names:
        return {"methodConfig": []}
    policy = {
        "maxAttempts": ATTEMPTS_MAX,
        "initialBackoff": "0.05s",
        "maxBackoff": "0.5s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return {"methodConfig": [{"name": names, "retryPolicy": policy}]}


class _Carrier:
    """Adds what a call carries, and gives it a span that ends when the call is done.

    The call is handed on before it is done, never awaited here: an interceptor that awaits its call
    stands between the caller's cancel() and the call.
    """

    def __init__(self, peer: PeerConfig) -> None:
        self._peer = peer
        self._finishing: set[asyncio.Task[None]] = set()

    async def carried(
        self,
        continuation: _Continuation,
        details: grpc.aio.ClientCallDetails,
        request: Any,
        *,
        unary: bool,
    ) -> Any:
        path: Any = details.method  # Bytes, whatever the stubs say.
        method: str = path.decode() if isinstance(path, bytes) else path
        service, _, name = method.lstrip("/").partition("/")
        span = tracer.start_span(
            f"{service}/{name}",
            kind=SpanKind.CLIENT,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": name,
                "server.address": self._peer.target,
            },
        )
        try:
            call = await continuation(self._details(details, span, unary=unary), request)
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            span.end()
            raise
        call.add_done_callback(lambda done: self._done(span, done))
        return call

    def _details(
        self, details: grpc.aio.ClientCallDetails, span: Span, *, unary: bool
    ) -> grpc.aio.ClientCallDetails:
        headers: dict[str, str] = {}
        propagator.inject(headers, context=trace.set_span_in_context(span))
        tenant, id_ = tenant_or_none(), running.request_id()
        if tenant is not None:
            headers[TENANT_KEY] = tenant.key
        if id_ is not None:
            headers[REQUEST_ID_KEY] = id_
        given = tuple(details.metadata or ())
        names = {key for key, _ in given}
        added = ((key, value) for key, value in headers.items() if key not in names)
        metadata = grpc.aio.Metadata(*given, *added)
        timeout = self._timeout(details.timeout, unary=unary)
        changed: grpc.aio.ClientCallDetails = details._replace(  # type: ignore[attr-defined]
            metadata=metadata, timeout=timeout
        )
        return changed

    def _timeout(self, own: float | None, *, unary: bool) -> float | None:
        bounds = [own, running.remaining(), self._peer.timeout_seconds if unary else None]
        return min((bound for bound in bounds if bound is not None), default=None)

    def _done(self, span: Span, call: grpc.aio.Call) -> None:
        # The code is had by awaiting, which a callback cannot; the set keeps the task alive.
        task = asyncio.ensure_future(_finish(span, call))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)


async def _finish(span: Span, call: grpc.aio.Call) -> None:
    code = await call.code()
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code is not grpc.StatusCode.OK:
        span.set_status(Status(StatusCode.ERROR, code.name))
    span.end()


# One class for each arity: grpc.aio sorts interceptors by the first of its four base classes.
class _Base:
    def __init__(self, carrier: _Carrier) -> None:
        self._carrier = carrier


class _UnaryUnary(_Base, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await self._carrier.carried(continuation, client_call_details, request, unary=True)


class _UnaryStream(_Base, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await self._carrier.carried(continuation, client_call_details, request, unary=False)


class _StreamUnary(_Base, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await self._carrier.carried(
            continuation, client_call_details, request_iterator, unary=False
        )


class _StreamStream(_Base, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await self._carrier.carried(
            continuation, client_call_details, request_iterator, unary=False
        )
