"""Repeating calls: only those that may be repeated, and never beyond their deadline."""

import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import stamina

from atlas_client.errors import AtlasError

T = TypeVar("T")

_BACKOFF_SECONDS_MIN = 0.05
_BACKOFF_SECONDS_MAX = 1.0
_DOUBLINGS_MAX = 10


async def within_deadline(
    attempt_once: Callable[[float], Awaitable[T]], *, timeout: float, repeatable: bool
) -> T:
    """Call `attempt_once(seconds left)`, again and again if it may be, until the deadline.

    It is called again after transient errors only (AtlasError.is_transient), after the time the
    service asked for, else with jittered, doubling backoff. Raises AtlasError: the last one.
    """
    deadline = time.monotonic() + timeout
    attempts = 0

    def backoff(error: Exception) -> float | bool:
        nonlocal attempts
        attempts += 1
        if not (repeatable and isinstance(error, AtlasError) and error.is_transient):
            return False
        doubled = _BACKOFF_SECONDS_MIN * 2 ** min(attempts - 1, _DOUBLINGS_MAX)
        # Half of it is random: callers that failed together do not come back together.
        pause = min(doubled, _BACKOFF_SECONDS_MAX) * random.uniform(0.5, 1.0)  # noqa: S311
        pause = max(pause, error.retry_after or 0.0)
        # No sleep past the deadline: the error in hand says more than DEADLINE_EXCEEDED would.
        return pause if time.monotonic() + pause < deadline else False

    async for attempt in stamina.retry_context(on=backoff, attempts=None, timeout=None):
        with attempt:
            try:
                return await attempt_once(max(deadline - time.monotonic(), 0.001))
            except grpc.aio.AioRpcError as error:
                raise AtlasError.from_rpc(error) from error
    raise AssertionError("unreachable: the last attempt returns or raises")
