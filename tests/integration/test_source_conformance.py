"""What every source of changes has to do, done by each: the slot, and Debezium's topic.

The topic is filled by Debezium's own engine, once with schemas in its events and once without.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas_cdc_reconciler.changes import Batch, Relation
from atlas_cdc_reconciler.digest import Engine, canonical_sql
from atlas_cdc_reconciler.progress import Phase
from atlas_cdc_reconciler.sink import Sink
from atlas_cdc_reconciler.source.codecs import CODECS
from atlas_cdc_reconciler.tables import HEARTBEAT, HISTORY, TABLES, ColumnType
from atlas_devstack.database import Database, another
from atlas_devstack.kafka import Kafka

from .conftest import make_two_tenants
from .lane_writer import RawPoint
from .reconciler_rig import ACME, GLOBEX, T0, Rig, Running, points, points_of_all_types
from .source_topic import Origin, capturing, reading

# A JVM has to start, on two cores that other tests use too.
pytestmark = pytest.mark.timeout(300)
TENANTS = (ACME, GLOBEX)
KINDS = ("slot", "kafka", "kafka with schemas")
MEBIBYTE = 2**20


@pytest.fixture(scope="module", params=KINDS)
def origin(
    request: pytest.FixtureRequest,
    database: Database,
    kafka: Kafka,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Origin]:
    with another(database) as own, ExitStack() as cleanup:
        with rig_over(Origin(own, None, ()), Path()) as rig, rig.writer() as writer:
            for tenant in TENANTS:
                writer.write(points_of_all_types(tenant.id))
            first_rows = canonical_rows(rig)
        engine = None
        if request.param != "slot":
            engine = cleanup.enter_context(
                capturing(
                    own,
                    kafka,
                    tmp_path_factory.mktemp("debezium"),
                    has_schemas=request.param != "kafka",
                )
            )
        yield Origin(own, engine, first_rows)


@pytest.fixture
def rig(origin: Origin, tmp_path: Path) -> Iterator[Rig]:
    with rig_over(origin, tmp_path) as rig:
        yield rig


@contextmanager
def rig_over(origin: Origin, directory: Path) -> Iterator[Rig]:
    """Two tenants with the same entity keys, and a warehouse that is still empty."""
    with psycopg.connect(origin.database.admin_dsn, autocommit=True) as admin:
        origin.clear(admin)
        make_two_tenants(admin)
        rig = Rig(origin.database, admin, directory / "warehouse.duckdb")
        if origin.engine:
            rig.kafka = reading(origin.bootstrap_servers, origin.topic)
        try:
            yield rig
        finally:
            rig.close()


def canonical_rows(rig: Rig) -> list[str]:
    rows = rig.admin.execute(
        f"SELECT {canonical_sql(Engine.POSTGRES)} FROM entity_values_ts"
    ).fetchall()
    return sorted(row[0] for row in rows)


async def assert_same(rig: Rig, running: Running) -> None:
    """All rows of all tables are the same on both sides."""
    await running.caught_up()
    await running.assert_equal(rig)
    there = await running.query(f"SELECT {canonical_sql(Engine.DUCKDB)} FROM entity_values_ts")
    assert sorted(row[0] for row in there) == canonical_rows(rig)
    for table in TABLES.values():
        if table in (HISTORY, HEARTBEAT):
            continue
        here = ", ".join(
            f"(extract(epoch FROM {column.name}) * 1000000)::bigint"
            if column.type is ColumnType.TIME
            else f"{column.name}::text"
            if column.type is ColumnType.NUMERIC_TEXT
            else column.name
            for column in table.columns
        )
        there_columns = ", ".join(
            f"epoch_us({column.name})" if column.type is ColumnType.TIME else column.name
            for column in table.columns
        )
        rows = rig.admin.execute(f"SELECT {here} FROM {table.name}").fetchall()
        copies = await running.query(f"SELECT {there_columns} FROM {table.name}")
        assert sorted(copies, key=repr) == sorted(rows, key=repr), table.name


async def test_the_first_copy_has_every_type(rig: Rig, origin: Origin) -> None:
    expected = origin.first_rows
    if origin.engine is None:
        with rig.writer() as writer:
            for tenant in TENANTS:
                writer.write(points_of_all_types(tenant.id))
        expected = canonical_rows(rig)

    class Frozen:
        """A sink that takes the first copy and nothing else."""

        def __init__(self, sink: Sink) -> None:
            self._sink = sink

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sink, name)

        async def apply(self, _: Batch) -> Any:
            await asyncio.get_running_loop().create_future()

    async with rig.running(wrap=Frozen) as running:
        await running.until(lambda standing: standing.phase is Phase.STREAMING)
        rows = await running.query(f"SELECT {canonical_sql(Engine.DUCKDB)} FROM entity_values_ts")
        assert sorted(row[0] for row in rows) == expected
        counts = await running.counts()
        assert (counts.applied, counts.dead_lettered) == (len(expected), 0)
        tenants = await running.query("SELECT tenant_id, key FROM tenants ORDER BY 1")
        assert tenants == [(tenant.id, tenant.key) for tenant in TENANTS]


async def test_changes_of_every_type_flow(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await running.until(lambda standing: standing.phase is Phase.STREAMING)
            for tenant in TENANTS:
                writer.write([*points_of_all_types(tenant.id), *points(tenant.id)])
            rig.admin.execute(
                "UPDATE attributes SET min_value = %s, max_value = 1.50, unit = 'bar',"
                " allowed_values = %s WHERE attribute_id = 1",
                ["0.00000001" + "2" * 40, ["a", 'b,"c', "", "Ünï\\"]],
            )
            await assert_same(rig, running)
            assert (await running.counts()).dead_lettered == 0


async def test_updates_and_deletes_flow(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            for tenant in TENANTS:
                # Rows that are the same to the last bit: one of them is deleted.
                writer.write([*points(tenant.id, 5), *points(tenant.id, 5)])
                writer.write(points_of_all_types(tenant.id))
            await running.caught_up()
            rig.admin.execute(
                "DELETE FROM entity_values_ts WHERE ctid = (SELECT min(ctid) FROM entity_values_ts"
                " WHERE tenant_id = 1 AND value_double = 1.5)"
            )
            rig.admin.execute("UPDATE entity_values_ts SET quality = 77 WHERE tenant_id = 1")
            rig.admin.execute("DELETE FROM entity_values_ts WHERE tenant_id = 2 AND quality > 5")
            rig.admin.execute("DELETE FROM entities WHERE key = 'pump-3'")
            rig.admin.execute("UPDATE entities SET key = 'pump-x' WHERE key = 'pump-2'")
            # The key itself: Debezium makes a deletion, a tombstone and an insertion of it.
            rig.admin.execute("UPDATE entities SET entity_id = 99 WHERE key = 'pump-1'")
            await assert_same(rig, running)
            assert (await running.counts()).dead_lettered == 0


async def test_large_values_that_an_update_leaves_alone_stay(rig: Rig) -> None:
    large = secrets.token_hex(40_000)  # Does not compress: it is stored out of line.
    with rig.writer() as writer:
        async with rig.running() as running:
            for tenant in TENANTS:
                rig.admin.execute(
                    "UPDATE tenants SET display_name = %s WHERE tenant_id = %s", [large, tenant.id]
                )
                writer.write([RawPoint(tenant.id, 1, 2, T0, large, "value_text")])
            await running.caught_up()
            rig.admin.execute("UPDATE tenants SET unknown_attribute_policy = 'register'")
            rig.admin.execute("UPDATE entity_values_ts SET quality = 3")
            await assert_same(rig, running)
            # Both in one batch: what is left out is in the batch itself.
            with rig.admin.transaction():
                rig.admin.execute("UPDATE tenants SET display_name = %s", [large[::-1]])
                rig.admin.execute("UPDATE tenants SET unknown_attribute_policy = 'reject'")
                rig.admin.execute("UPDATE tenants SET display_name = '' WHERE tenant_id = 2")
            await assert_same(rig, running)
            assert (await running.counts()).dead_lettered == 0


async def test_the_order_of_changes_is_kept(rig: Rig) -> None:
    async with rig.running() as running:
        for number in range(40):
            with rig.admin.transaction():
                rig.admin.execute("UPDATE tenants SET display_name = %s", [f"a{number}"])
                rig.admin.execute("DELETE FROM entities WHERE entity_id = 2")
                rig.admin.execute(
                    "INSERT INTO entities (tenant_id, entity_id, key)"
                    " VALUES (1, 2, %s), (2, 2, %s)",
                    [f"one-{number}", f"two-{number}"],
                )
                rig.admin.execute(
                    "UPDATE tenants SET display_name = display_name || 'b' WHERE tenant_id = 1"
                )
        await assert_same(rig, running)
        names = await running.query("SELECT display_name FROM tenants ORDER BY tenant_id")
        assert names == [("a39b",), ("a39",)]


async def test_it_goes_on_where_it_stopped(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            writer.write(points(ACME.id))
            await running.caught_up()
            before = await running.counts()
        writer.write(points(GLOBEX.id, 20))
        async with rig.running() as running:
            await assert_same(rig, running)
            after = await running.counts()
    assert after.applied == before.applied + 20


async def test_stops_at_any_moment_lose_and_double_nothing(rig: Rig) -> None:
    async with writing(rig) as written:
        for _ in range(5):
            async with rig.running() as running:
                await running.until(lambda standing: standing.phase is Phase.STREAMING)
                applied = (await running.counts()).applied
                async with asyncio.timeout(30):
                    while (await running.counts()).applied <= applied:
                        await running.progress.after(running.progress.now.version)
    async with rig.running() as running:
        await assert_same(rig, running)
        rows = await running.query("SELECT count(*) FROM entity_values_ts")
        assert rows == [(written[0],)]
        assert (await running.counts()).dead_lettered == 0


@asynccontextmanager
async def writing(rig: Rig) -> AsyncIterator[list[int]]:
    """Small transactions of both tenants, one after the other, until the block ends."""
    stop, written = threading.Event(), [0]

    def write_on() -> None:
        with rig.writer(3) as writer:
            while not stop.is_set():
                writer.write([*points(ACME.id, 3), *points(GLOBEX.id, 2)])
                written[0] += 5

    thread = threading.Thread(target=write_on)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)


async def test_what_was_applied_and_comes_again_is_counted_only(rig: Rig) -> None:
    class Forgetful:
        """A sink whose success the source never hears of: as if each confirmation were lost."""

        def __init__(self, sink: Sink) -> None:
            self._sink = sink

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sink, name)

        async def apply(self, batch: Batch) -> Any:
            await self._sink.apply(batch)
            if batch.counts()["entity_values_ts"]:
                raise OSError("the connection broke right after the commit")
            return await self._sink.state()

    with rig.writer() as writer:
        async with rig.running(wrap=Forgetful) as running:
            await running.until(lambda standing: standing.phase is Phase.STREAMING)
            for value in range(3):
                for tenant in TENANTS:
                    writer.write(points(tenant.id, value=value))
            await assert_same(rig, running)
            assert (await running.counts()).dead_lettered == 0


async def test_an_event_of_10_mib(rig: Rig) -> None:
    large = secrets.token_hex(5 * MEBIBYTE)
    async with rig.running() as running:
        await running.until(lambda standing: standing.phase is Phase.STREAMING)
        for tenant in TENANTS:
            rig.admin.execute(
                "UPDATE tenants SET display_name = %s WHERE tenant_id = %s", [large, tenant.id]
            )
        await running.caught_up()
        names = await running.query("SELECT display_name FROM tenants")
        assert names == [(large,)] * 2


async def test_a_change_that_cannot_be_applied_keeps_what_it_takes_to_read_it(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await running.until(lambda standing: standing.phase is Phase.STREAMING)
            with rig.admin.transaction():
                for tenant in TENANTS:
                    rig.admin.execute(
                        "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id,"
                        " event_time, ingested_at, value_decimal)"
                        " VALUES (%s, 7, 1, now(), now(), 'NaN')",
                        [tenant.id],
                    )
            writer.write(points(ACME.id, 1, value=100))
            await running.caught_up()
            counts = await running.counts()
            letters = await running.query(
                "SELECT codec, source_columns, raw, reason, commit_lsn FROM cdc_dead_letters"
            )
            kept = await running.query("SELECT value_double FROM entity_values_ts")
    assert counts.dead_lettered == 2
    assert kept == [(100.0,)]
    seen = []
    for codec, columns, raw, reason, commit_lsn in letters:
        relation = Relation(0, "atlas", HISTORY.name, Relation.columns_from(columns), CODECS[codec])
        names = [column.name for column in relation.columns]
        row = dict(zip(names, relation.codec.insert(bytes(raw), relation), strict=True))
        tenant_ids = relation.codec.to_arrow(ColumnType.INT4, [row["tenant_id"]])
        seen += tenant_ids.to_pylist()
        assert "value_decimal: no DECIMAL: NaN or infinite" in reason
        assert commit_lsn > 0
    assert sorted(seen) == [ACME.id, GLOBEX.id]
