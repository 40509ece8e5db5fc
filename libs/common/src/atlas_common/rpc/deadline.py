"""The scope that ends a call's work while its failure can still be told."""

import asyncio
from typing import Any

from atlas_common import errors
from atlas_common.call import remaining, work_until
from atlas_common.config import RpcConfig
from atlas_common.rpc.scope import Call, Proceed

__all__ = ["Deadline", "remaining"]


class Deadline:
    """Gives each call its time to work in.

    A unary call without a deadline gets the default one; a stream without one may go on for ever
    (watching is what streams are for). The work's end lies before the caller's by a reserve, or
    half the time if that is less: an answer that arrives after the deadline is none.
    """

    def __init__(self, config: RpcConfig) -> None:
        self._default_seconds = config.default_deadline_seconds
        self._floor_seconds = config.deadline_floor_ms / 1000
        self._reserve_seconds = config.deadline_reserve_ms / 1000

    async def kept(self, call: Call, proceed: Proceed) -> Any:
        """Raises ServiceError DEADLINE_EXCEEDED / DEADLINE_TOO_SHORT or DEADLINE_EXCEEDED."""
        seconds = self._work_seconds(call)
        if seconds is None:
            return await proceed()
        ends = asyncio.get_running_loop().time() + seconds
        timer = asyncio.timeout_at(ends)
        try:
            with work_until(ends):
                async with timer:
                    return await proceed()
        except TimeoutError:
            if not timer.expired():
                raise  # Some other wait's end, which nobody handled.
            raise errors.deadline_exceeded(
                "DEADLINE_EXCEEDED", f"not done within {seconds:.3f} s"
            ) from None

    def _work_seconds(self, call: Call) -> float | None:
        given: float | None = call.context.time_remaining()
        if given is None:
            return self._default_seconds if call.is_unary else None
        if given < self._floor_seconds:
            raise errors.deadline_exceeded(
                "DEADLINE_TOO_SHORT",
                f"the deadline leaves {max(0.0, given) * 1000:.1f} ms,"
                f" less than the {self._floor_seconds * 1000:g} ms that any work takes",
            )
        return given - min(self._reserve_seconds, given / 2)
