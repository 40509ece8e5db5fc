"""Keys and ids of entities, remembered within a bound of bytes."""

import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from operator import itemgetter

# What an entry takes besides its key: its share of a dictionary and the id. Measured at 400,000
# entries: 82 bytes.
ENTRY_BYTES = 88
_TENANT_BYTES = 256


class EntityIds:
    """Key -> id of many tenants' entities; the ones that were not used for long are forgotten.

    Two generations instead of a chain through all entries: what is found in the old one moves to
    the young one, and when the young one is full it becomes the old one. So a look-up is that of a
    dictionary, by sets, and an entry takes a fourth of what an ordered one would.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError("a cache needs room: max_bytes >= 1")
        self._generation_bytes_max = max(1, max_bytes // 2)
        self._young: dict[int, dict[str, int]] = {}
        self._old: dict[int, dict[str, int]] = {}
        self._young_bytes = 0
        self._old_bytes = 0

    def __len__(self) -> int:
        generations = (self._young, self._old)
        return sum(len(ids) for generation in generations for ids in generation.values())

    @property
    def size_bytes(self) -> int:
        """About what all entries take."""
        return self._young_bytes + self._old_bytes

    def find(self, tenant_id: int, keys: Collection[str]) -> tuple[dict[str, int], list[str]]:
        """Key -> id of those known, and the keys of the others. `keys`: each once."""
        young = self._young.get(tenant_id, _NONE)
        if len(keys) > 1:  # itemgetter answers no tuple for one.
            with suppress(KeyError):  # As a rule all are known: one look-up each, and no loop.
                return dict(zip(keys, itemgetter(*keys)(young), strict=True)), []
        found = {key: young[key] for key in keys if key in young}
        missing = [key for key in keys if key not in found]
        old = self._old.get(tenant_id)
        if not missing or old is None:
            return found, missing
        moved = {key: old[key] for key in missing if key in old}
        if moved:
            self.put(tenant_id, moved)
            found.update(moved)
            missing = [key for key in missing if key not in moved]
        return found, missing

    def put(self, tenant_id: int, ids: Mapping[str, int]) -> None:
        """Remember these."""
        young = self._young.get(tenant_id)
        if young is None:
            young = self._young[tenant_id] = {}
            self._young_bytes += _TENANT_BYTES
        before = len(young)
        young.update(ids)
        # Those that were known are counted as well: rarely, and then for too much.
        if len(young) > before:
            self._young_bytes += ENTRY_BYTES * len(ids) + sum(map(sys.getsizeof, ids))
        if self._young_bytes > self._generation_bytes_max:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0


_NONE: dict[str, int] = {}
