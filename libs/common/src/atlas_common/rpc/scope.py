"""A server that runs every call inside a list of scopes, whatever the call's arity.

A scope is a function around the call: it does what it does, awaits `proceed()`, which is the next
scope and in the end the handler, and returns its answer. All run in the task of the call: context
variables that a scope sets are seen by the handler and by the iteration of its stream, and a
cancelled stream is closed here and now. (Generators nested in generators, the usual way to
intercept streams, are closed by the garbage collector, in another context.)
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio

from atlas_common import errors
from atlas_common.rpc.parsing import parsed_each, parser

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # Generic for the type checker alone.
Context = grpc.aio.ServicerContext[Any, Any]
_RETRY_AFTER_SECONDS = 1.0
INFRASTRUCTURE = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})


@dataclass(slots=True)
class Call:
    """A call as the scopes see it; the errors scope notes how it ended."""

    method: str
    """As in "/atlas.query.v1.QueryService/GetEntities"."""
    request_streaming: bool
    response_streaming: bool
    metadata: Sequence[tuple[str, str | bytes]]
    context: Context
    sent: Any = None
    """The request's bytes, or a stream of them; see `request`."""
    parse: Callable[[Any], Any] | None = None
    """Makes of `sent` what the handler takes; None once that is done."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    """What the access log shall tell besides."""

    @property
    def is_unary(self) -> bool:
        """One request, one response."""
        return not (self.request_streaming or self.response_streaming)

    def request(self) -> Any:
        """What the handler takes, a message or a stream of them, parsed when first asked for.

        Raises ServiceError as `parsing.parser`.
        """
        if self.parse is not None:
            self.sent, self.parse = self.parse(self.sent), None
        return self.sent

    def text_metadata(self) -> Mapping[str, str]:
        """The metadata with text values; of a repeated key the last."""
        return {key: value for key, value in self.metadata if isinstance(value, str)}


Proceed: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]
Scope: TypeAlias = Callable[[Call, Proceed], Coroutine[Any, Any, Any]]
Behavior: TypeAlias = Callable[[Any, Context], Any]


class ScopedServer(grpc.aio.Server):
    """A server whose calls run in scopes, the first of them outermost.

    Each method's handler is wrapped once. An interceptor, gRPC's way, makes one for every call: a
    tenth of what a small call costs. gRPC's own services, health and reflection, run as they are.
    `stalled_seconds`: how long the reader of a stream may take nothing.
    """

    def __init__(
        self, server: grpc.aio.Server, scopes: Sequence[Scope], *, stalled_seconds: float
    ) -> None:
        self._server = server
        self._inwards = tuple(reversed(scopes))
        self._stalled_seconds = stalled_seconds

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]
    ) -> None:
        """Serve these, each method within the scopes."""
        self._server.add_generic_rpc_handlers(
            [
                handler
                if _is_infrastructure(handler)
                else _Scoped(handler, self._inwards, self._stalled_seconds)
                for handler in generic_rpc_handlers
            ]
        )

    def add_insecure_port(self, address: str) -> int:
        """As gRPC's."""
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """As gRPC's."""
        return self._server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """As gRPC's."""
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        """As gRPC's."""
        await self._server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """As gRPC's."""
        return await self._server.wait_for_termination(timeout)


class _Scoped(grpc.GenericRpcHandler):
    """A service's methods, each of them wrapped when it is called first."""

    def __init__(
        self, handlers: grpc.GenericRpcHandler, inwards: Sequence[Scope], stalled_seconds: float
    ) -> None:
        self._handlers = handlers
        self._inwards = inwards
        self._stalled_seconds = stalled_seconds
        self._methods: dict[str, Handler] = {}  # Those that are served; nobody else's names.

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """The method's handler; an unknown method is left to gRPC, which refuses it."""
        name = handler_call_details.method
        known = self._methods.get(name)
        if known is None:
            handler = self._handlers.service(handler_call_details)
            if handler is None:
                return None
            known = self._methods[name] = self._wrapped(name, handler)
        return known

    def _wrapped(self, name: str, handler: Handler) -> Handler:
        behavior, make = _parts(handler)
        around = self._stream if handler.response_streaming else self._unary
        wrapped: Handler = make(
            around(name, handler, behavior),
            request_deserializer=None,  # Within the scopes: strangers have nothing parsed.
            response_serializer=_encoder(handler),
        )
        return wrapped

    def _unary(self, name: str, handler: Handler, behavior: Behavior) -> Behavior:
        requested = _requested(handler)

        async def unary(request: Any, context: Context) -> Any:
            call = _call(name, handler, context, request, requested)

            async def handled() -> Any:
                return await behavior(call.request(), context)

            return await self._within(call, handled)

        return unary

    def _stream(self, name: str, handler: Handler, behavior: Behavior) -> Behavior:
        requested = _requested(handler)

        async def stream(request: Any, context: Context) -> None:
            call = _call(name, handler, context, request, requested)

            async def handled() -> None:
                produced = behavior(call.request(), context)
                if isinstance(produced, AsyncIterator):
                    await _written(produced, context, self._stalled_seconds)
                else:  # A coroutine, which calls context.write() itself.
                    await produced

            await self._within(call, handled)

        return stream

    def _within(self, call: Call, proceed: Proceed) -> Coroutine[Any, Any, Any]:
        for scope in self._inwards:
            proceed = partial(scope, call, proceed)
        return proceed()


def _is_infrastructure(handler: grpc.GenericRpcHandler) -> bool:
    """Health checks and reflection: no tenant's, never refused, not counted, not logged."""
    return isinstance(handler, grpc.ServiceRpcHandler) and handler.service_name() in INFRASTRUCTURE


def _call(
    name: str,
    handler: Handler,
    context: Context,
    request: Any,
    requested: Callable[[Any], Any],
) -> Call:
    return Call(
        method=name,
        request_streaming=handler.request_streaming,
        response_streaming=handler.response_streaming,
        metadata=tuple(context.invocation_metadata() or ()),
        context=context,
        sent=request,
        parse=requested,
    )


def _requested(handler: Handler) -> Callable[[Any], Any]:
    """From what gRPC gives, bytes or a stream of them, to what the handler takes.

    Were gRPC to parse, it would answer UNKNOWN, with the exception's text, where that raises.
    """
    parse = parser(handler.request_deserializer)
    if handler.request_streaming:
        return lambda requests: parsed_each(requests, parse)
    return parse


def _encoder(handler: Handler) -> Callable[[Any], bytes] | None:
    """The method's encoder. A handler may answer with bytes: its message, encoded already."""
    encode = handler.response_serializer
    if encode is None:
        return None

    def encoded(message: Any) -> bytes:
        return message if isinstance(message, bytes) else encode(message)

    return encoded


async def _written(messages: AsyncIterator[Any], context: Context, stalled_seconds: float) -> None:
    """Raises ServiceError RESOURCE_EXHAUSTED / OVERLOADED when the reader does not read."""
    async with AsyncExitStack() as stack:
        if hasattr(messages, "aclose"):
            stack.push_async_callback(messages.aclose)
        is_begun = False
        async for message in messages:
            if not is_begun:
                # By itself: gRPC would send it with the message, and again with the status of a
                # call whose first message was given up, which then never goes out.
                await context.send_initial_metadata(())
                is_begun = True
            await _taken(message, context, stalled_seconds)


async def _taken(message: Any, context: Context, stalled_seconds: float) -> None:
    # HTTP/2 holds us up while the reader's window is full. What the stream's making holds meanwhile
    # (a snapshot, a connection, a place among the watches) others wait for.
    try:
        async with asyncio.timeout(stalled_seconds):
            await context.write(message)
    except TimeoutError:
        raise errors.resource_exhausted(
            "OVERLOADED",
            f"nothing was read for {stalled_seconds:g} s: read faster, or ask for less at a time",
            retry_after=_RETRY_AFTER_SECONDS,
        ) from None


def _parts(handler: Handler) -> tuple[Behavior, Callable[..., Any]]:
    """The handler's function, and the constructor of a handler of the same arity."""
    if handler.request_streaming and handler.response_streaming:
        return handler.stream_stream, grpc.stream_stream_rpc_method_handler  # type: ignore[return-value]
    if handler.request_streaming:
        return handler.stream_unary, grpc.stream_unary_rpc_method_handler  # type: ignore[return-value]
    if handler.response_streaming:
        return handler.unary_stream, grpc.unary_stream_rpc_method_handler  # type: ignore[return-value]
    return handler.unary_unary, grpc.unary_unary_rpc_method_handler  # type: ignore[return-value]
