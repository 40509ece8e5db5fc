"""The stream into the warehouse: exactly once, every type, through kills, redelivery and poison."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas_cdc_reconciler.changes import Batch
from atlas_cdc_reconciler.progress import Phase
from atlas_cdc_reconciler.sink import Sink
from atlas_devstack.database import Database

from .reconciler_rig import ACME, GLOBEX, Rig, make_rig, points, points_of_all_types

TENANTS = (ACME, GLOBEX)


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


async def test_rows_of_every_type_have_equal_digests(rig: Rig) -> None:
    with rig.writer() as writer:
        writer.write(points_of_all_types(ACME.id))  # In the first copy.
        async with rig.running() as running:
            await running.until(lambda standing: standing.phase is Phase.STREAMING)
            for tenant in TENANTS:  # In the stream.
                writer.write([*points_of_all_types(tenant.id), *points(tenant.id)])
            await running.caught_up()
            digests = await running.assert_equal(rig)
    assert digests[ACME] != digests[GLOBEX]


async def test_the_first_copy_is_exact_while_others_write(rig: Rig) -> None:
    stop = threading.Event()

    def write_on(lane: int) -> None:
        with rig.writer(lane) as writer:
            while not stop.is_set():
                writer.write([*points(ACME.id, 20), *points(GLOBEX.id, 10)])

    threads = [threading.Thread(target=write_on, args=(lane,)) for lane in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        async with rig.running() as running:
            await running.until(lambda standing: standing.phase is Phase.STREAMING)
            applied = (await running.counts()).applied
            async with asyncio.timeout(20):
                while (await running.counts()).applied <= applied:
                    await running.progress.after(running.progress.now.version)
            stop.set()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            await running.caught_up()
            await running.assert_equal(rig)
            assert (await running.counts()).skipped == 0
    finally:
        stop.set()


async def test_a_first_copy_that_was_cut_short_is_begun_anew(rig: Rig) -> None:
    with rig.writer() as writer:
        writer.write(points(ACME.id))
        with psycopg.connect(rig.server.dsn("atlas_reconciler"), autocommit=True) as connection:
            # A slot without a warehouse that stands on it: the process died between the two.
            connection.execute(
                "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [rig.slot.name]
            )
        writer.write(points(GLOBEX.id))
        async with rig.running() as running:
            await running.until(lambda standing: standing.phase is Phase.STREAMING)
            await running.caught_up()
            await running.assert_equal(rig)


async def test_it_goes_on_where_it_stopped(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            writer.write(points(ACME.id))
            await running.caught_up()
        writer.write(points(GLOBEX.id, 20))
        async with rig.running() as running:
            await running.caught_up()
            await running.assert_equal(rig)
            assert (await running.counts()).read == 30


async def test_redelivery_changes_nothing_and_is_counted(rig: Rig) -> None:
    class Forgetful:
        """A sink whose success the source never hears of: as if each confirmation were lost."""

        def __init__(self, sink: Sink) -> None:
            self._sink = sink
            self.applied = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sink, name)

        async def apply(self, batch: Batch) -> Any:
            await self._sink.apply(batch)
            self.applied += sum(batch.counts().values())
            if batch.counts()["entity_values_ts"]:
                raise OSError("the connection broke right after the commit")
            return await self._sink.state()

    with rig.writer() as writer:
        async with rig.running(wrap=Forgetful) as running:
            await running.until(lambda standing: standing.phase is Phase.STREAMING)
            for value in range(3):
                for tenant in TENANTS:
                    writer.write(points(tenant.id, value=value))
            await running.caught_up()
            await running.assert_equal(rig)
            counts = await running.counts()
    assert counts.applied == 60
    assert counts.skipped >= 10
    assert counts.dead_lettered == 0


async def test_updates_and_deletes_flow(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            for tenant in TENANTS:
                # Rows that are the same to the last bit, flushed at once: one of them is deleted.
                writer.write([*points(tenant.id, 5), *points(tenant.id, 5)])
                writer.write(points_of_all_types(tenant.id))
            await running.caught_up()
            rig.admin.execute(
                "DELETE FROM entity_values_ts WHERE ctid = (SELECT min(ctid) FROM entity_values_ts"
                " WHERE tenant_id = 1 AND value_double = 1.5)"
            )
            rig.admin.execute(
                "UPDATE entity_values_ts SET quality = 77 WHERE tenant_id = 1"
                " AND coalesce(value_text, value_json::text, value_double::text) IS NOT NULL"
            )
            rig.admin.execute("UPDATE attributes SET unit = 'bar', allowed_values = '{a,b}'")
            rig.admin.execute("DELETE FROM entities WHERE key = 'pump-3'")
            rig.admin.execute("UPDATE entities SET key = 'pump-x' WHERE key = 'pump-2'")
            await running.caught_up()
            await running.assert_equal(rig)
            assert (await running.counts()).dead_lettered == 0
            assert await running.query("SELECT DISTINCT unit, allowed_values FROM attributes") == [
                ("bar", ["a", "b"])
            ]
            keys = await running.query("SELECT key FROM entities WHERE tenant_id = 2 ORDER BY 1")
            assert keys == [("pump-1",), ("pump-x",)]


async def test_a_change_that_cannot_be_applied_is_buried_and_the_rest_goes_on(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            for tenant in TENANTS:
                writer.write(points(tenant.id))
            await running.caught_up()
            # Behind the pipeline's back, so that the deletion finds nothing.
            await running.warehouse.write(
                [("DELETE FROM entity_values_ts WHERE tenant_id = 1 AND value_double = 3.5", {})]
            )
            with rig.admin.transaction():
                rig.admin.execute(
                    "UPDATE entity_values_ts SET quality = 9 WHERE value_double = 2.5"
                )
                rig.admin.execute("DELETE FROM entity_values_ts WHERE value_double = 3.5")
                # A value that no decimal of the warehouse can hold.
                rig.admin.execute(
                    "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
                    " ingested_at, value_decimal) VALUES (2, 7, 1, now(), now(), 'NaN')"
                )
            writer.write(points(ACME.id, 1, value=100))
            await running.caught_up()
            counts = await running.counts()
            letters = await running.query(
                "SELECT table_name, kind, reason, octet_length(raw) > 20 FROM cdc_dead_letters"
                " ORDER BY kind"
            )
            rows = await running.query(
                "SELECT tenant_id, count(*) FROM entity_values_ts GROUP BY 1 ORDER BY 1"
            )
    assert (counts.read, counts.applied, counts.dead_lettered) == (26, 24, 2)
    assert [(table, kind, whole) for table, kind, _, whole in letters] == [
        ("entity_values_ts", "DELETE", True),
        ("entity_values_ts", "INSERT", True),
    ]
    assert "not here" in letters[0][2]
    assert "value_decimal" in letters[1][2]
    assert rows == [(1, 10), (2, 9)]


async def test_a_row_that_cannot_be_copied_is_buried_too(rig: Rig) -> None:
    with rig.writer() as writer:
        for tenant in TENANTS:
            writer.write(points(tenant.id))
        rig.admin.execute(
            "UPDATE entity_values_ts SET value_double = NULL, value_decimal = 'NaN'"
            " WHERE tenant_id = 2 AND value_double = 3.5"
        )
        async with rig.running() as running:
            await running.caught_up()
            counts = await running.counts()
            letters = await running.query("SELECT letter_class, reason, raw FROM cdc_dead_letters")
            rows = await running.query("SELECT count(*) FROM entity_values_ts")
    assert (counts.read, counts.applied, counts.dead_lettered) == (20, 19, 1)
    assert rows == [(19,)]
    ((letter_class, reason, raw),) = letters
    assert (letter_class, reason) == ("COPY", "value_decimal: no DECIMAL: NaN or infinite")
    assert raw[:2] == b"\0\x0d"


async def test_the_books_know_rows_that_only_went(rig: Rig) -> None:
    """A batch that takes more rows than it brings: 2 corrected, 3 deleted, of each tenant."""
    async with rig.running() as running:
        with rig.writer() as writer:
            writer.write([*points(ACME.id, 10), *points(GLOBEX.id, 10)])
        await running.caught_up()
        with rig.admin.transaction():
            rig.admin.execute("UPDATE entity_values_ts SET quality = 5 WHERE value_double < 3")
            rig.admin.execute("DELETE FROM entity_values_ts WHERE value_double BETWEEN 3 AND 6")
        await running.caught_up()
        assert (await running.auditor.audit()).discrepancies == ()
        await running.assert_equal(rig)
