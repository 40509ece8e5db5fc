"""The catalog in the warehouse is the catalog: each kind of damage is named, and healed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas_cdc_reconciler.catalog_comparison import TableComparison
from atlas_cdc_reconciler.lifecycle import Actor, OrderKind
from atlas_cdc_reconciler.reconcile import Outcome
from atlas_cdc_reconciler.scope import Scope
from atlas_common.tenant import Tenant
from atlas_devstack.database import Database

from .reconciler_rig import ACME, GLOBEX, Rig, Running, make_rig
from .waiting import eventually

OPERATOR = Actor("ops@example", "request-1")
NUMBERS = ("1.50", "-0.0", "100", "0.000", "-12345678901234567890.123456789012345678901234567890")
TEXTS = ("", "°C", "a|b:c,d", "4:four", "\u00e9", "e\u0301", "N", "😀")


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        for table, column in (("entities", "entity_id"), ("attributes", "attribute_id")):
            # The rig's own rows were given their numbers.
            rig.admin.execute(
                "SELECT setval(pg_get_serial_sequence(%s, %s), 1000)", [f"atlas.{table}", column]
            )
        for tenant in (ACME, GLOBEX):
            fill(rig, tenant)
        yield rig


def fill(rig: Rig, tenant: Tenant) -> None:
    """Every kind of column, with values that are easily told apart wrongly."""
    rig.admin.execute(
        "INSERT INTO entities (tenant_id, key)"
        " SELECT %s, 'asset ' || t FROM unnest(%s::text[]) AS t",
        [tenant.id, list(TEXTS)],
    )
    rig.admin.execute(
        "INSERT INTO attributes"
        " (tenant_id, name, data_type, unit, min_value, max_value, allowed_values, is_hot)"
        " SELECT %s, 'number ' || n, 'decimal', 'bar', n::numeric, NULL, %s, true"
        " FROM unnest(%s::text[]) AS n",
        [tenant.id, [], list(NUMBERS)],
    )
    rig.admin.execute(
        "INSERT INTO attributes (tenant_id, name, data_type, unit, allowed_values)"
        " SELECT %s, 'text ' || t, 'text', t, ARRAY[t, '', t || ','] FROM unnest(%s::text[]) AS t",
        [tenant.id, list(TEXTS)],
    )


async def catalog(running: Running, tenant: Tenant) -> tuple[dict[str, TableComparison], Outcome]:
    tables = {}
    async for event in running.reconciler.reconcile(tenant, None, from_start=False):
        if isinstance(event, TableComparison):
            tables[event.table] = event
        if isinstance(event, Outcome):
            return tables, event
    raise AssertionError("a reconciliation without an outcome")


async def test_both_sides_write_every_value_alike(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        for tenant in (ACME, GLOBEX):
            tables, outcome = await catalog(running, tenant)
            assert [table.is_matched for table in tables.values()] == [True] * 3, tables
            assert tables["entities"].source == tables["entities"].warehouse
            assert tables["attributes"].source.rows >= len(NUMBERS) + len(TEXTS)
            assert outcome.tables_mismatched == 0
        # Also what came by the stream, and not by the first copy.
        rig.admin.execute("UPDATE attributes SET unit = 'kPa', max_value = min_value * 2.50")
        rig.admin.execute("DELETE FROM entities WHERE key LIKE '%four'")
        await running.caught_up()
        for tenant in (ACME, GLOBEX):
            tables, _ = await catalog(running, tenant)
            assert all(table.source == table.warehouse for table in tables.values())


DAMAGES = {
    "a row is missing": (
        "DELETE FROM entities WHERE tenant_id = 1 AND key = 'asset °C'",
        "entities",
        [("missing", [])],
    ),
    "a row too many": (
        "INSERT INTO entities SELECT 1, 999999, 'nobody', created_at FROM entities LIMIT 1",
        "entities",
        [("extra", [])],
    ),
    "another form of a letter": (
        "UPDATE entities SET key = 'asset e\u0301 ' WHERE tenant_id = 1 AND key = 'asset \u00e9'",
        "entities",
        [("different", ["key"])],
    ),
    "a flag": (
        "UPDATE attributes SET is_hot = NOT is_hot WHERE tenant_id = 1 AND name = 'number 100'",
        "attributes",
        [("different", ["is_hot"])],
    ),
    "a digit": (
        "UPDATE attributes SET min_value = '1.51' WHERE tenant_id = 1 AND name = 'number 1.50'",
        "attributes",
        [("different", ["min_value"])],
    ),
    "NULL for a number": (
        "UPDATE attributes SET min_value = NULL WHERE tenant_id = 1 AND name = 'number 0.000'",
        "attributes",
        [("different", ["min_value"])],
    ),
    "a microsecond": (
        "UPDATE attributes SET created_at = created_at + INTERVAL 1 MICROSECOND"
        " WHERE tenant_id = 1 AND name = 'number 100'",
        "attributes",
        [("different", ["created_at"])],
    ),
    "items of a list run together": (
        "UPDATE attributes SET allowed_values = ['N,N', '', 'N,']"
        " WHERE tenant_id = 1 AND name = 'text N'",
        "attributes",
        [("different", ["allowed_values"])],
    ),
    "values of two rows swapped": (
        "UPDATE attributes SET unit = CASE unit WHEN 'N' THEN '°C' ELSE 'N' END"
        " WHERE tenant_id = 1 AND name IN ('text N', 'text °C')",
        "attributes",
        [("different", ["unit"])] * 2,
    ),
    "the tenant's name": (
        "UPDATE tenants SET display_name = 'Other' WHERE tenant_id = 1",
        "tenants",
        [("different", ["display_name"])],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_named_exactly_and_healed_by_copying_again(rig: Rig, damage: str) -> None:
    statement, name, wanted = DAMAGES[damage]
    async with rig.running() as running:
        await running.caught_up()
        await running.warehouse.write([(statement, {})])
        tables, outcome = await catalog(running, ACME)
        found = [
            (one.kind.value, [column.name for column in one.columns])
            for one in tables[name].differences
        ]
        assert found == wanted
        assert [table.table for table in tables.values() if not table.is_matched] == [name]
        assert outcome.tables_mismatched == 1
        report = await running.reports.get(ACME, outcome.report_id, after=0, differences_max=1)
        assert report is not None
        assert report[0].tables == (tables[name],)
        others, of_others = await catalog(running, GLOBEX)
        assert all(table.is_matched for table in others.values())
        report = await running.reports.get(GLOBEX, of_others.report_id, after=0, differences_max=1)
        assert report is not None
        assert report[0].tables == ()
        scope = Scope.of([name], [], None, None)
        await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR, scope)
        _, outcome = await catalog(running, ACME)
        assert outcome.tables_mismatched == 0


async def reported(running: Running) -> list[tuple[int, str]]:
    """(tenant, table) of all reports, oldest first."""
    return await running.query(
        "SELECT tenant_id, table_name FROM cdc_table_differences ORDER BY report_id, table_name"
    )


async def test_the_sweep_reports_a_mismatch_once(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        compare, compared = running.reconciler.compare_catalog, 0

        async def counted(tenant: Tenant) -> list[TableComparison]:
            nonlocal compared
            tables = await compare(tenant)
            compared += 1
            return tables

        running.reconciler.compare_catalog = counted  # type: ignore[method-assign]

        async def rounds(count: int) -> None:
            """So many whole rounds, and the begun one before them."""
            until = compared + 2 * (count + 1)
            await eventually(lambda: compared >= until)

        sweeping = asyncio.create_task(running.sweep_again(0.02, catalogs=True))
        try:
            await rounds(1)
            assert await reported(running) == []
            await running.warehouse.write([(DAMAGES["a flag"][0], {})])
            await rounds(2)
            assert await reported(running) == [(1, "attributes")]
            await running.warehouse.write([(DAMAGES["a row too many"][0], {})])
            await rounds(2)
        finally:
            sweeping.cancel()
            await asyncio.wait({sweeping})
        assert await reported(running) == [(1, "attributes"), (1, "attributes"), (1, "entities")]
