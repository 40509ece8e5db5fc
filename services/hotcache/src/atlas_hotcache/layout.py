"""Where things are in Valkey: the keys of entries, and of the state that speaks for them. Pure.

In a cluster a script reaches one hash slot, and the proof in marks.py needs entries and their state
in one script. So a tenant's entries lie in one slot, together with a state of their own: a shard.
The shards are so many independent caches, each with its generation and marks.
"""

from binascii import crc_hqx
from collections.abc import Sequence
from dataclasses import dataclass

SLOTS = 16_384
_SALTS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one shard. `tag`: what is hashed of them in a cluster; empty elsewhere."""

    tag: str = ""

    @property
    def state_key(self) -> str:
        """The hash of all that is believed: marks, generation, which server, which primary."""
        return f"cache:marks:{{{self.tag}}}" if self.tag else "cache:marks"

    def entity_key(self, tenant_id: int, entity_id: int) -> str:
        """The key of an entity's entry. The tenant comes before the id: none reaches another's."""
        shard = f"{{{self.tag}}}:" if self.tag else ""
        return f"entity:{shard}{tenant_id}:{entity_id}"


PLAIN = Layout()
"""Of a cache on one server."""


def cluster_layouts(count: int) -> Sequence[Layout]:
    """The shards of a cluster, evenly over its slots, so that they are evenly over its nodes.

    The count is part of every key. Were it not, two processes that are told different counts (while
    it is being changed) could share a shard's marks without agreeing on whose entries they are for:
    one would move a mark without the tombstones of tenants that only the other puts there.
    """
    return [Layout(_tag(shard, count)) for shard in range(count)]


def slot(tag: str) -> int:
    """The slot of keys with this tag."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def _tag(shard: int, count: int) -> str:
    """A tag whose slot is in the shard's part of the slots."""
    for salt in range(_SALTS_MAX):
        tag = f"{count}-{shard}-{salt}"
        if slot(tag) * count // SLOTS == shard:
            return tag
    raise ValueError(f"no slot for shard {shard} of {count}")
