"""Rows of the catalog that differ are named; those on their way are not."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from atlas_cdc_reconciler.catalog_comparison import CatalogComparer, ColumnDifference, KeyDifference
from atlas_cdc_reconciler.differences import DifferenceKind
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.keyed_digest import shown_columns, shown_key
from atlas_cdc_reconciler.tables import TABLES, Table
from atlas_common.tenant import Tenant

ACME = Tenant(1, "acme")
ENTITIES = TABLES["entities"]


def row(entity_id: int, key: str) -> tuple[str, str]:
    """An entity as a side has it: key, canonical text."""
    parts = ["1", str(entity_id), key, "0" * 16]
    return f"1|{entity_id}", "|".join(f"{len(part.encode())}:{part}" for part in parts)


class Side:
    """Entities in memory; other tables are empty."""

    def __init__(self, *looks: Mapping[str, str]) -> None:
        self.looks = list(looks)
        """What each look sees; the last one is seen from then on."""

    async def digests(self, tenant: Tenant, table: Table, digits: int) -> Mapping[str, Digest]:
        found: dict[str, Digest] = {}
        for key, text in self._now(table).items():
            bucket = _md5(key)[:digits]
            found[bucket] = found.get(bucket, Digest()) + Digest(1, int(_md5(text)[:15], 16), 0)
        return found

    async def rows(
        self, tenant: Tenant, table: Table, digits: int, buckets: Sequence[str], rows_max: int
    ) -> Mapping[str, str]:
        rows = self._now(table)
        wanted = [key for key in rows if _md5(key)[:digits] in buckets]
        return {key: rows[key] for key in wanted[:rows_max]}

    def _now(self, table: Table) -> Mapping[str, str]:
        return self.looks[0] if table is ENTITIES else {}


class Sealer:
    """Lets both sides see their next look."""

    def __init__(self, *sides: Side) -> None:
        self.sides = sides

    async def catch_up(self) -> None:
        for side in self.sides:
            if len(side.looks) > 1:
                side.looks.pop(0)


async def compared(source: Side, warehouse: Side, differences_max: int = 100) -> Any:
    sealer: Any = Sealer(source, warehouse)
    comparer = CatalogComparer(source, warehouse, sealer, differences_max)
    tables = {table.table: table for table in await comparer.compare(ACME)}
    assert tables["tenants"].is_matched
    assert tables["attributes"].is_matched
    return tables["entities"]


@pytest.mark.parametrize("count", [3, 5_000])
async def test_each_row_that_differs_is_named(count: int) -> None:
    rows = dict(row(number, f"pump-{number}") for number in range(count))
    damaged = dict(rows)
    del damaged["1|0"]
    damaged.update([row(1, "fan"), row(count + 7, "extra")])
    found = await compared(Side(rows), Side(damaged))
    assert (found.source.rows, found.warehouse.rows) == (count, count)
    assert not found.is_matched
    assert set(found.differences) == {
        KeyDifference(DifferenceKind.MISSING, "tenant_id=1, entity_id=0"),
        KeyDifference(
            DifferenceKind.DIFFERENT,
            "tenant_id=1, entity_id=1",
            (ColumnDifference("key", "pump-1", "fan"),),
        ),
        KeyDifference(DifferenceKind.EXTRA, f"tenant_id=1, entity_id={count + 7}"),
    }


async def test_what_is_on_its_way_is_no_difference() -> None:
    before, after = dict([row(1, "pump")]), dict([row(1, "pump"), row(2, "fan")])
    assert (await compared(Side(after), Side(before, after))).is_matched
    stale = dict([row(1, "other")])
    found = await compared(Side(after), Side(stale, before))
    # Row 2 was missing both times; row 1 differed once.
    assert [one.key for one in found.differences] == ["tenant_id=1, entity_id=2"]


async def test_more_than_can_be_named_is_said_to_be_more() -> None:
    rows = dict(row(number, f"pump-{number}") for number in range(50))
    found = await compared(Side(rows), Side({}), differences_max=10)
    assert (len(found.differences), found.is_complete, found.is_matched) == (10, False, False)


def test_rows_are_shown_as_people_write_them() -> None:
    key, text = row(5, "größe|1:2")
    assert shown_key(ENTITIES, key) == "tenant_id=1, entity_id=5"
    assert shown_columns(ENTITIES, text) == {
        "tenant_id": "1",
        "entity_id": "5",
        "key": "größe|1:2",
        "created_at": "2000-01-01T00:00:00+00:00",
    }


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
