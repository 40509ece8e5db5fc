"""Losing the slot, copying again, pausing: whatever happens, the copy is equal afterwards."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from atlas_cdc_reconciler.aggregate import Demand
from atlas_cdc_reconciler.aggregate_sql import AggregateQuery, Function
from atlas_cdc_reconciler.convert import read_metadata
from atlas_cdc_reconciler.lifecycle import Actor, OrderKind
from atlas_cdc_reconciler.progress import Phase
from atlas_cdc_reconciler.scope import Scope
from atlas_cdc_reconciler.sink.queries import Q
from atlas_common.errors import ServiceError
from atlas_common.token import TokenSigner
from atlas_devstack.database import Database

from .reconciler_rig import ACME, GLOBEX, Rig, Running, make_rig, points, points_of_all_types

TENANTS = (ACME, GLOBEX)
OPERATOR = Actor("ops@example", "a drill", "request-1")


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


def _write_history(rig: Rig) -> None:
    """Both tenants, in several windows."""
    with rig.writer() as writer:
        for value in range(3):
            for tenant in TENANTS:
                writer.write(
                    [*points_of_all_types(tenant.id), *points(tenant.id, 50, 100 * value + 0.5)]
                )


def _change_everything(rig: Rig) -> None:
    """What nobody streams: rows come, change and go, in the history and elsewhere."""
    with rig.writer() as writer:
        for tenant in TENANTS:
            writer.write(points(tenant.id, 30, value=500))
    rig.admin.execute("DELETE FROM entity_values_ts WHERE tenant_id = 2 AND value_double = 3.5")
    rig.admin.execute("UPDATE entity_values_ts SET quality = 9 WHERE value_double = 4.5")
    rig.admin.execute("UPDATE entities SET key = 'renamed' WHERE tenant_id = 1 AND key = 'pump-1'")
    rig.admin.execute("DELETE FROM attributes WHERE tenant_id = 2 AND attribute_id = 3")


async def _streaming(running: Running) -> None:
    await running.until(lambda standing: standing.phase is Phase.STREAMING)


async def _audited(running: Running) -> list[tuple[str, str]]:
    rows = await running.query("SELECT action, actor FROM cdc_audit ORDER BY acted_at")
    return [(action, actor) for action, actor in rows]


@pytest.mark.parametrize("how", ["dropped", "ahead"])
async def test_a_lost_slot_is_made_good_by_itself(rig: Rig, how: str) -> None:
    _write_history(rig)
    async with rig.running() as running:
        await running.caught_up()
    _change_everything(rig)
    if how == "dropped":
        rig.close()
    else:
        rig.admin.execute(
            "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [rig.slot.name]
        )
    async with rig.running() as running:
        await _streaming(running)
        copied = running.progress.now.copy
        with rig.writer() as writer:
            writer.write(points(GLOBEX.id, 5, value=900))
        await running.caught_up()
        await running.assert_equal(rig)
        assert await _audited(running) == [("recover", "pipeline")]
        assert await running.query("SELECT count(*) FROM cdc_levelling") == [(0,)]
    # Only what differs was copied.
    assert copied is not None
    assert 0 < copied.rows_differing < copied.rows_compared
    assert copied.tables_done == copied.tables_total
    assert copied.share == 1.0


async def test_a_lost_slot_stops_the_pipeline_if_it_is_told_so(rig: Rig) -> None:
    rig.slot = rig.slot.model_copy(update={"on_lost": "stop"})
    async with rig.running() as running:
        await running.caught_up()
    _change_everything(rig)
    rig.close()
    async with rig.running() as running:
        standing = await running.until(lambda standing: standing.phase is Phase.STOPPED)
        assert "is gone" in standing.reason
        assert "atlas pipeline recover" in standing.reason
        await running.upkeep.lifecycle.order(OrderKind.RECOVER, OPERATOR)
        await _streaming(running)
        await running.caught_up()
        await running.assert_equal(rig)
        assert await _audited(running) == [("recover", OPERATOR.name)]


async def test_it_does_not_recover_for_ever(rig: Rig) -> None:
    rig.slot = rig.slot.model_copy(update={"recoveries_per_hour_max": 1})
    async with rig.running() as running:
        await running.caught_up()
    for expected in (Phase.STREAMING, Phase.STOPPED):
        rig.close()
        async with rig.running() as running:
            await running.until(lambda standing, phase=expected: standing.phase is phase)  # type: ignore[misc]


async def test_a_recovery_that_is_cut_short_goes_on_and_copies_no_more_than_it_must(
    rig: Rig,
) -> None:
    _write_history(rig)
    async with rig.running() as running:
        await running.caught_up()
    rig.admin.execute("UPDATE entity_values_ts SET quality = 7 WHERE tenant_id = 1")
    rig.close()
    async with rig.running() as running:
        standing = await running.until(
            lambda standing: standing.copy is not None and standing.copy.rows_copied > 0
        )
        assert standing.phase is Phase.RECOVERING
    async with rig.running() as running:
        # It remembers what it was about, although the position it stood at is there.
        await running.until(lambda standing: standing.phase is Phase.RECOVERING)
        await _streaming(running)
        again = running.progress.now.copy
        await running.caught_up()
        await running.assert_equal(rig)
    assert again is not None
    assert again.rows_differing < 222


async def test_who_reads_in_the_middle_of_a_recovery_is_told(rig: Rig) -> None:
    _write_history(rig)
    count = AggregateQuery(ACME.id, (1,), (), None, None, 0, (Function.COUNT,), False)
    async with rig.running() as running:
        await running.caught_up()
        await running.upkeep.lifecycle.order(OrderKind.PAUSE, OPERATOR)
        # As a recovery leaves it that was cut short.
        await running.warehouse.write([(Q["begin_levelling"], {"reason": "a drill"})])
        async with running.aggregator.answer(count, Demand()) as answer:
            assert answer.served.levelling == "a drill"
            told = read_metadata(ACME, answer.served, 1.0, TokenSigner({1: b"k" * 16}, 1))
            assert "being recovered (a drill)" in told.warnings[0]
        await running.upkeep.lifecycle.order(OrderKind.RESUME, OPERATOR)
        await _streaming(running)
        async with running.aggregator.answer(count, Demand()) as answer:
            assert answer.served.levelling == ""
        copied = running.progress.now.copy
        assert copied is not None
        assert (copied.rows_compared, copied.rows_differing) == (444, 0)


async def test_a_first_copy_that_is_cut_short_goes_on_and_shows_nothing_before(rig: Rig) -> None:
    _write_history(rig)
    async with rig.running() as running:
        await running.until(
            lambda standing: standing.copy is not None and standing.copy.rows_copied > 100
        )
        # Rows are here, and nobody is told that they are an answer.
        assert await running.query("SELECT count(*) FROM replication_heartbeat") == [(0,)]
        assert await running.query("SELECT count(*) FROM cdc_position") == [(0,)]
    _change_everything(rig)
    async with rig.running() as running:
        await _streaming(running)
        copied = running.progress.now.copy
        await running.caught_up()
        await running.assert_equal(rig)
    assert copied is not None
    assert copied.rows_differing < copied.rows_compared


async def test_a_row_that_cannot_be_held_is_buried_once_however_often_it_is_copied(
    rig: Rig,
) -> None:
    _write_history(rig)
    rig.admin.execute(
        "UPDATE entity_values_ts SET value_double = NULL, value_decimal = 'NaN'"
        " WHERE tenant_id = 2 AND value_double = 3.5"
    )
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(rig.running())
        await running.caught_up()
        for _ in range(2):
            await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR)
        letters = await running.query("SELECT count(*) FROM cdc_dead_letters")
        rejected = rig.admin.execute(
            "SELECT count(*) FROM entity_values_ts WHERE value_decimal = 'NaN'"
        ).fetchall()
        await running.counts()
    assert letters == rejected


# Copying a part again -----------------------------------------------------------------------------


async def _spoil(running: Running, where: str) -> None:
    """Behind the pipeline's back."""
    await running.warehouse.write(
        [
            (f"DELETE FROM entity_values_ts WHERE {where} AND value_double = 2.5", {}),
            (f"UPDATE entity_values_ts SET quality = 66 WHERE {where} AND value_double = 1.5", {}),
            (
                "INSERT INTO entity_values_ts SELECT * FROM entity_values_ts"
                f" WHERE {where} AND value_double = 4.5",
                {},
            ),
            (f"UPDATE entities SET key = 'spoilt' WHERE {where}", {}),
        ]
    )


async def test_a_backfill_heals_what_was_asked_for_and_nothing_else(rig: Rig) -> None:
    _write_history(rig)
    async with rig.running() as running:
        await running.caught_up()
        await _spoil(running, "tenant_id IN (1, 2)")
        tenant = Scope.of([], [ACME.id], None, None)
        would = await running.upkeep.lifecycle.order(
            OrderKind.BACKFILL, OPERATOR, tenant, dry_run=True
        )
        assert would is not None
        assert would.rows_differing > 0
        assert would.rows_copied == 0
        _, outcome = await running.reconcile(ACME, from_start=True)
        assert outcome.windows_mismatched > 0
        done = await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR, tenant)
        assert done is not None
        assert done.rows_differing == would.rows_differing
        _, outcome = await running.reconcile(ACME, from_start=True)
        assert outcome.windows_mismatched == 0
        spoilt = "SELECT DISTINCT tenant_id FROM entities WHERE key = 'spoilt'"
        assert await running.query(spoilt) == [(GLOBEX.id,)]
        _, outcome = await running.reconcile(GLOBEX, from_start=True)
        assert outcome.windows_mismatched > 0
        await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR)
        await running.assert_equal(rig)
        assert await running.query(spoilt) == []
        assert await _audited(running) == [("backfill", OPERATOR.name)] * 2
        detail = await running.query("SELECT DISTINCT tenant_id, request_id FROM cdc_audit")
        assert set(detail) == {(ACME.id, "request-1"), (None, "request-1")}


async def test_a_backfill_by_time_leaves_the_rest_alone(rig: Rig) -> None:
    _write_history(rig)
    missing = (
        "SELECT v FROM (VALUES (2.5), (202.5)) AS wanted (v) WHERE NOT EXISTS (SELECT 1"
        " FROM entity_values_ts WHERE tenant_id = 1 AND value_double = v) ORDER BY v"
    )
    async with rig.running() as running:
        await running.caught_up()
        await running.warehouse.write(
            [("DELETE FROM entity_values_ts WHERE value_double IN (2.5, 202.5)", {})]
        )
        row = rig.admin.execute(
            "SELECT (extract(epoch FROM min(ingested_at)) * 1000000)::bigint"
            " FROM entity_values_ts WHERE tenant_id = 1 AND value_double = 2.5"
        ).fetchone()
        assert row is not None
        scope = Scope.of([], [ACME.id], row[0], row[0] + 1)
        assert [len(rows) for rows in [await running.query(missing)]] == [2]
        copied = await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR, scope)
        assert copied is not None
        assert copied.tables_total == 1
        assert [float(v) for (v,) in await running.query(missing)] == [202.5]
        rows = await running.query("SELECT 1 FROM entity_values_ts WHERE value_double = 2.5")
        assert len(rows) == 1  # The other tenant's is as spoilt as before.


@pytest.mark.timeout(300)
async def test_backfills_are_exact_while_others_write_and_correct(rig: Rig) -> None:
    # On a crowded machine the stream takes long to get to a point.
    rig.slot = rig.slot.model_copy(update={"cut_timeout_seconds": 120.0})
    _write_history(rig)
    stop = asyncio.Event()

    async def write_on(lane: int, running: Running) -> None:
        """As fast as the warehouse follows: it applies corrections one by one."""
        with rig.writer(lane) as writer:
            value = 1000.0
            while not stop.is_set():
                for tenant in TENANTS:
                    await asyncio.to_thread(writer.write, points(tenant.id, 20, value))
                await asyncio.to_thread(
                    rig.admin.execute,
                    "UPDATE entity_values_ts SET quality = (quality + 1) % 100"
                    " WHERE value_double = 1.5",
                )
                value += 100
                await running.progress.after(running.progress.now.version)

    async with rig.running() as running:
        await running.caught_up()
        writing = asyncio.create_task(write_on(1, running))
        try:
            for _ in range(5):
                await running.warehouse.write(
                    [("DELETE FROM entity_values_ts WHERE value_double = 2.5", {})]
                )
                await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR)
        finally:
            stop.set()
            await writing
        await running.caught_up()
        await running.assert_equal(rig)
        # Every correction found its row: none was copied too early or too late.
        buried = await running.query("SELECT count(*), any_value(reason) FROM cdc_dead_letters")
    assert buried[0][0] == 0, buried


async def test_a_backfill_waits_for_no_long_transaction(rig: Rig) -> None:
    rig.slot = rig.slot.model_copy(update={"cut_timeout_seconds": 0.5})
    async with rig.running() as running:
        await running.caught_up()
        with rig.admin.transaction():
            rig.admin.execute("UPDATE tenants SET display_name = 'open' WHERE tenant_id = 1")
            with pytest.raises(ServiceError, match="long transaction"):
                await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR)
        await _streaming(running)
        await running.caught_up()
        await running.assert_equal(rig)


# Pausing ------------------------------------------------------------------------------------------


async def test_a_pause_outlives_a_restart_and_loses_nothing(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        await running.upkeep.lifecycle.order(OrderKind.PAUSE, OPERATOR)
        standing = await running.until(lambda standing: standing.phase is Phase.PAUSED)
        assert standing.reason == "by ops@example: a drill"
        with pytest.raises(ServiceError, match="paused"):
            await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR)
    _change_everything(rig)
    async with rig.running() as running:
        await running.until(lambda standing: standing.phase is Phase.PAUSED)
        assert await running.query("SELECT count(*) FROM entity_values_ts") == [(0,)]
        with pytest.raises(ServiceError, match="paused"):
            await running.caught_up()
        await running.upkeep.lifecycle.order(OrderKind.RESUME, replace(OPERATOR, name="other"))
        await _streaming(running)
        await running.caught_up()
        await running.assert_equal(rig)
        assert await _audited(running) == [("pause", OPERATOR.name), ("resume", "other")]


async def test_a_pause_interrupts_the_first_copy(rig: Rig) -> None:
    _write_history(rig)
    async with rig.running() as running:
        await running.until(lambda standing: standing.phase is Phase.SNAPSHOT)
        await running.upkeep.lifecycle.order(OrderKind.PAUSE, OPERATOR)
        await running.until(lambda standing: standing.phase is Phase.PAUSED)
        await running.upkeep.lifecycle.order(OrderKind.RESUME, OPERATOR)
        await _streaming(running)
        await running.caught_up()
        await running.assert_equal(rig)


# The slot -----------------------------------------------------------------------------------------


async def test_the_slot_moves_on_while_only_others_write(rig: Rig) -> None:
    async with rig.running() as running:
        await running.caught_up()
        before = await running.source.slot_state()
        assert before is not None
        # Log that is none of ours: a table that is not published.
        rig.admin.execute("CREATE TABLE noise AS SELECT n FROM generate_series(1, 100000) AS n")
        try:
            row = rig.admin.execute(
                "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
            ).fetchone()
            assert row is not None
            await running.caught_up()  # Beats once, and is all that the stream has to tell.
            async with asyncio.timeout(20):
                state = before
                while state.confirmed is None or state.confirmed < row[0]:
                    found = await running.source.slot_state()
                    assert found is not None
                    state = found
                    await asyncio.sleep(0.05)
        finally:
            rig.admin.execute("DROP TABLE noise")
    assert state.active
    assert state.failover
    assert not state.is_lost
