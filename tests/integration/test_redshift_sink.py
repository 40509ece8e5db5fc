"""What is the Redshift sink's own: conflicts, lost connections, zombies, files, limits.

Against a real Postgres through a shim: see redshift_shim.py for what that shows and what not.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from sqlglot import exp

from atlas_cdc_reconciler.digest import Engine, window_digests_sql
from atlas_cdc_reconciler.lsn import Lsn
from atlas_cdc_reconciler.sink import FencedError, TooManyDeadLettersError, WarehouseError
from atlas_cdc_reconciler.sink.redshift.client import Session
from atlas_cdc_reconciler.sink.redshift.warehouse import RedshiftWarehouse
from atlas_common.tenant import Tenant
from atlas_devstack.database import Database

from .lane_writer import RawPoint
from .reconciler_rig import ACME, GLOBEX, T0, VALUES, Rig, make_rig, points
from .redshift_shim import BrokenConnectionError
from .sink_feed import Feed, open_feed
from .sink_sites import RedshiftSite, redshift_site, source_history
from .waiting import eventually

TENANTS = (ACME, GLOBEX)
CONFLICT = (
    "SELECT redshift.fail('XX000', '1023"
    " DETAIL:  Serializable isolation violation on table - 100, transactions forming the cycle')"
)
WAIT_SECONDS = 20.0


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


@pytest.fixture
async def feed(rig: Rig) -> AsyncIterator[Feed]:
    async with open_feed(rig) as feed:
        yield feed


@pytest.fixture
def site(module_database: Database, aws: str, aws_credentials: None) -> Iterator[RedshiftSite]:
    with redshift_site(module_database.admin_dsn, aws) as site:
        yield site


def once(statement: str, then: Callable[[], str | None]) -> Callable[[str], str | None]:
    """What does `then` before the first statement that begins so."""
    done: list[bool] = []

    def before(text: str) -> str | None:
        if done or not text.startswith(statement):
            return None
        done.append(True)
        return then()

    return before


def broken() -> None:
    """The connection breaks."""
    raise BrokenConnectionError


def write(rig: Rig, value: float = 1.5) -> None:
    """Ten points for each tenant."""
    with rig.writer() as writer:
        for tenant in TENANTS:
            writer.write(points(tenant.id, value=value))


async def assert_stored_once(rig: Rig, site: RedshiftSite, sink: RedshiftWarehouse) -> None:
    """All that was written is there once, and no file is left."""
    assert await site.history(sink) == source_history(rig.admin)
    counts = (await sink.counts())["entity_values_ts"]
    assert (counts.applied, counts.dead_lettered) == (len(source_history(rig.admin)), 0)
    assert site.files() == []


async def test_a_transaction_that_met_another_is_repeated(
    rig: Rig, feed: Feed, site: RedshiftSite
) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        write(rig)
        begun = site.shim.statements.count("BEGIN")
        site.shim.before = once("COMMIT", lambda: CONFLICT)
        await feed.follow(sink)
        assert site.shim.statements.count("BEGIN") > begun + 1
        await assert_stored_once(rig, site, sink)


async def test_conflicts_without_end_are_told(rig: Rig, feed: Feed, site: RedshiftSite) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        write(rig)
        site.shim.before = lambda text: CONFLICT if text == "COMMIT" else None
        with pytest.raises(WarehouseError, match="1023"):
            await feed.follow(sink)
        site.shim.before = lambda _: None
        await feed.follow(sink)
        await assert_stored_once(rig, site, sink)


@pytest.mark.parametrize(
    "statement", ["BEGIN", "COPY", "INSERT INTO", "/* set_position */", "COMMIT"]
)
async def test_a_connection_that_breaks_leaves_nothing_and_the_batch_is_stored_next_time(
    rig: Rig, feed: Feed, site: RedshiftSite, statement: str
) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        write(rig)
        site.shim.before = once(statement, broken)
        with pytest.raises(WarehouseError, match="out of reach"):
            await feed.follow(sink)
        assert await site.history(sink) == []
        assert site.files() == []
        await feed.follow(sink)
        await assert_stored_once(rig, site, sink)


async def test_a_commit_whose_answer_got_lost_is_not_repeated(
    rig: Rig, feed: Feed, site: RedshiftSite
) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        state = await sink.state()
        assert state.position is not None
        write(rig)
        batches = await feed.batches(state.position)
        for batch in batches:
            site.shim.lost_answer = b"COMMIT\0"
            with pytest.raises(WarehouseError, match="out of reach"):
                await sink.apply(batch)
            after = await sink.apply(batch)
            assert after.position is not None
            assert after.position.at == batch.position
        await assert_stored_once(rig, site, sink)


async def test_a_zombie_stores_nothing(rig: Rig, feed: Feed, site: RedshiftSite) -> None:
    async with site.open() as zombie, site.open() as sink:
        await feed.copy(sink)
        state = await sink.state()
        assert state.position is not None
        write(rig)
        batches = await feed.batches(state.position)
        for batch in batches:
            with pytest.raises(FencedError, match="owns the warehouse since epoch 2, ours was 1"):
                await zombie.apply(batch)
        with pytest.raises(FencedError):
            await feed.copy(zombie)
        assert await site.history(sink) == []
        for batch in batches:
            await sink.apply(batch)
        await assert_stored_once(rig, site, sink)


async def test_a_claim_waits_for_the_transaction_of_the_owner_before(
    rig: Rig, feed: Feed, site: RedshiftSite
) -> None:
    reached, go = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert go.wait(WAIT_SECONDS)

    async with site.open() as zombie, RedshiftWarehouse.open(site.config) as sink:
        await feed.copy(zombie)
        write(rig)
        site.shim.before = once("COMMIT", hold)
        storing = asyncio.create_task(feed.follow(zombie))
        assert await asyncio.to_thread(reached.wait, WAIT_SECONDS)
        claiming = asyncio.create_task(sink.claim("next"))
        waiting = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'cdc_owner'::regclass"
        )
        await eventually(lambda: site.query(waiting) == [(1,)])
        go.set()
        assert await claiming == 2
        stored = await sink.state()
        assert stored.position is not None
        # What was stored before the claim counts; the zombie's next batch does not.
        with suppress(FencedError):
            await storing
        write(rig, 50)
        with pytest.raises(FencedError):
            await feed.follow(zombie)
        await feed.follow(sink)
        await assert_stored_once(rig, site, sink)


async def test_an_instance_that_claimed_nothing_stores_nothing(
    feed: Feed, site: RedshiftSite
) -> None:
    async with RedshiftWarehouse.open(site.config) as sink:
        with pytest.raises(FencedError, match="has not claimed"):
            await feed.copy(sink)


async def test_texts_that_redshift_cannot_hold_become_letters(
    rig: Rig, feed: Feed, site: RedshiftSite
) -> None:
    odd = ["x" * 65_536, "ü" * 32_768, "no \ufffe character"]
    fine = ["x" * 65_535, "trailing blanks   ", "trailing blanks"]

    def texts(tenant_id: int) -> list[RawPoint]:
        return [RawPoint(tenant_id, 1, 2, T0, text, "value_text") for text in odd + fine]

    async with site.open() as sink:
        with rig.writer() as writer:
            writer.write(texts(ACME.id))
            await feed.copy(sink)
            writer.write(texts(GLOBEX.id))
            await feed.follow(sink)
        rig.admin.execute("DELETE FROM entity_values_ts WHERE value_text = 'trailing blanks'")
        await feed.follow(sink)
        counts = (await sink.counts())["entity_values_ts"]
        assert counts.are_conserved
        assert (counts.applied, counts.dead_lettered) == (8, 6)
        kept = site.query("SELECT tenant_id, value_text FROM entity_values_ts ORDER BY 1, 2 DESC")
        assert kept == [(tenant.id, text) for tenant in TENANTS for text in fine[:2]]
        reasons = site.query("SELECT letter_class, reason FROM cdc_dead_letters ORDER BY letter_id")
    assert [letter_class for letter_class, _ in reasons] == ["COPY"] * 3 + ["VALUE"] * 3
    assert sum("65536 bytes of text" in reason for _, reason in reasons) == 4
    assert sum("no character" in reason for _, reason in reasons) == 2


async def test_a_letter_of_a_megabyte_keeps_its_bytes(
    rig: Rig, feed: Feed, site: RedshiftSite
) -> None:
    large = "".join(chr(0x100 + number % 5_000) for number in range(500_000))
    async with site.open() as sink:
        await feed.copy(sink)
        with rig.writer() as writer:
            writer.write([RawPoint(GLOBEX.id, 1, 2, T0, large, "value_text"), *points(ACME.id)])
        await feed.follow(sink)
        ((table, kind, _, raw),) = await site.letters(sink)
        assert len(await site.history(sink)) == 10
    assert (table, kind) == ("entity_values_ts", "INSERT")
    assert large.encode() in raw


async def test_too_many_letters_stop_it(rig: Rig, feed: Feed, site: RedshiftSite) -> None:
    site.config = site.config.model_copy(update={"dead_letters_per_batch_max": 3})
    async with site.open() as sink:
        await feed.copy(sink)
        before = await sink.state()
        with rig.writer() as writer:
            writer.write(4 * [RawPoint(ACME.id, 1, 2, T0, "x" * 65_536, "value_text")])
            writer.write(points(GLOBEX.id))
        with pytest.raises(TooManyDeadLettersError, match="more than 3 changes"):
            await feed.follow(sink)
        assert await sink.state() == before


async def test_a_large_batch_goes_in_several_files_which_a_manifest_lists(
    rig: Rig, feed: Feed, site: RedshiftSite
) -> None:
    site.config = site.config.model_copy(update={"file_bytes_max": 2**16})
    seen: list[int] = []

    def look(text: str) -> None:
        if text.startswith("COPY"):
            seen.append(sum(key.endswith(".parquet") for key in site.files()))

    async with site.open() as sink:
        await feed.copy(sink)
        with rig.writer() as writer:
            for tenant in TENANTS:
                writer.write(points(tenant.id, 1_000))
        site.shim.before = look
        await feed.follow(sink)
        site.shim.before = lambda _: None
        await assert_stored_once(rig, site, sink)
    assert max(seen) > 3


async def test_files_of_earlier_epochs_are_swept_and_others_left(
    feed: Feed, site: RedshiftSite
) -> None:
    def put(key: str) -> str:
        site.s3.put_object(Bucket=site.config.bucket, Key=key, Body=b"left behind")
        return key

    old = put("cdc/000000000001/abc/000000-stage.parquet")
    others = [put("another/000000000001/x"), put("cdc/000000000007/abc/later.parquet")]
    async with site.open() as sink:
        assert sorted(site.files()) == sorted([*others, old])
        await sink.claim("again")
        assert sorted(site.files()) == sorted(others)
        await feed.copy(sink)
        assert sorted(site.files()) == sorted(others)


async def test_a_bucket_out_of_reach_is_an_outage(rig: Rig, feed: Feed, site: RedshiftSite) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        write(rig)
        right = site.config
        site.config = right.model_copy(update={"bucket": "is-not-there"})
        async with RedshiftWarehouse.open(site.config) as astray:
            state = await astray.state()
            with pytest.raises(WarehouseError, match="S3 bucket is-not-there"):
                await feed.follow(astray)
            assert await astray.state() == state
        site.config = right
        await feed.follow(sink)
        await assert_stored_once(rig, site, sink)


async def test_every_statement_that_was_sent_is_one_of_redshifts(
    rig: Rig, feed: Feed, site: RedshiftSite
) -> None:
    async with site.open() as sink:
        write(rig)
        await feed.copy(sink)
        write(rig, 30)
        rig.admin.execute("UPDATE entity_values_ts SET quality = 3 WHERE tenant_id = 1")
        rig.admin.execute("UPDATE tenants SET status = 'suspended' WHERE tenant_id = 2")
        rig.admin.execute("DELETE FROM entities WHERE entity_id = 3")
        await feed.follow(sink)
    kinds = set()
    for statement in site.shim.statements:
        if statement.startswith(("SET ", "BEGIN", "COMMIT", "/* lock_owner */")):
            continue
        parsed = sqlglot.parse_one(statement, dialect="redshift")
        assert not isinstance(parsed, exp.Command), statement
        kinds.add(type(parsed))
    assert kinds >= {exp.Copy, exp.Merge, exp.Insert, exp.Delete, exp.Update, exp.Create, exp.Drop}


async def test_its_digests_are_the_sources(rig: Rig, feed: Feed, site: RedshiftSite) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        with rig.writer() as writer:
            for tenant in TENANTS:
                writer.write(points_that_fit(tenant.id))
                writer.write(points(tenant.id))
        await feed.follow(sink)
    source = [
        list(rig.admin.execute(digests_sql(Engine.POSTGRES, tenant).encode())) for tenant in TENANTS
    ]
    with closing(Session(site.config)) as session:
        for tenant, expected in zip(TENANTS, source, strict=True):
            statement = digests_sql(Engine.REDSHIFT, tenant)
            assert numbers(session.run(statement)) == numbers(expected)
            site.query(
                f"DELETE FROM entity_values_ts WHERE tenant_id = {tenant.id} AND quality = 2"
            )
            assert numbers(session.run(statement)) != numbers(expected)
    assert numbers(source[0]) != numbers(source[1])


def digests_sql(engine: Engine, tenant: Tenant) -> str:
    """The digests of all windows of a tenant."""
    bounds = ("'2000-01-01 00:00:00+00'::timestamptz", "'2100-01-01 00:00:00+00'::timestamptz")
    return window_digests_sql(engine, (str(tenant.id), *bounds, "1000000::bigint"))


def numbers(rows: Iterable[tuple[Any, ...]]) -> list[tuple[int, ...]]:
    """Rows of digests, whatever the driver makes of large numbers."""
    return sorted(tuple(map(int, row)) for row in rows)


def points_that_fit(tenant_id: int) -> list[RawPoint]:
    """Every value of VALUES that Redshift can hold."""
    return [
        RawPoint(tenant_id, 1, 1 + number, T0, value, column, quality=number)
        for number, (column, value) in enumerate(VALUES)
        if not isinstance(value, str) or len(value.encode()) < 65_536
    ]


async def test_the_position_is_where_the_source_was(
    rig: Rig, feed: Feed, site: RedshiftSite
) -> None:
    async with site.open() as sink:
        await feed.copy(sink)
        write(rig)
        state = await feed.follow(sink)
    assert state.position is not None
    ((source_id, offset, lsn),) = site.query("SELECT * FROM cdc_position")
    assert (source_id, Lsn(lsn)) == (state.position.source_id, state.position.at.lsn)
    assert offset == state.position.at.offset
    ((beat_id,),) = site.query("SELECT beat_id FROM replication_heartbeat")
    assert beat_id == state.beat.beat_id
