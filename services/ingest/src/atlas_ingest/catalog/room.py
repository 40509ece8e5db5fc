"""How many entities a tenant may still make, without counting them each time."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from atlas_common.cache import TtlCache

_TENANTS_MAX = 10_000
_BELIEVED_SECONDS = 60.0  # Other processes make entities, too.
_RECOUNT_SECONDS = 1.0  # A tenant at its quota must not have its entities counted by each call.


@dataclass(slots=True)
class _Count:
    entities: int
    at: float


class EntityRoom:
    """Counts a tenant's entities once a minute, and before anything is refused once a second.

    So a quota is passed by what other processes, and calls at the same moment, make meanwhile. To
    be exact, all that makes entities would have to wait for one row of its tenant.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts = TtlCache[int, _Count](_TENANTS_MAX, _BELIEVED_SECONDS, clock)

    async def left(
        self, tenant_id: int, *, wanted: int, most: int, count: Callable[[], Awaitable[int]]
    ) -> int:
        """How many there may be more, of `most`; `wanted` and anything above are the same."""
        known = self._counts.get(tenant_id)
        now = self._clock()
        if known is None or (most - known.entities < wanted and now - known.at >= _RECOUNT_SECONDS):
            known = _Count(await count(), now)
            self._counts.put(tenant_id, known)
        return max(0, most - known.entities)

    def made(self, tenant_id: int, entities: int) -> None:
        """Take note of what was made."""
        known = self._counts.get(tenant_id)
        if known is not None:
            known.entities += entities
