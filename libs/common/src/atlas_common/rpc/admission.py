"""The scope that refuses calls beyond the number that can be worked on."""

from typing import Any

from atlas_common import errors
from atlas_common.rpc.scope import Call, Context, Proceed

_RETRY_AFTER_SECONDS = 0.5


class Admission:
    """Lets in `calls_max` at a time. Health checks pass by: being busy is not being ill.

    A call counts until its status is sent, not until its work is done: what its reader does not
    take is in memory until then.
    """

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self._calls = 0

    async def admitted(self, call: Call, proceed: Proceed) -> Any:
        """Raises ServiceError RESOURCE_EXHAUSTED / OVERLOADED at once, before any work is done."""
        if self._calls >= self._calls_max:
            raise errors.resource_exhausted(
                "OVERLOADED",
                f"{self._calls_max} calls are at work already",
                retry_after=_RETRY_AFTER_SECONDS,
            )
        self._calls += 1
        # The stub's callback is a class of its own, where a function is meant.
        call.context.add_done_callback(self._left)  # type: ignore[arg-type]
        return await proceed()

    def _left(self, _context: Context) -> None:
        self._calls -= 1
