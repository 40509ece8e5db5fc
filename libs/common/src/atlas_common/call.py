"""What the running call carries besides its tenant: its request id and its time."""

import asyncio
from contextvars import ContextVar

from atlas_common.scoped import Scoped

_request_id: ContextVar[str | None] = ContextVar("atlas_request_id", default=None)
_work_ends: ContextVar[float | None] = ContextVar("atlas_work_ends", default=None)


def request_id() -> str | None:
    """The id of the running call, its caller's or made here; None outside a call."""
    return _request_id.get()


def remaining() -> float | None:
    """Seconds left to work in (never below 0), None where nobody waits with a deadline."""
    ends = _work_ends.get()
    return None if ends is None else max(0.0, ends - asyncio.get_running_loop().time())


def request_context(id_: str) -> Scoped[str]:
    """Run the block as work of the request with this id."""
    return Scoped(_request_id, id_)


def work_until(ends: float | None) -> Scoped[float | None]:
    """Run the block with its end at this time of the running loop's clock."""
    return Scoped(_work_ends, ends)
