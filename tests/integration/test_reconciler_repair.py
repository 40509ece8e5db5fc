"""Repairs amid changes: nothing is applied twice, nothing is lost, and what is right stays."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas_cdc_reconciler.letters import LetterClass
from atlas_cdc_reconciler.windows import Span
from atlas_common.errors import ServiceError
from atlas_common.values import datetime_to_us
from atlas_devstack.database import Database

from .letter_rig import asked, insert_poison, letters
from .reconciler_rig import ACME, GLOBEX, WINDOW_US, Rig, Running, make_rig, points

DAMAGE = (
    "UPDATE entity_values_ts SET value_double = -1"
    " WHERE tenant_id = 1 AND value_double BETWEEN 3 AND 5"
)


@pytest.fixture
def rig(module_database: Database, tmp_path: Path) -> Iterator[Rig]:
    with make_rig(module_database, tmp_path) as rig:
        yield rig


@asynccontextmanager
async def corrected(rig: Rig, running: Running) -> AsyncIterator[None]:
    """Rows that were reconciled long ago are changed, dropped and put back, all the time.

    As fast as the warehouse follows: it applies corrections one by one.
    """
    with psycopg.connect(rig.server.admin_dsn, autocommit=True) as connection:
        stopping = asyncio.Event()

        async def correct() -> None:
            while not stopping.is_set():
                await asyncio.to_thread(one_round, connection)
                await running.sealer.catch_up()

        task = asyncio.create_task(correct())
        try:
            yield
        finally:
            stopping.set()
            await task


def one_round(connection: "psycopg.Connection[Any]") -> None:
    """Ends with the same number of rows as it began with."""
    connection.execute(
        "UPDATE entity_values_ts SET quality = (quality + 1) % 200 WHERE entity_id = 1"
        " AND value_double = 2.5"
    )
    with connection.transaction():
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS kept (LIKE atlas.entity_values_ts)")
        connection.execute(
            "WITH gone AS (DELETE FROM entity_values_ts WHERE value_double = 7.5 RETURNING *)"
            " INSERT INTO kept SELECT * FROM gone"
        )
    connection.execute("INSERT INTO entity_values_ts SELECT * FROM kept")
    connection.execute("TRUNCATE kept")


@contextmanager
def changed_meanwhile(rig: Rig, running: Running, statement: str) -> Iterator[list[None]]:
    """The source is changed behind the reading of a repair's rows; gives the catch-ups begun."""
    catch_up, catch_ups = running.sealer.catch_up, list[None]()

    async def changed() -> None:
        catch_ups.append(None)
        if (
            len(catch_ups) == 3
        ):  # Behind the comparison and the search: the one of the repair itself.
            rig.admin.execute(statement.encode())
        await catch_up()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.sealer, "catch_up", changed)
        yield catch_ups


async def damaged(rig: Rig, running: Running) -> None:
    """Ten rows of both tenants, compared; then three of one are damaged in the warehouse."""
    with rig.writer() as writer:
        writer.write([*points(ACME.id), *points(GLOBEX.id)])
    rows, _ = await running.findings(ACME)
    assert rows == []
    await running.warehouse.write([(DAMAGE, {})])


async def test_a_dry_run_says_what_would_be_done_and_changes_nothing(rig: Rig) -> None:
    async with rig.running() as running:
        await damaged(rig, running)
        (window,), outcome = await running.repair(ACME, dry_run=True)
        rows, _ = await running.findings(ACME)
        audited = await running.query("SELECT count(*) FROM cdc_audit")
    assert list(window.found.differences) == rows
    assert len(rows) == 2
    assert (window.rows_deleted, window.rows_inserted, window.is_equal) == (10, 10, False)
    assert (outcome.windows_mismatched, outcome.windows_repaired) == (1, 0)
    assert audited == [(0,)]


async def test_a_repair_is_audited_and_leaves_others_alone(rig: Rig) -> None:
    async with rig.running() as running:
        await damaged(rig, running)
        await running.warehouse.write(
            [("DELETE FROM entity_values_ts WHERE tenant_id = 2 AND value_double = 3.5", {})]
        )
        await running.repair(ACME)
        ((actor, action, tenant_id, request_id, detail),) = await running.query(
            "SELECT actor, action, tenant_id, request_id, detail FROM cdc_audit"
        )
        rows, outcome = await running.findings(ACME)
        others, _ = await running.findings(GLOBEX)
        await running.repair(GLOBEX)
        await running.assert_equal(rig)
    assert (actor, action, tenant_id, request_id) == ("tester", "repair", 1, "request-1")
    assert '"rows_deleted": 10, "rows_inserted": 10' in detail
    assert rows == []
    assert outcome.verified_through_us is not None
    assert [one.kind for one in others] == ["missing"]


async def test_a_repair_amid_corrections_leaves_both_sides_equal(rig: Rig) -> None:
    async with rig.running() as running:
        await damaged(rig, running)
        async with corrected(rig, running):
            refused = ""
            for _ in range(3):
                try:
                    await running.repair(ACME)
                except ServiceError as error:
                    refused = error.reason
        # In a quieter moment, if it has not been possible before.
        await running.caught_up()
        await running.repair(ACME)
        await running.assert_equal(rig)
        counts = await running.counts()
    # Refused, rather than to lose or double a correction.
    assert refused in {"", "WINDOW_NOT_REPAIRABLE"}
    assert counts.dead_lettered == 0


async def test_a_change_between_reading_and_replacing_is_not_lost(rig: Rig) -> None:
    """The interleaving itself: the rows are read, then the stream brings a newer version."""
    async with rig.running() as running:
        await damaged(rig, running)
        correction = (
            "UPDATE entity_values_ts SET quality = 9 WHERE tenant_id = 1 AND value_double = 1.5"
        )
        with changed_meanwhile(rig, running, correction) as catch_ups:
            (window,), _ = await running.repair(ACME)
        await running.assert_equal(rig)
        quality = await running.query(
            "SELECT quality FROM entity_values_ts WHERE tenant_id = 1 AND value_double = 1.5"
        )
        counts = await running.counts()
    assert window.is_equal
    assert len(catch_ups) == 4  # The first attempt was given up.
    assert quality == [(9,)]
    assert counts.dead_lettered == 0


async def test_a_repair_makes_letters_of_its_rows_void_and_no_others(rig: Rig) -> None:
    """What came with the rows must not come once more with a replay."""
    async with rig.running() as running:
        await damaged(rig, running)
        for tenant in (ACME, GLOBEX):
            insert_poison(rig, tenant.id, [1.0, 2.0])
        rig.admin.execute(
            "UPDATE entity_values_ts SET value_decimal = 1 WHERE value_decimal = 'NaN'"
        )
        await running.caught_up()
        assert len(await letters(running)) == 8
        await running.repair(ACME)
        assert {letter.tenant for letter in await letters(running)} == {GLOBEX.key}
        assert (await running.auditor.audit()).discrepancies == ()
        # Nothing holds later changes of these rows back.
        rig.admin.execute("UPDATE entity_values_ts SET quality = 9 WHERE value_decimal = 1")
        await running.caught_up()
        await running.warehouse.replay(asked())
        rows, outcome = await running.findings(ACME)
        quality = await running.query(
            "SELECT quality FROM entity_values_ts WHERE tenant_id = 1 AND value_decimal = 1"
        )
        details = await running.query("SELECT detail FROM cdc_audit WHERE action = 'repair'")
        assert (await running.auditor.audit()).discrepancies == ()
    assert rows == []
    assert outcome.source == outcome.warehouse
    assert quality == [(9,), (9,)]
    assert sum(json.loads(detail)["letters_given_up"] for (detail,) in details) == 4


async def test_a_change_that_dies_between_reading_and_replacing_is_not_given_up(rig: Rig) -> None:
    async with rig.running() as running:
        await damaged(rig, running)
        poison = (
            "UPDATE entity_values_ts SET value_double = NULL, value_decimal = 'NaN'"
            " WHERE tenant_id = 1 AND value_double = 1.5"
        )
        with (
            changed_meanwhile(rig, running, poison),
            pytest.raises(ServiceError, match="cannot hold a row"),
        ):
            await running.repair(ACME)
        (letter,) = await letters(running)
    assert (letter.letter_class, letter.tenant) == (LetterClass.VALUE, ACME.key)


async def test_corrections_under_way_are_no_alarm(rig: Rig) -> None:
    async with rig.running() as running:
        with rig.writer() as writer:
            writer.write([*points(ACME.id), *points(GLOBEX.id)])
        await running.findings(ACME)
        async with corrected(rig, running):
            for number in range(5):
                for tenant in (ACME, GLOBEX):
                    rows, _ = await running.findings(tenant, from_start=number % 2 == 0)
                    assert rows == []
        await running.assert_equal(rig)


async def test_what_was_never_compared_is_not_repaired(rig: Rig) -> None:
    async with rig.running() as running:
        with rig.writer() as writer:
            flushed_us = datetime_to_us(writer.write(points(ACME.id)).flushed_at)
        with pytest.raises(ServiceError, match="reconcile first") as caught:
            await running.repair(ACME)
        await running.findings(ACME)
        later = Span(flushed_us + 3_600_000_000, flushed_us + 7_200_000_000)
        with pytest.raises(ServiceError, match="reconcile first"):
            await running.repair(ACME, span=later)
    assert caught.value.reason == "WINDOW_NOT_REPAIRABLE"


async def test_a_range_is_widened_to_whole_windows(rig: Rig) -> None:
    async with rig.running() as running:
        with rig.writer() as writer:
            flushed_us = datetime_to_us(writer.write(points(ACME.id)).flushed_at)
        await running.findings(ACME)
        await running.warehouse.write([(DAMAGE, {})])
        before = Span(flushed_us - 2 * WINDOW_US, flushed_us - WINDOW_US)
        windows, outcome = await running.repair(ACME, span=before)
        assert (windows, outcome.windows_mismatched) == ([], 0)
        (window,), _ = await running.repair(ACME, span=Span(flushed_us, flushed_us + 1))
        assert window.is_equal
        await running.assert_equal(rig)


async def test_a_row_that_the_warehouse_cannot_hold_is_said(rig: Rig) -> None:
    async with rig.running() as running:
        await damaged(rig, running)
        with rig.unseen():
            rig.admin.execute(
                "UPDATE entity_values_ts SET value_double = NULL, value_time = 'infinity'"
                " WHERE tenant_id = 1 AND value_double = 1.5"
            )
        with pytest.raises(ServiceError, match="cannot hold a row") as caught:
            await running.repair(ACME)
        still = await running.query("SELECT count(*) FROM entity_values_ts WHERE tenant_id = 1")
    assert caught.value.reason == "WINDOW_NOT_REPAIRABLE"
    assert still == [(10,)]


async def test_reports_are_kept_so_many_and_read_page_by_page(rig: Rig) -> None:
    async with rig.running() as running:
        await damaged(rig, running)
        numbers = [(await running.findings(ACME))[1].report_id for _ in range(7)]
        of_other = await running.reports.get(GLOBEX, numbers[-1], after=0, differences_max=10)
        newest = await running.reports.get(ACME, 0, after=0, differences_max=1)
        rest = await running.reports.get(ACME, numbers[-1], after=1, differences_max=10)
        forgotten = await running.reports.get(ACME, numbers[0], after=0, differences_max=10)
        left = await running.query("SELECT DISTINCT report_id FROM cdc_differences ORDER BY ALL")
    assert of_other is None
    assert forgotten is None
    assert newest is not None
    assert rest is not None
    assert newest[0].report_id == numbers[-1]
    assert newest[0].difference_count == len(newest[1]) + len(rest[1]) == 2
    assert [row[0] for row in left] == numbers[-5:]


async def test_the_sweep_reports_a_mismatch_once(rig: Rig) -> None:
    async with rig.running() as running:
        await damaged(rig, running)
        _, on_demand = await running.findings(ACME)
        await running.warehouse.write(
            [("DELETE FROM entity_values_ts WHERE tenant_id = 2 AND value_double = 3.5", {})]
        )
        sweeping = asyncio.create_task(running.sweep_again(0.02))
        try:
            with rig.writer(1) as writer:  # Something new, to see that the sweep goes on.
                writer.write([*points(ACME.id), *points(GLOBEX.id)])
            async with asyncio.timeout(20):
                for _ in range(2):  # Once more: then all that belongs to the first time is done.
                    moment_us = await running.sealer.seal(None)
                    while not await _has_compared(running, moment_us):
                        await running.progress.after(running.progress.now.version)
        finally:
            sweeping.cancel()
            await asyncio.wait({sweeping})
        causes = await running.query("SELECT tenant_id, cause FROM cdc_reports ORDER BY report_id")
    # What the call had named already is not reported again by each round of the sweep. The other
    # tenant's damage lies in a window that was never compared before.
    assert causes[:2] == [(1, "call"), (1, "call")]
    assert causes[2:] == [(2, "continuous")]
    assert on_demand.windows_mismatched == 1


async def _has_compared(running: Running, moment_us: int) -> bool:
    for tenant in (ACME, GLOBEX):
        found = await running.verifications.verification(tenant)
        if found is None or found.compared_through_us <= moment_us:
            return False
    return True
