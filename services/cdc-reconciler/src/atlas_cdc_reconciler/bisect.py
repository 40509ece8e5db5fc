"""From a window that does not agree to the rows at fault."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from atlas_cdc_reconciler.canonical import StoredRow
from atlas_cdc_reconciler.differences import Difference, differences
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.windows import Span, WindowComparison, paired
from atlas_common.tenant import Tenant

# Fewer rows than these are compared one by one.
_ROWS_AT_ONCE_MAX = 10_000
# Into how many parts of time a span is cut.
_PARTS = 16
# First digits of the hash: at most 65,536 buckets, so that each of a million rows has but a few.
_BUCKET_DIGITS = 4
# Rows of buckets that differ: what one search reads at most, of each side.
_ROWS_READ_MAX = 50_000

_Pair = tuple[list[StoredRow], list[StoredRow]]


class Side(Protocol):
    """One of the two copies."""

    async def digests(self, tenant: Tenant, span: Span, width_us: int) -> dict[int, Digest]:
        """Digests of the span's windows that have rows, by the window's number since 1970."""
        ...

    async def buckets(self, tenant: Tenant, span: Span, digits: int) -> dict[str, Digest]:
        """Digests of the span's rows by the first digits of their hashes."""
        ...

    async def rows(
        self, tenant: Tenant, span: Span, digits: int, buckets: Sequence[str], rows_max: int
    ) -> list[StoredRow]:
        """The span's rows of some buckets. With 0 digits the one bucket is ""."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """The rows that differ in a span."""

    differences: tuple[Difference, ...]
    is_complete: bool
    """False: there are more than were looked for."""

    def and_still(self, later: "Found") -> "Found":
        """What was found both times; the rest was only on its way."""
        again = set(later.differences)
        kept = tuple(one for one in self.differences if one in again)
        return Found(kept, self.is_complete and later.is_complete)


class Bisector:
    """Narrows by time, then by hash, and then looks at rows."""

    def __init__(self, source: Side, warehouse: Side, differences_max: int) -> None:
        self._source = source
        self._warehouse = warehouse
        self._differences_max = differences_max

    async def find(self, tenant: Tenant, window: WindowComparison) -> Found:
        """The differences within a window, at most `differences_max`. Raises as its sides."""
        found: list[Difference] = []
        complete = True
        waiting = [window]
        while waiting:
            part = waiting.pop()
            if len(found) >= self._differences_max:
                return Found(tuple(found), is_complete=False)
            if _rows(part) <= _ROWS_AT_ONCE_MAX:
                pair = await self._rows_of(tenant, part.span, 0, [""])
            elif (narrower := await self._narrowed(tenant, part)) is not None:
                waiting += reversed(narrower)  # The first in time is looked at first.
                continue
            else:
                pair, all_read = await self._by_hash(tenant, part.span)
                complete &= all_read
            if pair is None:
                complete = False
                continue
            room = self._differences_max - len(found) + 1
            found += islice(differences(*pair), room)
        complete &= len(found) <= self._differences_max
        return Found(tuple(found[: self._differences_max]), complete)

    async def _narrowed(
        self, tenant: Tenant, window: WindowComparison
    ) -> list[WindowComparison] | None:
        """The parts of a window that do not agree; None where time does not tell rows apart."""
        width_us = (window.span.stop_us - window.span.start_us) // _PARTS
        if width_us == 0:
            return None
        source, warehouse = await asyncio.gather(
            self._source.digests(tenant, window.span, width_us),
            self._warehouse.digests(tenant, window.span, width_us),
        )
        parts = paired(source, warehouse, window.span, width_us)
        # A flush gives all of its rows one time: then their hashes are sooner narrowed.
        if max(map(_rows, parts), default=0) * 2 > _rows(window):
            return None
        return [part for part in parts if not part.is_matched]

    async def _by_hash(self, tenant: Tenant, span: Span) -> tuple[_Pair | None, bool]:
        """The rows of buckets that differ, and whether these are all of those buckets."""
        source, warehouse = await asyncio.gather(
            self._source.buckets(tenant, span, _BUCKET_DIGITS),
            self._warehouse.buckets(tenant, span, _BUCKET_DIGITS),
        )
        chosen: list[str] = []
        rows = 0
        none = Digest()
        differing = [
            bucket
            for bucket in sorted(source.keys() | warehouse.keys())
            if source.get(bucket, none) != warehouse.get(bucket, none)
        ]
        for bucket in differing:
            rows += max(side.get(bucket, none).rows for side in (source, warehouse))
            if rows > _ROWS_READ_MAX:
                break
            chosen.append(bucket)
        pair = await self._rows_of(tenant, span, _BUCKET_DIGITS, chosen)
        return pair, len(chosen) == len(differing)

    async def _rows_of(
        self, tenant: Tenant, span: Span, digits: int, buckets: Sequence[str]
    ) -> _Pair | None:
        """The rows of both sides; None if there are more than may be read."""
        most = _ROWS_READ_MAX + 1
        source, warehouse = await asyncio.gather(
            self._source.rows(tenant, span, digits, buckets, most),
            self._warehouse.rows(tenant, span, digits, buckets, most),
        )
        # Parts of either side would differ in what the other one has as well.
        return None if most in (len(source), len(warehouse)) else (source, warehouse)


def _rows(window: WindowComparison) -> int:
    return max(window.source.rows, window.warehouse.rows)
