"""Reconciliation: proves what is equal, finds what is not, and never says more than it knows."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas_cdc_reconciler.reconcile import Outcome
from atlas_cdc_reconciler.windows import align_down
from atlas_common.errors import ServiceError
from atlas_common.values import datetime_to_us
from atlas_devstack.database import Database
from atlas_devstack.waiting import Patience, wait_until

from .lane_writer import LaneWriter
from .reconciler_rig import ACME, GLOBEX, WINDOW_US, Rig, Running, make_rig, points

PATIENCE = Patience(20.0)
ALL_TIME_US = 10**16
"""A window as wide as that has no end in any run."""
STATEMENTS_OF_DAMAGE = {
    "flipped": "UPDATE entity_values_ts SET value_double = 4.25"
    " WHERE tenant_id = 1 AND value_double = 103.5",
    "added": "INSERT INTO entity_values_ts BY NAME SELECT * REPLACE (7.25 AS value_double)"
    " FROM entity_values_ts WHERE tenant_id = 1 AND value_double = 103.5",
    "deleted": "DELETE FROM entity_values_ts WHERE tenant_id = 1 AND value_double = 103.5",
    "doubled": "INSERT INTO entity_values_ts SELECT * FROM entity_values_ts"
    " WHERE tenant_id = 1 AND value_double = 103.5",
    "given to another tenant": "UPDATE entity_values_ts SET tenant_id = 2"
    " WHERE tenant_id = 1 AND value_double = 103.5",
}
REPAIR_OF_FLIPPED = (
    "UPDATE entity_values_ts SET value_double = 103.5 WHERE tenant_id = 1 AND value_double = 4.25"
)


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


async def three_flushes(running: Running, writer: LaneWriter) -> list[int]:
    """Flushes of both tenants in three windows; the flushes' times."""
    flushed = []
    for number in range(3):
        value = number * 100 + 1.5
        done = writer.write([*points(ACME.id, 5, value), *points(GLOBEX.id, 5, value)])
        flushed.append(datetime_to_us(done.flushed_at))
        # The next flush is to lie in another window: sealed is what no flush can reach any more.
        edge = align_down(flushed[-1], WINDOW_US) + WINDOW_US
        async with asyncio.timeout(10):
            while await running.sealer.seal(None) < edge:
                pass
    return flushed


@pytest.mark.parametrize("damage", STATEMENTS_OF_DAMAGE)
async def test_damage_behind_the_warehouses_back_is_found(rig: Rig, damage: str) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            flushed = await three_flushes(running, writer)
            await running.warehouse.write([(STATEMENTS_OF_DAMAGE[damage], {})])
            windows, outcome = await running.reconcile(ACME)
            other_windows, other = await running.reconcile(GLOBEX)
            found = await running.verifications.verification(ACME)
    damaged_us = align_down(flushed[1], WINDOW_US)
    assert [(w.span.start_us, w.is_matched) for w in windows] == [
        (align_down(moment, WINDOW_US), number != 1) for number, moment in enumerate(flushed)
    ]
    assert outcome.windows_mismatched == 1
    assert outcome.source.rows == 15
    assert outcome.source != outcome.warehouse
    assert outcome.verified_through_us == damaged_us
    assert found is not None
    assert (found.verified_through_us, found.mismatched) == (damaged_us, 1)
    if damage == "given to another tenant":
        assert [window.is_matched for window in other_windows] == [True, False, True]
    else:
        assert all(window.is_matched for window in other_windows)
        assert other.source == other.warehouse


async def test_damage_to_the_source_is_found_too(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await three_flushes(running, writer)
            with rig.unseen():
                rig.admin.execute(
                    "DELETE FROM entity_values_ts WHERE tenant_id = 1 AND value_double = 103.5"
                )
            _, outcome = await running.reconcile(ACME)
    assert (outcome.source.rows, outcome.warehouse.rows) == (14, 15)
    assert outcome.windows_mismatched == 1


async def test_a_mismatch_is_compared_again_and_verified_through_moves_on(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await three_flushes(running, writer)
            await running.warehouse.write([(STATEMENTS_OF_DAMAGE["flipped"], {})])
            _, damaged = await running.reconcile(ACME)
            writer.write(points(ACME.id, 5, 900))
            _, still = await running.reconcile(ACME)
            await running.warehouse.write([(REPAIR_OF_FLIPPED, {})])
            windows, repaired = await running.reconcile(ACME)
    assert damaged.verified_through_us == still.verified_through_us
    assert still.warehouse.rows == 20
    assert repaired.windows_mismatched == 0
    assert repaired.source == repaired.warehouse
    assert repaired.verified_through_us is not None
    assert still.verified_through_us is not None
    assert repaired.verified_through_us > still.verified_through_us
    # What agreed before was not compared again: the repaired window and the newest ones were.
    assert len(windows) <= 3


async def test_what_was_verified_before_is_compared_again_only_from_start(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await three_flushes(running, writer)
            _, first = await running.reconcile(ACME)
            await running.warehouse.write([(STATEMENTS_OF_DAMAGE["flipped"], {})])
            _, second = await running.reconcile(ACME)
            _, third = await running.reconcile(ACME, from_start=True)
    assert (first.windows_compared, first.windows_mismatched) == (3, 0)
    assert second.windows_mismatched == 0
    assert second.source == first.source
    assert (third.windows_compared, third.windows_mismatched) == (3, 1)
    assert third.source == first.source
    assert third.source != third.warehouse


async def test_what_changes_at_the_source_is_in_doubt_until_it_is_compared_again(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            flushed = await three_flushes(running, writer)
            _, first = await running.reconcile(ACME)
            rig.admin.execute("DELETE FROM entity_values_ts WHERE value_double = 103.5")
            rig.admin.execute(
                "UPDATE entity_values_ts SET value_double = 0 WHERE value_double = 202.5"
            )
            # Into a window that had no rows, long before all others.
            rig.admin.execute(
                "UPDATE entity_values_ts SET ingested_at = ingested_at - interval '1 hour'"
                " WHERE value_double = 3.5 AND tenant_id = 1"
            )
            await running.caught_up()
            doubted = await running.verifications.verification(ACME)
            others = await running.verifications.verification(GLOBEX)
            windows, second = await running.reconcile(ACME)
            _, third = await running.reconcile(ACME, from_start=True)
    hour_before = align_down(flushed[0] - 3_600_000_000, WINDOW_US)
    assert first.source.rows == 15
    assert others is None
    assert doubted is not None
    assert (doubted.verified_through_us, doubted.mismatched) == (hour_before, 4)
    assert [window.span.start_us for window in windows[:4]] == [
        hour_before,
        *(align_down(moment, WINDOW_US) for moment in flushed),
    ]
    assert second.windows_mismatched == 0
    assert second.source.rows == 14
    assert (second.source, second.warehouse) == (third.source, third.warehouse)
    assert second.verified_through_us is not None
    assert second.verified_through_us > flushed[2]


async def test_a_moment_within_a_window_cuts_it(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            flushed = await three_flushes(running, writer)
            _, everything = await running.reconcile(ACME)
            windows, upto = await running.reconcile(ACME, flushed[1])
            _, behind = await running.reconcile(ACME, flushed[1] + 1)
            _, again = await running.reconcile(ACME)
    assert (upto.source.rows, upto.warehouse.rows) == (5, 5)
    assert windows == []
    assert (behind.source.rows, behind.warehouse.rows) == (10, 10)
    assert again.source == everything.source
    assert again.source.rows == 15


async def flushed_and_compared(running: Running, writer: LaneWriter, value: float) -> Outcome:
    """Five more rows of each tenant; what a comparison of one says then."""
    writer.write([*points(ACME.id, 5, value), *points(GLOBEX.id, 5, value)])
    windows, outcome = await running.reconcile(ACME)
    assert [window.span.start_us for window in windows] == [0]
    assert outcome.source.rows == sum(window.source.rows for window in windows)
    return outcome


async def test_a_window_under_way_is_digested_part_by_part(rig: Rig) -> None:
    rig.window_us = ALL_TIME_US
    with rig.writer() as writer:
        async with rig.running() as running:
            await flushed_and_compared(running, writer, 101.5)
            await running.warehouse.write([(STATEMENTS_OF_DAMAGE["flipped"], {})])
            second = await flushed_and_compared(running, writer, 1.5)
            assert (await running.reconcile(ACME))[1].source == second.source
            await running.warehouse.write([(REPAIR_OF_FLIPPED, {})])
            _, whole = await running.reconcile(ACME, from_start=True)
            # What it says of all parts is what it says of the whole.
            assert (second.source, second.warehouse) == (whole.source, whole.warehouse)
            assert second.verified_through_us is not None
            assert (whole.verified_through_us or 0) > second.verified_through_us
    assert (second.source.rows, second.windows_mismatched) == (10, 0)


@pytest.mark.parametrize("damage", STATEMENTS_OF_DAMAGE)
async def test_the_new_part_of_a_window_is_compared(rig: Rig, damage: str) -> None:
    rig.window_us = ALL_TIME_US
    with rig.writer() as writer:
        async with rig.running() as running:
            await flushed_and_compared(running, writer, 1.5)
            writer.write(points(ACME.id, 5, 101.5))
            await running.caught_up()
            await running.warehouse.write([(STATEMENTS_OF_DAMAGE[damage], {})])
            (window,), outcome = await running.reconcile(ACME)
            assert (outcome.windows_mismatched, outcome.verified_through_us) == (1, 0)
            assert (window.span.start_us, window.source.rows) == (0, 10)
            still = await flushed_and_compared(running, writer, 201.5)
            assert (still.windows_mismatched, still.verified_through_us) == (1, 0)
            await running.repair(ACME)
            _, repaired = await running.reconcile(ACME)
    assert repaired.source == repaired.warehouse
    assert repaired.source.rows == 15


async def test_a_correction_of_an_earlier_part_puts_the_window_in_doubt(rig: Rig) -> None:
    rig.window_us = ALL_TIME_US
    with rig.writer() as writer:
        async with rig.running() as running:
            await flushed_and_compared(running, writer, 101.5)
            rig.admin.execute("DELETE FROM entity_values_ts WHERE value_double = 103.5")
            await running.caught_up()
            doubted = await running.verifications.verification(ACME)
            second = await flushed_and_compared(running, writer, 1.5)
            _, whole = await running.reconcile(ACME, from_start=True)
    assert doubted is not None
    assert (doubted.verified_through_us, doubted.mismatched) == (0, 1)
    assert (second.source.rows, second.windows_mismatched) == (9, 0)
    assert (second.source, second.warehouse) == (whole.source, whole.warehouse)


async def test_a_doubt_that_comes_while_a_window_is_extended_stays(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.window_us = ALL_TIME_US
    with rig.writer() as writer:
        async with rig.running() as running:
            await flushed_and_compared(running, writer, 101.5)
            writer.write(points(ACME.id, 5, 1.5))
            extend = running.verifications.extend

            async def doubted(*arguments: Any, **named: Any) -> None:
                rig.admin.execute("DELETE FROM entity_values_ts WHERE value_double = 103.5")
                await running.caught_up()
                await extend(*arguments, **named)

            monkeypatch.setattr(running.verifications, "extend", doubted)
            _, outcome = await running.reconcile(ACME)
            monkeypatch.undo()
            assert outcome.verified_through_us == 0
            _, settled = await running.reconcile(ACME)
    assert settled.source.rows == 9
    assert settled.source == settled.warehouse
    assert (settled.verified_through_us or 0) > 0


async def test_the_future_cannot_be_compared(rig: Rig) -> None:
    async with rig.running() as running:
        now_us = await running.sealer.seal(None)
        with pytest.raises(ServiceError, match="future") as caught:
            await running.reconcile(ACME, now_us + 60_000_000)
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "through_time")


async def test_a_tenant_without_rows_is_verified_too(rig: Rig) -> None:
    async with rig.running() as running:
        windows, outcome = await running.reconcile(ACME)
    assert windows == []
    assert (outcome.source.rows, outcome.source.checksum) == (0, "0")
    assert outcome.verified_through_us is not None


async def test_rows_of_a_flush_under_way_are_waited_for(rig: Rig) -> None:
    """A flush that has taken its time but has not committed holds up the seal, not the writers."""
    with rig.writer() as writer:
        async with rig.running() as running:
            await running.caught_up()
            writer.stage(points(ACME.id))
            writer.connection.execute("BEGIN")
            flushed_at = writer.flush().flushed_at

            def announced() -> bool:
                row = rig.admin.execute("SELECT sealed_before FROM flush_control").fetchone()
                return row is not None and row[0] > flushed_at

            reconciling = asyncio.create_task(running.reconcile(ACME))
            await asyncio.to_thread(
                wait_until, announced, "the seal is announced", patience=PATIENCE
            )
            assert not reconciling.done()
            writer.connection.execute("COMMIT")
            _, outcome = await reconciling
    assert outcome.source.rows == outcome.warehouse.rows == 10


async def test_it_moves_by_itself_and_through_an_outage(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            sweeping = asyncio.create_task(running.sweep_again(0.05))
            done = writer.write([*points(ACME.id), *points(GLOBEX.id)])
            rig.admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'atlas_reconciler'"
            )
            async with asyncio.timeout(20):
                for tenant in (ACME, GLOBEX):
                    version = running.progress.now.version
                    while True:
                        found = await running.verifications.verification(tenant)
                        if found and found.verified_through_us > datetime_to_us(done.flushed_at):
                            break
                        version = (await running.progress.after(version)).version
            sweeping.cancel()
            await asyncio.wait({sweeping})


async def test_a_caller_that_goes_away_leaves_nothing_locked(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            await three_flushes(running, writer)
            async with aclosing(
                running.reconciler.reconcile(ACME, None, from_start=True)
            ) as events:
                await anext(events)
            async with asyncio.timeout(10):
                _, outcome = await running.reconcile(ACME)
    assert outcome.source == outcome.warehouse


async def test_another_window_width_begins_anew(rig: Rig) -> None:
    with rig.writer() as writer:
        async with rig.running() as running:
            writer.write(points(ACME.id))
            assert not await running.verifications.use_width(WINDOW_US)
            await running.reconcile(ACME)
            assert not await running.verifications.use_width(WINDOW_US)
            assert await running.verifications.verification(ACME) is not None
            assert await running.verifications.use_width(WINDOW_US * 2)
            assert await running.verifications.verification(ACME) is None


def test_the_rig_has_no_rights_in_excess(rig: Rig) -> None:
    with psycopg.connect(rig.server.dsn("atlas_reconciler"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM entity_values_ts")
        assert connection.execute("SELECT count(*) FROM entity_values_ts").fetchone() == (0,)
