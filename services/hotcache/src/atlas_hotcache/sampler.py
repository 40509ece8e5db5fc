"""Picks cache hits to be compared with the primary. Pure."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atlas_common.tenant import Tenant
from atlas_hotcache.marks import CacheState
from atlas_hotcache.ports import Entity, Lookup

_WAITING_MAX = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """An entity as it was answered from the cache, and the state it was answered by."""

    tenant: Tenant
    entity: Entity
    state: CacheState


class Sampler:
    """A share of all hits, as many as there is room for: the checker's pace is the bound."""

    def __init__(
        self,
        share: float,
        pick: Callable[[int], int] = random.randrange,
    ) -> None:
        """`pick`: one of so many, from 0."""
        self._share = share
        self._pick = pick
        self._due = 0.0
        self._samples: asyncio.Queue[Sample] = asyncio.Queue(_WAITING_MAX)

    def offer(self, tenant: Tenant, lookup: Lookup, hits: Mapping[int, Entity]) -> None:
        """These were answered. Returns at once, and drops what nobody has time for."""
        self._due += self._share * len(hits)
        if self._due < 1 or lookup.state is None:
            return
        self._due %= 1  # One of a call is enough, even if it owes more.
        if not self._samples.full():
            entity = list(hits.values())[self._pick(len(hits))]
            self._samples.put_nowait(Sample(tenant, entity, lookup.state))

    async def next(self) -> Sample:
        """The next one, when there is one."""
        return await self._samples.get()
