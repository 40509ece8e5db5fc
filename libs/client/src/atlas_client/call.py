"""The one way calls leave this client: tenant, request id, deadline, retries, trace context."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message
from opentelemetry import propagate, trace

from atlas.wire.channel import RenewedChannel
from atlas_client.errors import AtlasError
from atlas_client.retry import within_deadline
from atlas_client.security import Security, Token
from atlas_client.upload import upload

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_TENANT_KEY = "x-atlas-tenant"
_REQUEST_ID_KEY = "x-request-id"
_AUTHORIZATION_KEY = "authorization"
_MESSAGE_BYTES_MAX = 16 * 1024 * 1024

_tracer = trace.get_tracer("atlas_client")

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
    # gRPC's own reconnect backoff grows to two minutes: a service that was restarted would stay
    # "unavailable" for as long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # In truth how long one attempt to connect may take.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_http_proxy", 0),  # Services are inside; a proxy of the environment leads out.
)


def open_channel(
    target: str, security: "grpc.ChannelCredentials | Security | None"
) -> grpc.aio.Channel:
    """Make a channel, without connecting yet; plain text when there is no security.

    Raises ValueError if the files of `security` cannot be used.
    """
    if isinstance(security, Security):
        security.check(target)
        if security.is_tls:
            return _renewed_channel(target, security)
        security = None
    if security is None:
        return grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(target, security, options=_CHANNEL_OPTIONS)


def _renewed_channel(target: str, security: Security) -> grpc.aio.Channel:
    options: tuple[tuple[str, Any], ...] = _CHANNEL_OPTIONS
    if security.server_name is not None:
        options = (*options, ("grpc.ssl_target_name_override", security.server_name))

    def opened(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(target, credentials, options=options)

    return RenewedChannel(security.pem(), opened)


class Caller:
    """Makes calls for one tenant."""

    def __init__(
        self,
        tenant: str | None,
        timeout_seconds: float,
        metadata: Sequence[tuple[str, str]],
        token: Token | None = None,
    ) -> None:
        self.tenant = tenant
        self.timeout_seconds = timeout_seconds
        """The deadline of calls that name none."""
        self._metadata = tuple(metadata)
        self._token = token

    def for_tenant(self, tenant: str) -> "Caller":
        """Return a caller of another tenant."""
        return Caller(tenant, self.timeout_seconds, self._metadata, self._token)

    async def unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        repeatable: bool = True,
        request_id: str | None = None,
    ) -> Response:
        """Make a call with one answer. Raises AtlasError."""
        with self._span(method, request_id) as metadata:

            async def once(seconds: float) -> Response:
                return await method(request, timeout=seconds, metadata=metadata)

            return await within_deadline(
                once, timeout=timeout or self.timeout_seconds, repeatable=repeatable
            )

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[Response]:
        """Make a call with a stream of answers; repeated only as long as none has come.

        The deadline is that of the whole stream. Closing the iterator cancels the call.
        """
        with self._span(method, None) as metadata:
            opened: grpc.aio.UnaryStreamCall[Request, Response] | None = None

            async def begin(seconds: float) -> Response | None:
                nonlocal opened
                opened = method(request, timeout=seconds, metadata=metadata)
                return await _read(opened)

            try:
                answer = await within_deadline(
                    begin, timeout=timeout or self.timeout_seconds, repeatable=True
                )
                assert opened is not None
                while answer is not None:
                    yield answer
                    answer = await _read(opened)
            except grpc.aio.AioRpcError as error:
                raise AtlasError.from_rpc(error) from error
            finally:
                if opened is not None:
                    opened.cancel()  # Nothing happens when it is over.

    async def endless(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        silence: float,
    ) -> AsyncIterator[Response]:
        """Make a call with a stream that has no end and no deadline; nothing is repeated.

        `silence`: after so many seconds without an answer the other side counts as dead, which
        raises UNAVAILABLE. Closing the iterator cancels the call. Raises AtlasError.
        """
        with self._span(method, None) as metadata:
            opened = method(request, metadata=metadata)
            try:
                while True:
                    async with asyncio.timeout(silence):
                        answer = await _read(opened)
                    if answer is None:
                        return
                    yield answer
            except TimeoutError:
                raise AtlasError(
                    grpc.StatusCode.UNAVAILABLE, "", f"nothing came for {silence:.1f} s"
                ) from None
            except grpc.aio.AioRpcError as error:
                raise AtlasError.from_rpc(error) from error
            finally:
                opened.cancel()

    async def upload(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[Request, Response],
        requests: Callable[[], Iterable[Request]],
        *,
        timeout: float | None = None,
        repeatable: bool = True,
        request_id: str | None = None,
    ) -> Response:
        """Make a call with a stream of requests and one answer. Raises AtlasError.

        `requests` is called for each attempt. What it raises ends the call and is raised here.
        """
        with self._span(method, request_id) as metadata:

            async def once(seconds: float) -> Response:
                call = method(timeout=seconds, metadata=metadata)
                answer: Response = await upload(call, requests())
                return answer

            return await within_deadline(
                once, timeout=timeout or self.timeout_seconds, repeatable=repeatable
            )

    @asynccontextmanager
    async def exchange(
        self, method: grpc.aio.StreamStreamMultiCallable[Any, Any]
    ) -> AsyncIterator[Any]:
        """Make a call with streams both ways: without a deadline, cancelled when the block ends.

        Nothing is repeated. The block's errors of the call become AtlasError.
        """
        with self._span(method, None) as metadata:
            call = method(metadata=metadata)
            try:
                yield call
            except asyncio.InvalidStateError as error:  # Written to when it was over.
                code, text = await call.code(), await call.details()
                raise AtlasError(code, "", text or "the call has ended") from error
            except grpc.aio.AioRpcError as error:
                raise AtlasError.from_rpc(error) from error
            finally:
                call.cancel()

    @contextmanager
    def _span(
        self, method: object, request_id: str | None
    ) -> Iterator[tuple[tuple[str, str], ...]]:
        """A client span around the call; gives the call's metadata.

        The span is not made current: this also surrounds a generator's yields, between which the
        consumer's own context must stay as it is.
        """
        name = _full_name(method)
        span = _tracer.start_span(name, kind=trace.SpanKind.CLIENT)
        span.set_attribute("rpc.system", "grpc")
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        own = {_REQUEST_ID_KEY: request_id or str(uuid.uuid4()), **carrier}
        if self.tenant is not None:
            own[_TENANT_KEY] = self.tenant
        if self._token is not None:
            token = self._token if isinstance(self._token, str) else self._token()
            own[_AUTHORIZATION_KEY] = f"Bearer {token}"
        try:
            yield (*own.items(), *self._metadata)
        except AtlasError as error:
            span.set_status(trace.StatusCode.ERROR, str(error))
            raise
        finally:
            span.end()


async def _read(call: grpc.aio.UnaryStreamCall[Request, Response]) -> Response | None:
    answer = await call.read()
    return None if answer is grpc.aio.EOF else cast("Response", answer)


def _full_name(method: object) -> str:
    """Return "atlas.ingest.v1.IngestService/Write"."""
    path = getattr(method, "_method", b"")
    return (path.decode() if isinstance(path, bytes) else str(path)).lstrip("/") or "atlas"
