"""Dead letters: kept whole, in order, replayed or given up; and the books always balance."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.letters import LetterClass, LetterFilter
from atlas_cdc_reconciler.lifecycle import Actor, OrderKind
from atlas_cdc_reconciler.sink import FencedError
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_common.errors import ServiceError
from atlas_devstack.database import Database

from .lane_writer import RawPoint
from .letter_rig import asked, insert_poison, letters
from .reconciler_rig import ACME, GLOBEX, T0, Rig, Running, make_rig, points

TENANTS = (ACME, GLOBEX)
HEAL = "UPDATE entity_values_ts SET value_decimal = 1 WHERE value_decimal = 'NaN'"


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


def spread(tenant_id: int, count: int) -> list[RawPoint]:
    """Points of one entity, each of another moment."""
    return [
        RawPoint(tenant_id, 1, 1, T0 + timedelta(seconds=number), 1.0 + number)
        for number in range(count)
    ]


async def assert_balanced(running: Running) -> None:
    """Letters and rows are as the books say, for each table and tenant."""
    await running.counts()
    assert (await running.auditor.audit()).discrepancies == ()


async def test_a_letter_says_all_there_is_to_say(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        insert_poison(rig, GLOBEX.id, [5.0])
        await running.caught_up()
        (letter,) = await letters(running)
        await assert_balanced(running)
    assert letter.letter_class is LetterClass.VALUE
    assert letter.reason == "value_decimal: no DECIMAL: NaN or infinite"
    assert (letter.table, letter.kind, letter.tenant) == ("entity_values_ts", "INSERT", "globex")
    assert letter.row_keys == ("[2,5,7,5000000,5000000]",)
    assert (letter.chain_id, letter.attempts, letter.codec) == (letter.letter_id, 1, "pgoutput")
    assert letter.byte_count > 50
    assert letter.raw is None
    assert letter.lsn > 0


async def test_changes_of_the_row_wait_and_others_do_not(rig: Rig) -> None:
    """The name is too long for the table that the test makes of the warehouse's."""
    async with rig.running() as running:
        await running.caught_up()
        await refuse_names(running, "poison")
        for tenant in TENANTS:
            rig.admin.execute(
                "UPDATE entities SET key = 'poison' WHERE tenant_id = %s AND key = 'pump-1'",
                [tenant.id],
            )
        await running.caught_up()
        rig.admin.execute("UPDATE entities SET key = 'good-1' WHERE key = 'poison'")
        rig.admin.execute("UPDATE entities SET key = 'good-2' WHERE key = 'pump-2'")
        rig.admin.execute("DELETE FROM entities WHERE key = 'good-1' AND tenant_id = 2")
        await running.caught_up()
        found = await letters(running)
        keys = await running.query("SELECT tenant_id, key FROM entities ORDER BY ALL")
        assert keys == [
            (tenant.id, key) for tenant in TENANTS for key in ("good-2", "pump-1", "pump-3")
        ]
        await assert_balanced(running)
        by_tenant = {
            tenant.key: [letter.letter_class for letter in found if letter.tenant == tenant.key]
            for tenant in TENANTS
        }
        assert by_tenant == {
            "acme": ["CONSTRAINT", "WAITING"],
            "globex": ["CONSTRAINT", "WAITING", "WAITING"],
        }
        assert {letter.chain_id for letter in found} == {found[0].letter_id, found[1].letter_id}

        # One matches, its whole chain is tried.
        acme = asked(LetterFilter(tenant_id=ACME.id, letter_class=LetterClass.WAITING))
        await refuse_names(running, "nothing")
        before = await letters(running)
        tried = await running.warehouse.replay(replace(acme, dry_run=True))
        assert (tried.letter_count, tried.applied_count) == (2, 2)
        assert await letters(running) == before
        done = await running.warehouse.replay(acme)
        assert (done.letter_count, done.applied_count, done.failed_count) == (2, 2, 0)
        assert {letter.tenant for letter in await letters(running)} == {"globex"}
        await assert_balanced(running)
        await running.warehouse.replay(asked())
        # Whatever came before is in: later changes wait no more.
        rig.admin.execute("UPDATE entities SET key = 'last' WHERE key = 'good-1'")
        await running.caught_up()
        assert await letters(running) == ()
        await running.assert_equal(rig)
        keys = await running.query("SELECT tenant_id, key FROM entities ORDER BY ALL")
        assert keys == [
            (1, "good-2"), (1, "last"), (1, "pump-3"), (2, "good-2"), (2, "pump-3")
        ]  # fmt: skip
        await assert_balanced(running)


async def test_what_still_cannot_be_applied_stays_and_all_behind_it(rig: Rig) -> None:
    async with rig.running() as running:
        rig.admin.execute(
            "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, unit)"
            " SELECT id, 900, 'load', 'double', 'a' FROM (VALUES (1), (2)) AS v (id)"
        )
        await running.caught_up()
        rig.admin.execute("UPDATE attributes SET min_value = 'NaN', unit = 'b' WHERE name = 'load'")
        rig.admin.execute("UPDATE attributes SET min_value = NULL, unit = 'c' WHERE name = 'load'")
        await running.caught_up()
        replayed = await running.warehouse.replay(asked())
        assert (replayed.applied_count, replayed.failed_count, replayed.waiting_count) == (0, 2, 2)
        found = await letters(running)
        assert [(letter.letter_class, letter.attempts) for letter in found] == [
            ("VALUE", 2),
            ("VALUE", 2),
            ("WAITING", 1),
            ("WAITING", 1),
        ]
        # A person gives one up; what waited behind it can go on, and only that of its row.
        heads = LetterFilter(tenant_id=ACME.id, letter_class=LetterClass.VALUE)
        assert await running.warehouse.discard(asked(heads), "no number") == 1
        rig.admin.execute("UPDATE attributes SET unit = 'd' WHERE name = 'load'")
        await running.caught_up()
        assert len(await letters(running)) == 5
        replayed = await running.warehouse.replay(asked())
        assert (replayed.applied_count, replayed.failed_count, replayed.waiting_count) == (2, 1, 2)
        units = await running.query(
            "SELECT tenant_id, unit FROM attributes WHERE name = 'load' ORDER BY 1"
        )
        assert units == [(1, "d"), (2, "a")]
        await assert_balanced(running)


async def refuse_names(running: Running, name: str) -> None:
    """From now on the warehouse's entities refuse this key: a fault that only DuckDB finds."""
    columns = "tenant_id, entity_id, key, created_at"
    await running.warehouse.write(
        [
            ("CREATE TEMP TABLE kept AS FROM entities", {}),
            ("DROP TABLE entities", {}),
            (
                "CREATE TABLE entities (tenant_id INTEGER NOT NULL, entity_id BIGINT NOT NULL,"
                f" key VARCHAR NOT NULL CHECK (key <> '{name}'),"
                " created_at TIMESTAMPTZ NOT NULL)",
                {},
            ),
            (f"INSERT INTO entities SELECT {columns} FROM kept", {}),
            ("DROP TABLE kept", {}),
        ]
    )


async def test_corrections_of_a_point_that_is_dead_wait_for_it(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await running.caught_up()
            for tenant in TENANTS:
                insert_poison(rig, tenant.id, [1.0, 2.0, 3.0])
                writer.write(points(tenant.id))
            await running.caught_up()
            rig.admin.execute(HEAL)
            rig.admin.execute("UPDATE entity_values_ts SET value_decimal = 2 WHERE entity_id = 2")
            rig.admin.execute("DELETE FROM entity_values_ts WHERE entity_id = 3")
            await running.caught_up()
            found = await letters(running)
            classes = [letter.letter_class for letter in found]
            # Old values, which are in the letters of the corrections too, cannot be held either.
            assert classes == ["VALUE"] * 12 + ["WAITING"] * 4
            assert (await running.counts()).applied == 20
            await assert_balanced(running)
            replayed = await running.warehouse.replay(asked())
            assert (replayed.failed_count, replayed.waiting_count) == (12, 4)
            given_up = await running.warehouse.discard(
                asked(LetterFilter(table="entity_values_ts")), "the points are void"
            )
            assert given_up == 16
            counts = await running.counts()
            assert (counts.applied, counts.dead_lettered, counts.skipped) == (20, 0, 16)
            await assert_balanced(running)


async def test_a_missing_row_is_found_for_all_changes_at_once(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            for tenant in TENANTS:
                writer.write(spread(tenant.id, 3000))
            await running.caught_up()
            lost = "SELECT * FROM entity_values_ts WHERE tenant_id = 1 AND value_double < 1001"
            await running.warehouse.write(
                [
                    (f"CREATE TEMP TABLE lost AS {lost}", {}),
                    (lost.replace("SELECT *", "DELETE"), {}),
                ]
            )
            started = time.monotonic()
            rig.admin.execute("UPDATE entity_values_ts SET quality = 3")
            rig.admin.execute("UPDATE entity_values_ts SET quality = 4")
            await running.caught_up()
            assert time.monotonic() - started < 20
            found = await running.query(
                "SELECT letter_class, tenant_id, count(*) FROM cdc_dead_letters GROUP BY ALL"
                " ORDER BY ALL"
            )
            assert found == [("MISSING_ROW", 1, 1000), ("WAITING", 1, 1000)]
            # Somebody took rows away: the audit tells.
            assert (await running.auditor.audit()).discrepancies == (
                "history, tenant 1: 3000 rows booked, 2000 there",
            )
            await running.warehouse.write(
                [("INSERT INTO entity_values_ts FROM lost", {}), ("DROP TABLE lost", {})]
            )
            replayed = await running.warehouse.replay(asked())
            assert (replayed.applied_count, replayed.failed_count) == (2000, 0)
            await running.assert_equal(rig)
            await assert_balanced(running)


async def test_a_thousand_among_a_hundred_thousand(rig: Rig) -> None:
    """Found within seconds, all others applied, and level again after the replay."""
    async with rig.running(dead_letters_per_batch_max=1000) as running:
        await running.caught_up()
        started = time.monotonic()
        with rig.admin.transaction():
            for tenant in TENANTS:
                rig.admin.execute(
                    "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
                    " ingested_at, value_decimal)"
                    " SELECT %s, 7, v, to_timestamp(v), now() - interval '1 hour',"
                    " CASE WHEN v %% 100 = 0 THEN 'NaN' ELSE v / 8.0 END"
                    " FROM generate_series(1, 50000) AS s (v)",
                    [tenant.id],
                )
        async with asyncio.timeout(60):
            while (await running.counts()).read < 100_000:
                await running.progress.after(running.progress.now.version)
        assert time.monotonic() - started < 45
        counts = await running.counts()
        assert (counts.applied, counts.dead_lettered) == (99_000, 1_000)
        await assert_balanced(running)

        # One release later the warehouse can hold them: here the value is put right in the bytes.
        await running.warehouse.write([(FIX_NAN, {})])
        rig.admin.execute(
            "UPDATE entity_values_ts SET value_decimal = 0 WHERE value_decimal = 'NaN'"
        )
        await running.caught_up()
        assert (await running.counts()).dead_lettered == 2_000
        await running.warehouse.write([(FIX_NAN, {})])
        replayed = await running.warehouse.replay(asked())
        assert (replayed.applied_count, replayed.failed_count) == (2_000, 0)
        await running.assert_equal(rig)
        await assert_balanced(running)


# In a binary numeric NaN has the sign 0xC000 and no digits: as a positive number it is 0.
FIX_NAN = (
    "UPDATE cdc_dead_letters SET raw = from_hex("
    "replace(hex(raw), '620000000800000000C0000000', '62000000080000000000000000'))"
)


async def test_more_in_one_batch_stop_everything_and_store_nothing(rig: Rig) -> None:
    async with rig.running(dead_letters_per_batch_max=20) as running:
        await running.caught_up()
        insert_poison(rig, ACME.id, [float(value) for value in range(1, 22)])
        standing = await running.until(lambda standing: standing.phase == "stopped")
        assert "ATLAS_WAREHOUSE__DEAD_LETTERS_PER_BATCH_MAX" in standing.reason
        assert await letters(running) == ()
    async with rig.running(dead_letters_per_batch_max=21) as running:
        await running.caught_up()
        assert len(await letters(running)) == 21
        await assert_balanced(running)


async def test_a_request_is_done_once_and_audited(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        for tenant in TENANTS:
            insert_poison(rig, tenant.id, [1.0, 2.0])
        await running.caught_up()
        acme = asked(LetterFilter(tenant_id=ACME.id), request_id="r-1")
        assert await running.warehouse.discard(acme, "void") == 2
        assert await running.warehouse.discard(acme, "void") == 2
        assert len(await letters(running)) == 2
        with pytest.raises(ServiceError, match="REQUEST_ID_REUSED"):
            await running.warehouse.replay(acme)
        replayed = await running.warehouse.replay(asked(request_id="r-2"))
        assert replayed.failed_count == 2
        assert (await running.warehouse.replay(asked(request_id="r-2"))).failed_count == 2
        assert {letter.attempts for letter in await letters(running)} == {2}
        entries = await running.desk.actions(0, 10)
        assert [
            (e.kind, e.operator, e.peer, e.request_id, e.reason, e.done_count, e.failed_count)
            for e in entries
        ] == [
            ("REPLAY", "test", "here", "r-2", "", 0, 2),
            ("DISCARD", "test", "here", "r-1", "void", 2, 0),
        ]
        assert await running.desk.actions(entries[0].action_id, 1) == [entries[1]]
        books = await running.query(
            "SELECT tenant_id, read_count, applied_count, dead_lettered_count, skipped_count"
            " FROM cdc_counters WHERE table_name = 'entity_values_ts' AND tenant_id > 0 ORDER BY 1"
        )
        assert books == [(1, 2, 0, 0, 2), (2, 2, 0, 2, 0)]
        await assert_balanced(running)


async def test_filters_and_pages(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        for tenant in TENANTS:
            insert_poison(rig, tenant.id, [1.0, 2.0, 3.0])
        rig.admin.execute("DELETE FROM entity_values_ts WHERE tenant_id = 2 AND entity_id = 1")
        await running.caught_up()
        for matching, count in (
            (LetterFilter(), 7),
            (LetterFilter(tenant_id=GLOBEX.id), 4),
            (LetterFilter(reason="nan OR infinite"), 7),
            (LetterFilter(reason="elsewhere"), 0),
            (LetterFilter(table="tenants"), 0),
            (LetterFilter(letter_class=LetterClass.VALUE, tenant_id=ACME.id), 3),
            (LetterFilter(letter_ids=(1, 3, 99)), 2),
        ):
            assert len(await letters(running, matching)) == count, matching
        page = await running.desk.page(LetterFilter(), 2, 3, with_raw=True)
        assert [letter.letter_id for letter in page.letters] == [3, 4, 5]
        assert (page.total_count, page.has_more) == (7, True)
        assert all(letter.raw for letter in page.letters)
        last = await running.desk.page(LetterFilter(), 5, 3, with_raw=True)
        assert [letter.letter_id for letter in last.letters] == [6, 7]
        assert not last.has_more


async def test_a_copy_of_the_source_makes_earlier_letters_void(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await running.caught_up()
            for tenant in TENANTS:
                writer.write(points(tenant.id))
                insert_poison(rig, tenant.id, [1.0, 2.0])
            rig.admin.execute(HEAL + " AND entity_id = 1")
            await running.caught_up()
            assert len(await letters(running)) == 6
        rig.close()  # The slot is lost: what differs is copied.
        async with rig.running() as running:
            await running.until(lambda standing: standing.phase == "streaming")
            found = await letters(running)
            # What still cannot be held is a letter of the copy now, the rest came with it.
            assert [(each.letter_class, each.tenant) for each in found] == [
                ("COPY", "acme"),
                ("COPY", "globex"),
            ]
            await assert_balanced(running)
            rig.admin.execute(HEAL)
            await running.caught_up()
            assert len(await letters(running)) == 4  # Corrections wait behind the copies.
            await running.warehouse.write([("DELETE FROM entity_values_ts WHERE quality = 0", {})])
            assert (await running.auditor.audit()).discrepancies
            await running.upkeep.lifecycle.order(OrderKind.BACKFILL, Actor("test", ""))
            assert await letters(running) == ()
            await running.assert_equal(rig)
            await assert_balanced(running)


async def test_whoever_lost_the_warehouse_stores_nothing(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            writer.write(points(ACME.id))
            await running.caught_up()
            # In this process DuckDB lets a second one in; on another host nothing would stop it.
            config = WarehouseConfig(path=rig.path, memory_limit_mb=256)
            async with DuckDbWarehouse.open(config) as other:
                epoch = await other.claim("another")
                assert epoch == 2
                writer.write(points(GLOBEX.id))
                standing = await running.until(lambda standing: standing.phase == "stopped")
                assert "another instance owns the warehouse since epoch 2" in standing.reason
                assert (await other.counts())["entity_values_ts"].read == 10
                with pytest.raises(FencedError):
                    await running.warehouse.discard(asked(LetterFilter(table="x")), "mine no more")


async def test_a_point_of_ten_megabytes(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        for tenant in TENANTS:
            rig.admin.execute(
                "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
                " ingested_at, value_text) VALUES (%s, 2, 1, %s, now() - interval '1 hour',"
                " repeat('x', 10000000))",
                [tenant.id, T0],
            )
        rig.admin.execute("UPDATE entity_values_ts SET quality = 8 WHERE tenant_id = 2")
        await running.caught_up()
        await running.assert_equal(rig)
        assert (await running.counts()).dead_lettered == 0
