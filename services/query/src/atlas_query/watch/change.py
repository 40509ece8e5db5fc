"""What a change is, and how changes are told from what is known. Pure.

A change is a point that became the newest of its attribute: it outranks what was the newest, by
event time, then by stamp, then by place, the platform's order. A point that arrives late changes
nothing: it is not the newest, and a watcher is not told of it.

So a look does not ask "what was committed since the last look?", whose answer hangs on clocks, on
the order of commits and on what was under way in between. It asks "what outranks what I know?" of
one view of the data, and nothing can fall between two looks: if a point is the newest of its
attribute in a view, then it is what is known, or it outranks it, whenever and in whatever order its
flush came to be committed.

    lane 0 stamps its flush 12:00:00.1 and hangs; lane 1 stamps 12:00:00.2 and commits; a look is
    taken and remembers lane 1's points; lane 0 commits; the next look is taken.

By "stamped after the last stamp seen" lane 0's points are lost. By rank they are found: those whose
attribute has something newer from lane 1 are late, and those that are the newest outrank.
"""

from collections.abc import Iterable, MutableMapping
from typing import Any, NamedTuple

Pair = tuple[int, int]
"""(entity id, attribute id)"""


class Rank(NamedTuple):
    """What orders the points of one attribute: the greatest is its latest value.

    `block` and `offset` are the point's place: its order of arrival within a flush.
    """

    event_us: int
    stamped_us: int
    block: int
    offset: int

    @property
    def arrival(self) -> tuple[int, int, int]:
        """The order in which points came, whatever their attribute and event time."""
        return self.stamped_us, self.block, self.offset


NOTHING = Rank(-(2**63), -(2**63), 0, 0)
"""Of an attribute without points: any point outranks it."""


class Change(NamedTuple):
    """A point, with its value in the column of its attribute's type."""

    pair: Pair
    rank: Rank
    quality: int
    values: tuple[Any, ...]

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return 400 + sum(len(value) for value in self.values if isinstance(value, str))


def news(found: Iterable[Change], known: MutableMapping[Pair, Rank]) -> list[Change]:
    """Those points that became the newest of their attributes, as they came; they are known then.

    A point that came after a newer one was late on its arrival, and is left out.
    """
    fresh: list[Change] = []
    for change in sorted(found, key=lambda change: change.rank.arrival):
        if change.rank > known.get(change.pair, NOTHING):
            known[change.pair] = change.rank
            fresh.append(change)
    return fresh
