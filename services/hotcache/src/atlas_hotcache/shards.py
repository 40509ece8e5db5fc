"""The caches that share the tenants among them, and what is known of each. Pure.

One where there is one server; in a cluster as many as are configured (see layout.py). Each has its
own generation and marks: a node that fails, or comes back with old data, costs its shards only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atlas_hotcache.marks import CacheState
from atlas_hotcache.ports import Cache


@dataclass(eq=False, slots=True)
class Shard:
    """A cache and what was seen of it last."""

    cache: Cache
    state: CacheState | None = None
    """None: not known; before the first look, and since its generation was ended."""
    distrusted: str | None = None
    """Why everything in it is to be forgotten."""
    gap: str | None = None
    """Which flush's invalidation is known to be missing."""
    evicted_count: int | None = None
    """What the server had evicted when it was asked last; None if never."""
    is_connected: bool = False
    """Whether the server answered when it was asked last."""


class Shards:
    """All of them."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self._shards = tuple(Shard(cache) for cache in caches)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)

    def of(self, tenant_id: int) -> Shard:
        """The shard that has the tenant's entries."""
        return self._shards[tenant_id % len(self._shards)]
