"""A call with a stream of requests and one answer, whose errors are told as they are.

When a server ends a call while its client still sends, grpc.aio sees two ends: the server's status,
and that the message in hand could not be sent, "Internal error from Core". Of the two, whichever
comes later replaces the other; here the server's is found in either order.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import grpc

_SENDING_FAILED = "Internal error from Core"
_STATUS_POLLS_MAX = 100
_STATUS_POLL_SECONDS = 0.01


async def upload(call: Any, requests: Iterable[Any]) -> Any:
    """Send all requests and return the answer. Raises grpc.aio.AioRpcError, and what they raise."""
    first: list[grpc.aio.AioRpcError] = []
    call.add_done_callback(lambda _: first.append(_error_of(call)))  # Called at the first end only.
    try:
        for request in requests:
            await call.write(request)
        await call.done_writing()
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
        pass  # It was over before all was sent.
    except BaseException:
        call.cancel()
        raise
    try:
        return await call
    except grpc.aio.AioRpcError:
        if first and first[0].details() != _SENDING_FAILED:
            raise first[0] from None
        for _ in range(_STATUS_POLLS_MAX):
            error = _error_of(call)
            if error.details() != _SENDING_FAILED:
                raise error from None
            await asyncio.sleep(_STATUS_POLL_SECONDS)
        raise


def _error_of(call: Any) -> grpc.aio.AioRpcError:
    """Make an error of how a call stands that is done."""
    return grpc.aio.AioRpcError(
        _ready(call.code()),
        _ready(call.initial_metadata()),
        _ready(call.trailing_metadata()),
        _ready(call.details()),
        _ready(call.debug_error_string()),
    )


def _ready(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("a call that is done has its status")
