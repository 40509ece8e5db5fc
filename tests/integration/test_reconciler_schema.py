"""Schemas change under the stream: what fits goes on, what does not stops its table alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas_cdc_reconciler.letters import LetterFilter
from atlas_devstack.database import Database

from .letter_rig import asked, letters
from .reconciler_rig import ACME, GLOBEX, Rig, make_rig, points

TENANTS = (ACME, GLOBEX)


@pytest.fixture
def rig(fresh_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(fresh_database, tmp_path) as rig:
        yield rig


async def test_added_columns_appear_without_restart(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await running.caught_up()
            writer.write(points(ACME.id))
            rig.admin.execute("ALTER TABLE tenants ADD COLUMN colour text DEFAULT 'red'")
            rig.admin.execute("ALTER TABLE tenants ADD COLUMN seats int, ADD COLUMN mark uuid")
            rig.admin.execute(
                "UPDATE tenants SET seats = 7, mark = '00112233-4455-6677-8899-aabbccddeeff'"
                " WHERE tenant_id = 1"
            )
            writer.write(points(GLOBEX.id))
            await running.caught_up()
            rows = await running.query(
                "SELECT tenant_id, colour, seats, mark FROM tenants ORDER BY tenant_id"
            )
            assert rows == [
                (1, "red", 7, "\\x00112233445566778899aabbccddeeff"),
                (2, None, None, None),  # Nothing of it has come through the stream since.
            ]
            await running.assert_equal(rig)
        async with rig.running() as running:  # It is remembered.
            rig.admin.execute("UPDATE tenants SET colour = 'blue' WHERE tenant_id = 2")
            await running.caught_up()
            assert await running.query("SELECT colour, seats FROM tenants ORDER BY tenant_id") == [
                ("red", 7),
                ("blue", None),
            ]


async def test_a_column_added_between_two_rows_of_one_transaction(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            writer.write([*points(ACME.id), *points(GLOBEX.id)])
            await running.caught_up()
            with rig.admin.transaction():
                for tenant in TENANTS:
                    _insert(rig, tenant.id, 1.0)
                rig.admin.execute("ALTER TABLE entity_values_ts ADD COLUMN note text DEFAULT 'n'")
                rig.admin.execute(
                    "UPDATE entity_values_ts SET quality = 5 WHERE value_double = 2.5"
                )
                for tenant in TENANTS:
                    _insert(rig, tenant.id, 2.0)
                rig.admin.execute("DELETE FROM entity_values_ts WHERE value_double = 1.0")
                rig.admin.execute("ALTER TABLE entity_values_ts DROP COLUMN note")
                for tenant in TENANTS:
                    _insert(rig, tenant.id, 3.0)
            await running.caught_up()
            await running.assert_equal(rig)
            notes = await running.query(
                "SELECT value_double, note FROM entity_values_ts"
                " WHERE value_double IN (2.0, 3.0) ORDER BY ALL"
            )
            assert notes == [(2.0, "n"), (2.0, "n"), (3.0, None), (3.0, None)]
            assert (await running.counts()).dead_lettered == 0


async def test_a_column_that_is_dropped_is_kept_and_null_from_then_on(rig: Rig) -> None:
    async with rig.running() as running:
        rig.admin.execute(
            "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, min_value)"
            " SELECT id, 900, 'load', 'double', 2 FROM (VALUES (1), (2)) AS v (id)"
        )
        await running.caught_up()
        rig.admin.execute("ALTER TABLE attributes DROP COLUMN min_value CASCADE")
        rig.admin.execute("UPDATE attributes SET unit = 'kN' WHERE tenant_id = 1")
        await running.caught_up()
        rows = await running.query(
            "SELECT tenant_id, unit, min_value FROM attributes WHERE attribute_id = 900 ORDER BY 1"
        )
        assert rows == [(1, "kN", None), (2, "", "2")]
        assert (await running.counts("attributes")).dead_lettered == 0


async def test_another_type_stops_its_table_alone_and_a_replay_brings_it_level(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await running.caught_up()
            with rig.admin.transaction():
                rig.admin.execute("UPDATE tenants SET display_name = 'before'")
                rig.admin.execute(
                    "ALTER TABLE tenants ALTER COLUMN display_name DROP DEFAULT,"
                    " ALTER COLUMN display_name TYPE jsonb USING to_jsonb(display_name)"
                )
                rig.admin.execute("UPDATE tenants SET display_name = '7' WHERE tenant_id = 1")
            for tenant in TENANTS:
                writer.write(points(tenant.id))
            await running.caught_up()  # Others go on, heartbeats among them.
            names = await running.query("SELECT display_name FROM tenants")
            assert names == [("before",), ("before",)]
            (letter,) = await letters(running)
            assert (letter.letter_class, letter.table, letter.tenant) == (
                "SCHEMA",
                "tenants",
                "acme",
            )
            assert "tenants.display_name has another type" in letter.reason
            audit = await running.auditor.audit()
            assert [(held.table, held.letter_count) for held in audit.held_tables] == [
                ("tenants", 1)
            ]
            assert audit.discrepancies == ()
        async with rig.running() as running:  # What it does not know of a stop, the letters say.
            rig.admin.execute(
                "ALTER TABLE tenants ALTER COLUMN display_name TYPE text"
                " USING display_name #>> '{}'"
            )
            rig.admin.execute("UPDATE tenants SET display_name = 'after' WHERE tenant_id = 2")
            await running.caught_up()
            assert [letter.letter_class for letter in await letters(running)] == ["SCHEMA"] * 2
            replayed = await running.warehouse.replay(asked(LetterFilter(table="tenants")))
            assert (replayed.applied_count, replayed.failed_count) == (2, 0)
            rig.admin.execute("UPDATE tenants SET status = status")
            await running.caught_up()
            names = await running.query("SELECT display_name FROM tenants ORDER BY tenant_id")
            assert names == [("7",), ("after",)]
            await running.assert_equal(rig)
            assert (await running.counts("tenants")).dead_lettered == 0
            assert (await running.auditor.audit()).discrepancies == ()


async def test_the_warehouse_can_adopt_the_sources_schema(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        rig.admin.execute("ALTER TABLE tenants ALTER COLUMN display_name DROP DEFAULT")
        rig.admin.execute(
            "ALTER TABLE tenants ALTER COLUMN display_name TYPE jsonb"
            " USING to_jsonb(display_name), DROP COLUMN unknown_attribute_policy CASCADE"
        )
        rig.admin.execute("""UPDATE tenants SET display_name = '{"en": "x"}'""")
        await running.caught_up()
        everything = asked(LetterFilter())
        as_it_is = await running.warehouse.replay(everything)
        assert (as_it_is.applied_count, as_it_is.failed_count) == (0, 2)
        assert "is gone at the source" in as_it_is.failures[0].reason
        assert as_it_is.failures[0].attempts == 2
        adopted = await running.warehouse.replay(everything, adopt_schema=True)
        assert (adopted.applied_count, adopted.failed_count) == (2, 0)
        rig.admin.execute("""UPDATE tenants SET display_name = '"y"' WHERE tenant_id = 2""")
        await running.caught_up()
        rows = await running.query(
            "SELECT display_name, unknown_attribute_policy FROM tenants ORDER BY tenant_id"
        )
        assert rows == [('{"en": "x"}', None), ('"y"', None)]
        assert await letters(running) == ()


async def test_an_endless_stop_of_one_table_ends_in_a_stop_of_all(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running(dead_letters_max=15) as running:
            writer.write([*points(ACME.id), *points(GLOBEX.id)])
            await running.caught_up()
            rig.admin.execute("ALTER TABLE entity_values_ts ALTER COLUMN quality TYPE int")
            writer.write(points(ACME.id))
            await running.caught_up()
            assert len(await letters(running)) == 10
            writer.write(points(GLOBEX.id))
            standing = await running.until(lambda standing: standing.phase == "stopped")
            assert "ATLAS_WAREHOUSE__DEAD_LETTERS_MAX" in standing.reason
            assert len(await letters(running)) == 10
    rig.admin.execute("ALTER TABLE entity_values_ts ALTER COLUMN quality TYPE smallint")
    async with rig.running() as running:
        await running.caught_up()
        replayed = await running.warehouse.replay(asked(LetterFilter()))
        assert (replayed.applied_count, replayed.failed_count) == (20, 0)
        await running.assert_equal(rig)


def _insert(rig: Rig, tenant_id: int, value: float) -> None:
    rig.admin.execute(
        "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
        " ingested_at, value_double) VALUES (%s, 1, 1, now(), now(), %s)",
        [tenant_id, value],
    )
