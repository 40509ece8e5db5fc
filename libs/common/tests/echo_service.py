"""A service of bytes in all four arities, whose requests say what shall happen."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import grpc
import grpc.aio
import psycopg

from atlas_common import errors
from atlas_common.call import remaining, request_id
from atlas_common.errors import ServiceError
from atlas_common.tenant import tenant_or_none

NAME = "atlas.test.v1.Echo"
ARITIES = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
Context = grpc.aio.ServicerContext[Any, Any]


class Echo:
    """Requests: see `act`. Notes what became of its calls."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    async def UnaryUnary(self, request: bytes, context: Context) -> bytes:  # noqa: N802
        return await self.act(request, context)

    async def UnaryStream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:  # noqa: N802
        if request.startswith(b"flood"):
            size = 2**23 if request.endswith(b"at once") else 2**20
            async with aclosing(self._flood(size)) as flood:
                async for message in flood:
                    yield message
        yield b"first"
        yield await self.act(request, context)

    async def StreamUnary(self, requests: AsyncIterator[bytes], context: Context) -> bytes:  # noqa: N802
        answer = b""
        async for request in requests:
            answer = await self.act(request, context)
        return answer

    async def StreamStream(  # noqa: N802
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        yield b"first"
        async for request in requests:
            yield await self.act(request, context)

    async def Written(self, request: bytes, context: Context) -> None:  # noqa: N802
        """A stream in the other style: with context.write()."""
        await context.write(b"first")
        await context.write(await self.act(request, context))

    async def act(self, request: bytes, context: Context) -> bytes:  # noqa: C901
        """Do what the request says; answers who asked, or fails as told."""
        context.set_trailing_metadata((("x-data-source", "primary"),))
        match request:
            case b"service error":
                raise errors.not_found("ENTITY_UNKNOWN", "no pump", field="key", key="pump")
            case b"database error":
                raise psycopg.errors.SerializationFailure("row (secret)")
            case b"bug":
                raise RuntimeError("secret")
            case b"own timeout":
                raise TimeoutError("secret")
            case b"abort":
                await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
            case b"peer away":
                raise grpc.aio.AioRpcError(
                    grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "secret"
                )
            case b"peer refuses":
                raise grpc.aio.AioRpcError(
                    grpc.StatusCode.INVALID_ARGUMENT, grpc.aio.Metadata(), grpc.aio.Metadata(), "s"
                )
            case b"wait":
                await self._wait()
            case b"time":
                return repr(remaining()).encode()
            case b"who":
                tenant = tenant_or_none()
                return f"{tenant.key if tenant else None} {request_id()}".encode()
        return request

    async def _flood(self, size: int) -> AsyncGenerator[bytes, None]:
        """More than the connection takes: writing waits for the reader."""
        try:
            while True:
                self.started.set()
                yield bytes(size)
        finally:
            tenant = tenant_or_none()
            self.ended.put_nowait(f"closed as {tenant.key if tenant else None}")

    async def _wait(self) -> None:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.ended.put_nowait("cancelled")
            raise
        self.ended.put_nowait("released")


def add(echo: Echo, server: grpc.aio.Server) -> None:
    """As the generated add_XServicer_to_server."""
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                NAME,
                {
                    "UnaryUnary": grpc.unary_unary_rpc_method_handler(echo.UnaryUnary),
                    "UnaryStream": grpc.unary_stream_rpc_method_handler(echo.UnaryStream),
                    "StreamUnary": grpc.stream_unary_rpc_method_handler(echo.StreamUnary),
                    "StreamStream": grpc.stream_stream_rpc_method_handler(echo.StreamStream),
                    "Written": grpc.unary_stream_rpc_method_handler(echo.Written),
                },
            ),
        )
    )


async def call(
    channel: grpc.aio.Channel,
    arity: str,
    request: bytes,
    first: asyncio.Event | None = None,
    **options: Any,
) -> list[bytes]:
    """Make one call, whatever its arity; the responses. `first` is set when one has come."""
    path, calls = f"/{NAME}/{arity}", cast("Any", channel)

    async def requests() -> AsyncIterator[bytes]:
        yield request

    match arity:
        case "UnaryUnary":
            return [await calls.unary_unary(path)(request, **options)]
        case "StreamUnary":
            return [await calls.stream_unary(path)(requests(), **options)]
        case "StreamStream":
            stream = calls.stream_stream(path)(requests(), **options)
        case _:
            stream = calls.unary_stream(path)(request, **options)
    answers = []
    async for message in stream:
        answers.append(message)
        if first is not None:
            first.set()
    return answers


async def failure(
    channel: grpc.aio.Channel, arity: str, request: bytes, **options: Any
) -> tuple[ServiceError, dict[str, Any]]:
    """Make a call that must fail; its error and trailers."""
    for _ in range(10):
        try:
            answer = await call(channel, arity, request, **options)
        except grpc.aio.AioRpcError as error:
            # What gRPC's client says when it still writes to a call that was refused meanwhile:
            # it does not wait for the status then.
            if error.details() != "Internal error from Core":
                return errors.from_rpc_error(error), dict(error.trailing_metadata() or ())
        else:
            raise AssertionError(f"the call succeeded: {answer!r}")
    raise AssertionError("the status never arrived")
