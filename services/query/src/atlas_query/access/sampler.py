"""Counts what is asked for, some of the reads for all of them. Pure: chance is given.

Of the reads one in `every` is counted, `every` times. The gaps between counted ones are drawn
(geometrically), so that each call is counted with the same chance whatever rhythm callers have, and
the counts are right on average. A read that is not counted costs one subtraction. Filters are few
and each is counted: that there is one in a day decides something.
"""

import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

HOT_SCOPE = ""
"""In place of a name: whatever is hot. No attribute has it."""
_SCOPE: tuple[str, ...] = (HOT_SCOPE,)


class Count(NamedTuple):
    """What was asked for of an attribute of a tenant, estimated."""

    tenant_id: int
    name: str
    reads: int
    """Latest values, one per entity."""
    filters: int
    """Filters that have the attribute in them."""


class AccessSampler:
    """What was asked for since it was last taken; bounded by the names it holds.

    `chance` draws from [0, 1).
    """

    def __init__(self, every: int, names_max: int, chance: Callable[[], float]) -> None:
        if every < 1:
            raise ValueError("one call in at least one is counted")
        self._every = every
        self._names_max = names_max
        self._chance = chance
        self._gap = self._next_gap()
        # By the names as they were asked for together: they are hashed once a call, not each.
        self._reads: dict[tuple[int, tuple[str, ...]], int] = {}
        self._filters: dict[tuple[int, tuple[str, ...]], int] = {}
        self._name_count = 0
        self.dropped = 0
        """Calls that were to be counted and had no room, since it was last taken."""

    def read(self, tenant_id: int, names: tuple[str, ...], entity_count: int) -> None:
        """A call asked for the latest values of entities; of no names: for whatever is hot."""
        self._gap -= 1
        if self._gap > 0:
            return
        self._gap = self._next_gap()
        self._add(self._reads, (tenant_id, names or _SCOPE), entity_count)

    def filter(self, tenant_id: int, names: tuple[str, ...]) -> None:
        """A call asked which entities match a filter over these attributes."""
        if names:
            self._add(self._filters, (tenant_id, names), 1)

    def take(self) -> Iterator[Count]:
        """What was counted, an attribute perhaps several times; it is forgotten here.

        Put together while it is gone through: there may be much of it, and calls wait.
        """
        reads, filters = self._reads, self._filters
        self._reads, self._filters, self._name_count, self.dropped = {}, {}, 0, 0
        return chain(
            (Count(tenant, name, number * self._every, 0) for tenant, name, number in _each(reads)),
            (Count(tenant, name, 0, number) for tenant, name, number in _each(filters)),
        )

    def _add(
        self,
        counted: dict[tuple[int, tuple[str, ...]], int],
        key: tuple[int, tuple[str, ...]],
        number: int,
    ) -> None:
        known = counted.get(key)
        if known is None:
            if self._name_count + len(key[1]) > self._names_max:
                self.dropped += 1
                return
            self._name_count += len(key[1])
            known = 0
        counted[key] = known + number

    def _next_gap(self) -> int:
        if self._every == 1:
            return 1
        # How many tries it takes until something of chance 1 / every happens.
        return 1 + int(math.log(1.0 - self._chance()) / math.log(1.0 - 1.0 / self._every))


def _each(counted: dict[tuple[int, tuple[str, ...]], int]) -> Iterator[tuple[int, str, int]]:
    """Tenant, name and number, of each name."""
    for (tenant_id, names), number in counted.items():
        for name in dict.fromkeys(names):
            yield tenant_id, name, number
