"""One interceptor that runs every call inside a list of scopes, whatever the call's arity.

A scope is a function around the call: it does what it does, awaits `proceed()`, which is the next
scope and in the end the handler, and returns its answer. All run in the task of the call: context
variables that a scope sets are seen by the handler and by the iteration of its stream, and a
cancelled stream is closed here and now. (Generators nested in generators, the usual way to
intercept streams, are closed by the garbage collector, in another context.)
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from atlas_common import errors

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # Generic for the type checker alone.
Context = grpc.aio.ServicerContext[Any, Any]
INFRASTRUCTURE = ("/grpc.health.", "/grpc.reflection.")


@dataclass(slots=True)
class Call:
    """A call as the scopes see it; the errors scope notes how it ended."""

    method: str
    """As in "/atlas.query.v1.QueryService/GetEntities"."""
    request_streaming: bool
    response_streaming: bool
    metadata: Sequence[tuple[str, str | bytes]]
    context: Context
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    """What the access log shall tell besides."""

    @property
    def is_infrastructure(self) -> bool:
        """Health checks and reflection: no tenant's, not counted, not logged."""
        return self.method.startswith(INFRASTRUCTURE)

    @property
    def is_unary(self) -> bool:
        """One request, one response."""
        return not (self.request_streaming or self.response_streaming)

    def text_metadata(self) -> Mapping[str, str]:
        """The metadata with text values; of a repeated key the last."""
        return {key: value for key, value in self.metadata if isinstance(value, str)}


Proceed: TypeAlias = Callable[[], Awaitable[Any]]
Scope: TypeAlias = Callable[[Call, Proceed], Awaitable[Any]]
Behavior: TypeAlias = Callable[[Any, Context], Any]


@dataclass(frozen=True, slots=True)
class _Method:
    """What is the same in every call of a method."""

    handler: Handler
    behavior: Behavior
    parse: Callable[[bytes], Any] | None
    encode: Callable[[Any], bytes] | None
    make: Callable[..., Handler]


class ScopedInterceptor(grpc.aio.ServerInterceptor):
    """Runs each call in the scopes, the first of them outermost."""

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self._inwards = tuple(reversed(scopes))
        self._methods: dict[str, _Method] = {}  # Those that are served; nobody else's names.

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the method's handler; an unknown method is left to gRPC, which refuses it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = self._method(handler_call_details.method, handler)
        around = self._stream if handler.response_streaming else self._unary
        return method.make(
            around(method, handler_call_details),
            request_deserializer=method.parse,
            response_serializer=method.encode,
        )

    def _method(self, name: str, handler: Handler) -> _Method:
        known = self._methods.get(name)
        if known is None or known.handler is not handler:
            behavior, make = _parts(handler)
            known = self._methods[name] = _Method(
                handler, behavior, _parser(handler), _encoder(handler), make
            )
        return known

    def _unary(self, method: _Method, details: grpc.HandlerCallDetails) -> Behavior:
        async def unary(request: Any, context: Context) -> Any:
            async def handled() -> Any:
                return await method.behavior(_parsed(request), context)

            return await self._within(_call(method, details, context), handled)

        return unary

    def _stream(self, method: _Method, details: grpc.HandlerCallDetails) -> Behavior:
        async def stream(request: Any, context: Context) -> None:
            async def handled() -> None:
                produced = method.behavior(_parsed(request), context)
                if isinstance(produced, AsyncIterator):
                    await _written(produced, context)
                else:  # A coroutine, which calls context.write() itself.
                    await produced

            await self._within(_call(method, details, context), handled)

        return stream

    def _within(self, call: Call, proceed: Proceed) -> Awaitable[Any]:
        for scope in self._inwards:
            proceed = partial(scope, call, proceed)
        return proceed()


def _call(method: _Method, details: grpc.HandlerCallDetails, context: Context) -> Call:
    return Call(
        method=details.method,
        request_streaming=method.handler.request_streaming,
        response_streaming=method.handler.response_streaming,
        metadata=tuple(details.invocation_metadata or ()),
        context=context,
    )


@dataclass(frozen=True, slots=True)
class _Unparsed:
    """Stands in for a request that is no message, until the scopes can report it."""

    problem: str


def _parser(handler: Handler) -> Callable[[bytes], Any] | None:
    """The method's parser. gRPC would answer UNKNOWN, with the exception's text, where it raises.

    Of streams the messages go straight to the handler: there it stays so.
    """
    parse = handler.request_deserializer
    if parse is None or handler.request_streaming:
        return parse

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return _Unparsed(str(error))

    return parsed


def _encoder(handler: Handler) -> Callable[[Any], bytes] | None:
    """The method's encoder. A handler may answer with bytes: its message, encoded already."""
    encode = handler.response_serializer
    if encode is None:
        return None

    def encoded(message: Any) -> bytes:
        return message if isinstance(message, bytes) else encode(message)

    return encoded


def _parsed(request: Any) -> Any:
    if isinstance(request, _Unparsed):
        raise errors.invalid_argument("INVALID_FIELD", f"no valid message: {request.problem}")
    return request


async def _written(messages: AsyncIterator[Any], context: Context) -> None:
    if hasattr(messages, "aclose"):
        async with aclosing(messages):  # type: ignore[type-var]
            async for message in messages:
                await context.write(message)
    else:
        async for message in messages:
            await context.write(message)


def _parts(handler: Handler) -> tuple[Behavior, Callable[..., Any]]:
    """The handler's function, and the constructor of a handler of the same arity."""
    if handler.request_streaming and handler.response_streaming:
        return handler.stream_stream, grpc.stream_stream_rpc_method_handler  # type: ignore[return-value]
    if handler.request_streaming:
        return handler.stream_unary, grpc.stream_unary_rpc_method_handler  # type: ignore[return-value]
    if handler.response_streaming:
        return handler.unary_stream, grpc.unary_stream_rpc_method_handler  # type: ignore[return-value]
    return handler.unary_unary, grpc.unary_unary_rpc_method_handler  # type: ignore[return-value]
