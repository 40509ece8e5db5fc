"""Batches that wait to be copied into a lane."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator

from atlas_ingest.lanes.batch import Batch


class Pending:
    """A queue of one lane. Its bound is the callers' budget; it knows how much it holds."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._some = asyncio.Event()
        self._urgent = 0
        self.points = 0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    @property
    def is_urgent(self) -> bool:
        """Whether a caller waits for the copy alone."""
        return self._urgent > 0

    async def wait(self) -> None:
        """Return once there is something."""
        await self._some.wait()

    def append(self, batch: Batch) -> None:
        """At the end."""
        self._batches.append(batch)
        self._count(batch, 1)

    def put_back(self, batches: Iterable[Batch]) -> None:
        """Before all others, in their order: they were here before."""
        taken = list(batches)
        self._batches.extendleft(reversed(taken))
        for batch in taken:
            self._count(batch, 1)

    def take(self, points_max: int, bytes_max: int) -> list[Batch]:
        """From the front, until it is so much; those that nobody waits for are dropped."""
        taken: list[Batch] = []
        points = size_bytes = 0
        while self._batches and points < points_max and size_bytes < bytes_max:
            batch = self._pop()
            if batch.is_abandoned:
                batch.drop()
                continue
            taken.append(batch)
            points += batch.point_count
            size_bytes += len(batch.rows)
        return taken

    def give_away(self, points: int) -> list[Batch]:
        """From the front, batches of no order with about so many points."""
        given: list[Batch] = []
        kept: list[Batch] = []
        while self._batches and points > 0:
            batch = self._pop()
            if batch.order_key is None:
                given.append(batch)
                points -= batch.point_count
            else:
                kept.append(batch)
        self.put_back(kept)
        return given

    def _pop(self) -> Batch:
        batch = self._batches.popleft()
        self._count(batch, -1)
        return batch

    def _count(self, batch: Batch, sign: int) -> None:
        self.points += sign * batch.point_count
        self.size_bytes += sign * len(batch.rows)
        # By the level asked for, not by whether somebody still waits: that may change in between.
        self._urgent += sign * batch.asks_staged
        if self._batches:
            self._some.set()
        else:
            self._some.clear()
