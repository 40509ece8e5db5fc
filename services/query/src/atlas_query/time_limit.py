"""A time limit that holds even when the server that is waited for hangs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_END_SECONDS = 0.1
_CANCELS_MAX = 5


async def within(seconds: float | None, work: Callable[[], Awaitable[T]]) -> T:
    """The outcome of `work`, or TimeoutError; None: no limit.

    A cancelled query is not gone at once: psycopg asks the server to cancel it, and waits up to ten
    seconds for a server that hangs. Cancelled a second time it closes the connection instead, which
    is all that can be done there; asyncio.timeout cancels once only.
    """
    if seconds is None:
        return await work()
    task = asyncio.ensure_future(_awaited(work))
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()
    finally:
        await _end(task)


async def _end(task: "asyncio.Task[T]") -> None:
    for _ in range(_CANCELS_MAX):
        if task.done():
            break
        task.cancel()
        await asyncio.wait({task}, timeout=_END_SECONDS)
    if task.done() and not task.cancelled():
        task.exception()  # Seen: what it failed with, being cancelled, is of no interest.


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
