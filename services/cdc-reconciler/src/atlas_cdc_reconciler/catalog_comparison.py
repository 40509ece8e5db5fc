"""Compares the catalog's tables, which have keys and change in place, row by row of their keys."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from atlas_cdc_reconciler.differences import DifferenceKind
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.keyed_digest import shown_columns, shown_key
from atlas_cdc_reconciler.seal import Sealer
from atlas_cdc_reconciler.tables import TABLES, Table
from atlas_common.tenant import Tenant

# Where flushes stand is not compared: it moves with each of them, and tokens are held against it.
COMPARED = tuple(TABLES[name] for name in ("tenants", "entities", "attributes"))
_ROWS_PER_BUCKET = 1_000
_DIGITS_MAX = 5
_ROWS_READ_MAX = 20_000


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """A column of a row that both sides have. None is NULL."""

    name: str
    source: str | None
    warehouse: str | None


@dataclass(frozen=True, slots=True)
class KeyDifference:
    """A row that differs."""

    kind: DifferenceKind
    key: str
    columns: tuple[ColumnDifference, ...] = ()
    """Those that differ, of a row that both sides have."""


@dataclass(frozen=True, slots=True)
class TableComparison:
    """A tenant's rows of a table on both sides."""

    table: str
    source: Digest
    warehouse: Digest
    differences: tuple[KeyDifference, ...] = ()
    is_complete: bool = True
    """False: more rows differ than are named."""

    @property
    def is_matched(self) -> bool:
        """Whether nothing differs but what is on its way."""
        return not self.differences and self.is_complete


class CatalogSide(Protocol):
    """One side's rows of a table, by the first digits of their keys' hash."""

    async def digests(self, tenant: Tenant, table: Table, digits: int) -> Mapping[str, Digest]:
        """Digests by those digits. With none of them the one bucket is ""."""
        ...

    async def rows(
        self, tenant: Tenant, table: Table, digits: int, buckets: Sequence[str], rows_max: int
    ) -> Mapping[str, str]:
        """Canonical texts by key."""
        ...


class CatalogComparer:
    """Compares one tenant's catalog at a time."""

    def __init__(
        self,
        source: CatalogSide,
        warehouse: CatalogSide,
        sealer: Sealer,
        differences_max: int,
    ) -> None:
        self._source = source
        self._warehouse = warehouse
        self._sealer = sealer
        self._differences_max = differences_max

    async def compare(self, tenant: Tenant) -> list[TableComparison]:
        """All tables. Raises as Sealer.catch_up; psycopg.Error."""
        return [await self._table(tenant, table) for table in COMPARED]

    async def _table(self, tenant: Tenant, table: Table) -> TableComparison:
        totals = await self._digests(tenant, table, 0)
        source, warehouse = (_sum(side) for side in totals)
        if source == warehouse:
            return TableComparison(table.name, source, warehouse)
        # A change under way makes a row differ for a moment: what counts differs in the same way
        # twice, with the warehouse made to catch up in between.
        first = await self._find(tenant, table, max(source.rows, warehouse.rows))
        await self._sealer.catch_up()
        second = await self._find(tenant, table, max(source.rows, warehouse.rows))
        if not (first.is_complete and second.is_complete):
            return second
        still = set(first.differences)
        differences = tuple(one for one in second.differences if one in still)
        return TableComparison(table.name, second.source, second.warehouse, differences)

    async def _find(self, tenant: Tenant, table: Table, rows: int) -> TableComparison:
        digits = _digits(rows)
        source, warehouse = await self._digests(tenant, table, digits)
        none = Digest()
        buckets = [
            bucket
            for bucket in sorted(source.keys() | warehouse.keys())
            if source.get(bucket, none) != warehouse.get(bucket, none)
        ]
        ours, theirs = await asyncio.gather(
            self._source.rows(tenant, table, digits, buckets, _ROWS_READ_MAX),
            self._warehouse.rows(tenant, table, digits, buckets, _ROWS_READ_MAX),
        )
        # Of what was cut short, a row without its other version may have one.
        is_whole = max(len(ours), len(theirs)) < _ROWS_READ_MAX
        found = list(key_differences(table, ours, theirs)) if is_whole else []
        named = tuple(found[: self._differences_max])
        is_complete = is_whole and len(named) == len(found)
        return TableComparison(table.name, _sum(source), _sum(warehouse), named, is_complete)

    async def _digests(
        self, tenant: Tenant, table: Table, digits: int
    ) -> tuple[Mapping[str, Digest], Mapping[str, Digest]]:
        source, warehouse = await asyncio.gather(
            self._source.digests(tenant, table, digits),
            self._warehouse.digests(tenant, table, digits),
        )
        return source, warehouse


def key_differences(
    table: Table, source: Mapping[str, str], warehouse: Mapping[str, str]
) -> Iterable[KeyDifference]:
    """What differs between rows, given as canonical texts by key; in order of keys' texts."""
    for key in sorted(source.keys() | warehouse.keys()):
        ours, theirs = source.get(key), warehouse.get(key)
        shown = shown_key(table, key)
        if theirs is None:
            yield KeyDifference(DifferenceKind.MISSING, shown)
        elif ours is None:
            yield KeyDifference(DifferenceKind.EXTRA, shown)
        elif ours != theirs:
            yield KeyDifference(DifferenceKind.DIFFERENT, shown, _columns(table, ours, theirs))


def _columns(table: Table, ours: str, theirs: str) -> tuple[ColumnDifference, ...]:
    source, warehouse = shown_columns(table, ours), shown_columns(table, theirs)
    return tuple(
        ColumnDifference(name, source[name], warehouse[name])
        for name in table.column_names
        if source[name] != warehouse[name]
    )


def _digits(rows: int) -> int:
    digits = 0
    while digits < _DIGITS_MAX and rows > _ROWS_PER_BUCKET * 16**digits:
        digits += 1
    return digits


def _sum(digests: Mapping[str, Digest]) -> Digest:
    return sum(digests.values(), Digest())
