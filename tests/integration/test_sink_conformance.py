"""What every sink promises, run against each of them from the real slot.

The Redshift sink runs against a real Postgres through a shim: see redshift_shim.py for what that
shows and what it does not.
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from atlas_cdc_reconciler.sink import Counts, Sink, WarehouseError
from atlas_cdc_reconciler.tables import TABLES
from atlas_devstack.database import Database

from .lane_writer import RawPoint
from .reconciler_rig import ACME, GLOBEX, T0, VALUES, Rig, make_rig, points
from .sink_feed import Feed, open_feed
from .sink_sites import DuckSite, Site, redshift_site, source_history, source_rows

TENANTS = (ACME, GLOBEX)
DECIMAL_NAN = (
    "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time, ingested_at,"
    " value_decimal) VALUES (2, 7, 1, now(), now(), 'NaN')"
)


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


@pytest.fixture
async def feed(rig: Rig) -> AsyncIterator[Feed]:
    async with open_feed(rig) as feed:
        yield feed


@pytest.fixture(params=["duckdb", "redshift"])
def site(
    request: pytest.FixtureRequest,
    module_database: Database,
    tmp_path: Path,
) -> Iterator[Site]:
    if request.param == "duckdb":
        yield DuckSite(tmp_path / "warehouse.duckdb")
        return
    request.getfixturevalue("aws_credentials")
    with redshift_site(module_database.admin_dsn, request.getfixturevalue("aws")) as site:
        yield site


def of_all_types(site: Site, tenant_id: int) -> list[RawPoint]:
    """Every value that the site can hold."""
    return [
        RawPoint(tenant_id, 1 + number % 3, 1 + number, T0, value, column, quality=number)
        for number, (column, value) in enumerate(VALUES)
        if not isinstance(value, str) or len(value.encode()) <= site.text_octets_max
    ]


async def assert_equal(rig: Rig, site: Site, sink: Sink) -> None:
    """Every row of every table is the same on both sides."""
    assert await site.history(sink) == source_history(rig.admin)
    for table in TABLES.keys() - {"entity_values_ts"}:
        assert await site.rows(sink, table) == source_rows(rig.admin, table), table


async def counted(sink: Sink, table: str = "entity_values_ts") -> Counts:
    """The books of a table; the law of conservation is checked on the way."""
    counts = await sink.counts()
    assert all(count.are_conserved for count in counts.values()), counts
    return counts[table]


async def test_rows_of_every_type_are_copied_and_streamed(rig: Rig, feed: Feed, site: Site) -> None:
    async with site.open() as sink:
        assert (await sink.state()).position is None
        with rig.writer() as writer:
            writer.write(of_all_types(site, ACME.id))
            await feed.copy(sink)
            copied = (await counted(sink)).read
            await assert_equal(rig, site, sink)
            for tenant in TENANTS:
                writer.write([*of_all_types(site, tenant.id), *points(tenant.id)])
            await feed.follow(sink)
        await assert_equal(rig, site, sink)
        counts = await counted(sink)
    assert counts.read == 3 * copied + 2 * 10
    assert (counts.applied, counts.dead_lettered) == (counts.read, 0)


async def test_updates_and_deletes_of_every_type_find_their_rows(
    rig: Rig, feed: Feed, site: Site
) -> None:
    async with site.open() as sink:
        with rig.writer() as writer:
            for tenant in TENANTS:
                writer.write(of_all_types(site, tenant.id))
            await feed.copy(sink)
        rig.admin.execute("UPDATE entity_values_ts SET quality = quality + 100")
        await feed.follow(sink)
        await assert_equal(rig, site, sink)
        rig.admin.execute("DELETE FROM entity_values_ts WHERE tenant_id = 1")
        await feed.follow(sink)
        await assert_equal(rig, site, sink)
        assert (await counted(sink)).dead_lettered == 0
        assert len(await site.history(sink)) == len(of_all_types(site, GLOBEX.id))


async def test_minus_zero_and_not_a_number_are_values_of_their_own(
    rig: Rig, feed: Feed, site: Site
) -> None:
    values = [0.0, -0.0, float("nan"), float("inf")]
    async with site.open() as sink:
        await feed.copy(sink)
        with rig.writer() as writer:
            for tenant in TENANTS:
                writer.write([RawPoint(tenant.id, 1, 1, T0, value) for value in values])
        await feed.follow(sink)
        for gone in ("-0", "NaN"):
            rig.admin.execute(
                "DELETE FROM entity_values_ts WHERE tenant_id = 1 AND value_double::text = %s",
                [gone],
            )
        await feed.follow(sink)
        await assert_equal(rig, site, sink)
        assert (await counted(sink)).dead_lettered == 0


async def test_the_last_writer_of_a_key_wins_within_a_batch(
    rig: Rig, feed: Feed, site: Site
) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        for tenant in TENANTS:
            with rig.admin.transaction():
                for statement in (
                    "INSERT INTO entities (tenant_id, entity_id, key) VALUES (%(t)s, 10, 'a')",
                    "UPDATE entities SET key = 'b' WHERE tenant_id = %(t)s AND entity_id = 10",
                    "INSERT INTO entities (tenant_id, entity_id, key) VALUES (%(t)s, 11, 'gone')",
                    "DELETE FROM entities WHERE tenant_id = %(t)s AND entity_id = 11",
                    "DELETE FROM entities WHERE tenant_id = %(t)s AND entity_id = 3",
                    "INSERT INTO entities (tenant_id, entity_id, key) VALUES (%(t)s, 3, 'again')",
                    "UPDATE entities SET entity_id = 12 WHERE tenant_id = %(t)s AND entity_id = 2",
                ):
                    rig.admin.execute(statement, {"t": tenant.id})
        rig.admin.execute("UPDATE attributes SET unit = 'bar', allowed_values = '{a,\"b,c\"}'")
        rig.admin.execute("UPDATE attributes SET min_value = -5, max_value = 1e30")
        await feed.follow(sink)
        await assert_equal(rig, site, sink)
        assert (await counted(sink, "entities")).dead_lettered == 0


async def test_a_large_value_that_was_not_sent_stays(rig: Rig, feed: Feed, site: Site) -> None:
    large = secrets.token_hex(8_192)  # Stored out of line, as it cannot be made smaller.
    rig.admin.execute("UPDATE tenants SET display_name = %s", [large])
    async with site.open() as sink:
        await feed.copy(sink)
        rig.admin.execute("UPDATE tenants SET status = 'suspended' WHERE tenant_id = 2")
        await feed.follow(sink)
        await assert_equal(rig, site, sink)
        # Sent once in the batch, and left out by the next change.
        with rig.admin.transaction():
            rig.admin.execute("UPDATE tenants SET display_name = reverse(display_name)")
            rig.admin.execute("UPDATE tenants SET status = 'active'")
        await feed.follow(sink)
        await assert_equal(rig, site, sink)
        assert (await counted(sink, "tenants")).dead_lettered == 0


async def test_of_equal_rows_as_many_go_as_were_deleted(rig: Rig, feed: Feed, site: Site) -> None:
    delete = (
        "DELETE FROM entity_values_ts WHERE ctid IN (SELECT ctid FROM entity_values_ts"
        " WHERE tenant_id = %s AND value_double = 1.5 LIMIT %s)"
    )
    async with site.open() as sink:
        await feed.copy(sink)
        with rig.writer() as writer:
            for tenant in TENANTS:  # In one flush: equal to the last bit.
                writer.write(4 * points(tenant.id, 3))
        await feed.follow(sink)
        rig.admin.execute(delete, [ACME.id, 1])
        rig.admin.execute(delete, [GLOBEX.id, 3])
        await feed.follow(sink)
        await assert_equal(rig, site, sink)
        with rig.admin.transaction():
            rig.admin.execute("UPDATE entity_values_ts SET quality = 5 WHERE value_double = 2.5")
            rig.admin.execute(delete, [ACME.id, 3])
            rig.admin.execute("UPDATE entity_values_ts SET quality = 6 WHERE quality = 5")
        await feed.follow(sink)
        await assert_equal(rig, site, sink)
        assert (await counted(sink)).dead_lettered == 0


async def test_what_cannot_be_applied_is_buried_and_the_rest_goes_on(
    rig: Rig, feed: Feed, site: Site
) -> None:
    async with site.open() as sink:
        with rig.writer() as writer:
            for tenant in TENANTS:
                writer.write(points(tenant.id))
            await feed.copy(sink)
            # Behind the pipeline's back, so that the deletion finds nothing.
            await site.spoil(
                sink, "DELETE FROM entity_values_ts WHERE tenant_id = 1 AND value_double = 3.5"
            )
            with rig.admin.transaction():
                rig.admin.execute(
                    "UPDATE entity_values_ts SET quality = 9 WHERE value_double = 2.5"
                )
                rig.admin.execute("DELETE FROM entity_values_ts WHERE value_double = 3.5")
                rig.admin.execute(DECIMAL_NAN)
            writer.write(points(ACME.id, 1, value=100))
            await feed.follow(sink)
        counts = await counted(sink)
        letters = sorted(await site.letters(sink), key=lambda letter: letter[1])
        rows = [row[0] for row in await site.rows(sink, "entity_values_ts")]
    assert (counts.read, counts.applied, counts.dead_lettered) == (26, 24, 2)
    assert [(table, kind) for table, kind, _, _ in letters] == [
        ("entity_values_ts", "DELETE"),
        ("entity_values_ts", "INSERT"),
    ]
    assert "not here" in letters[0][2]
    assert "value_decimal" in letters[1][2]
    assert all(raw[:1] == kind[:1].encode() for _, kind, _, raw in letters)
    assert (rows.count(ACME.id), rows.count(GLOBEX.id)) == (10, 9)


async def test_a_row_that_cannot_be_copied_is_buried_too(rig: Rig, feed: Feed, site: Site) -> None:
    with rig.writer() as writer:
        for tenant in TENANTS:
            writer.write(points(tenant.id))
    rig.admin.execute(DECIMAL_NAN)
    async with site.open() as sink:
        await feed.copy(sink)
        counts = await counted(sink)
        ((table, _, reason, raw),) = await site.letters(sink)
        assert len(await site.history(sink)) == 20
    assert (counts.read, counts.applied, counts.dead_lettered) == (21, 20, 1)
    assert (table, reason) == ("entity_values_ts", "value_decimal: no DECIMAL: NaN or infinite")
    assert raw[:2] == b"\0\x0d"


async def test_a_batch_is_stored_once_however_often_it_comes(
    rig: Rig, feed: Feed, site: Site
) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        state = await sink.state()
        assert state.position is not None
        with rig.writer() as writer:
            for tenant in TENANTS:
                writer.write(points(tenant.id))
        batches = await feed.batches(state.position)
        for batch in [*batches, *batches]:
            state = await sink.apply(batch)
        assert state.position is not None
        assert state.position.at == batches[-1].position
        await assert_equal(rig, site, sink)
        assert (await counted(sink)).applied == 20


async def test_a_batch_that_does_not_follow_is_refused(rig: Rig, feed: Feed, site: Site) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        state = await sink.state()
        assert state.position is not None
        with rig.writer() as writer:
            writer.write(points(ACME.id))
        first = await feed.batches(state.position)
        await feed.follow(sink)
        behind = await sink.state()
        assert behind.position is not None
        with rig.writer() as writer:
            writer.write(points(GLOBEX.id))
        later = await feed.batches(behind.position)
        with pytest.raises(WarehouseError, match="the warehouse stands at"):
            await sink.apply(replace(later[-1], start=first[0].start))
        assert (await sink.state()).position == behind.position
        await feed.follow(sink)
        await assert_equal(rig, site, sink)


async def test_it_goes_on_where_the_instance_before_stopped(
    rig: Rig, feed: Feed, site: Site
) -> None:
    with rig.writer() as writer:
        writer.write(points(ACME.id))
        async with site.open() as sink:
            await feed.copy(sink)
            writer.write(points(GLOBEX.id))
            await feed.follow(sink)
        writer.write(points(ACME.id, value=50))
        async with site.open() as sink:
            await feed.follow(sink)
            await assert_equal(rig, site, sink)
            assert (await counted(sink)).applied == 30


async def test_a_first_copy_that_fails_leaves_nothing(rig: Rig, feed: Feed, site: Site) -> None:
    class PulledError(Exception):
        """What ends the copy."""

    with rig.writer() as writer:
        for tenant in TENANTS:
            writer.write(points(tenant.id))
    async with site.open() as sink:
        with pytest.raises(PulledError):
            await feed.copy(sink, fails_with=PulledError())
        assert (await sink.state()).position is None
        assert await site.history(sink) == []
        await feed.copy(sink)
        await assert_equal(rig, site, sink)
