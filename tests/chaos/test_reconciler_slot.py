"""The slot loses its log under load, its reader is slow, a partition is dropped."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from atlas_cdc_reconciler.changes import Batch
from atlas_cdc_reconciler.lifecycle import Actor, OrderKind
from atlas_cdc_reconciler.progress import Phase
from atlas_cdc_reconciler.sink import Sink
from atlas_cdc_reconciler.slot_watch import SlotWatch
from atlas_cdc_reconciler.source.slot_state import Danger
from atlas_devstack.database import another
from atlas_devstack.stack import Stack
from tests.integration.lane_writer import RawPoint
from tests.integration.reconciler_rig import ACME, GLOBEX, T0, Rig, Running, make_rig, points
from tests.integration.waiting import eventually

from .background import Background

TENANTS = (ACME, GLOBEX)
OPERATOR = Actor("ops@example", "a drill")
KEPT_MB = 64
WAIT_SECONDS = 60.0


@pytest.fixture
def rig(chaos_stack: Stack, tmp_path: Path) -> Iterator[Rig]:
    with another(chaos_stack.database) as own, make_rig(own, tmp_path) as rig:
        yield rig


@pytest.fixture
def little_log(rig: Rig) -> Iterator[Rig]:
    """A server that keeps little log for slots."""
    rig.admin.execute(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{KEPT_MB}MB'")
    rig.admin.execute("SELECT pg_reload_conf()")
    try:
        yield rig
    finally:
        rig.admin.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        rig.admin.execute("SELECT pg_reload_conf()")


class Load(Background):
    """Writes for both tenants while the block runs, and corrects what it wrote."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self._rig = rig

    def _run(self) -> None:
        number = 0
        with (
            self._rig.writer(1) as writer,
            psycopg.connect(self._rig.server.admin_dsn, autocommit=True) as admin,
        ):
            while not self._stop.is_set():
                number += 1
                for tenant in TENANTS:
                    writer.write(points(tenant.id, 20, value=100 * number))
                admin.execute(
                    "UPDATE entity_values_ts SET quality = %s WHERE value_double = 101",
                    [number % 100],
                )


def _fill_log(rig: Rig, megabytes: int) -> None:
    for _ in range(megabytes):
        rig.admin.execute("SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1048576))")


async def _streaming(running: Running) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        standing = running.progress.now
        while standing.phase is not Phase.STREAMING:
            standing = await running.progress.after(standing.version)


async def test_a_slot_that_is_lost_under_load_is_made_good_and_proven_equal(
    little_log: Rig,
) -> None:
    rig = little_log
    with Load(rig):
        async with rig.running() as running:
            await running.caught_up()
            await running.upkeep.lifecycle.order(OrderKind.PAUSE, OPERATOR)
            watch = SlotWatch(rig.slot, rig.slot.name, running.primary, running.progress)

            async def is_in_danger() -> bool:
                await asyncio.to_thread(_fill_log, rig, 4)
                state = await watch.look()
                assert state is not None
                # It is told of while there is still time.
                assert not state.is_lost
                assert not state.active
                return state.danger(0.5, 0.8, 1) is not Danger.NONE

            await eventually(is_in_danger, WAIT_SECONDS)
            assert watch.used_share() > 0.5

            async def is_lost() -> bool:
                await asyncio.to_thread(_fill_log, rig, 16)
                await asyncio.to_thread(rig.admin.execute, "CHECKPOINT")
                state = await watch.look()
                return state is not None and state.is_lost

            await eventually(is_lost, WAIT_SECONDS)
            assert watch.used_share() == 1.0
            await running.upkeep.lifecycle.order(OrderKind.RESUME, OPERATOR)
            async with asyncio.timeout(WAIT_SECONDS):
                standing = running.progress.now
                while standing.phase is not Phase.RECOVERING:
                    standing = await running.progress.after(standing.version)
            assert "lost its log" in standing.reason
            await _streaming(running)
            applied = (await running.counts()).applied
            await eventually(lambda: running.progress.now.phase is Phase.STREAMING, WAIT_SECONDS)

            async def goes_on() -> bool:
                return (await running.counts()).applied > applied + 100

            await eventually(goes_on, WAIT_SECONDS)
    async with rig.running() as running:
        await running.caught_up()
        await running.assert_equal(rig)
        letters = await running.query("SELECT count(*) FROM cdc_dead_letters")
        assert letters == [(0,)]


async def test_a_slow_sink_holds_up_the_source_and_not_the_memory(rig: Rig) -> None:
    rig.slot = rig.slot.model_copy(update={"batch_bytes_max": 2**20})
    released = asyncio.Event()

    class Slow:
        """A sink that takes its time with the history."""

        def __init__(self, sink: Sink) -> None:
            self._sink = sink

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sink, name)

        async def apply(self, batch: Batch) -> Any:
            if batch.counts()["entity_values_ts"]:
                await released.wait()
            return await self._sink.apply(batch)

    large = "x" * 65_536
    count = 1_600  # 100 MB, incompressible enough for the stream: values are sent whole.
    async with rig.running(wrap=Slow) as running:
        await running.caught_up()
        process = psutil.Process()
        before = process.memory_info().rss

        def write() -> None:
            with rig.writer() as writer:
                for number in range(count // 40):
                    for tenant in TENANTS:
                        writer.write(
                            [
                                RawPoint(tenant.id, 1, 3, T0, f"{number}{large}", "value_text")
                                for _ in range(20)
                            ]
                        )

        await asyncio.to_thread(write)
        state = await running.source.slot_state()
        assert state is not None
        assert state.active
        grown = process.memory_info().rss - before
        assert grown < 50 * 2**20, f"{grown / 2**20:.0f} MB"
        released.set()
        await running.caught_up()
        await running.assert_equal(rig)


async def test_the_warehouse_keeps_what_retention_drops(rig: Rig) -> None:
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=90)
    rig.admin.execute(
        "CREATE TABLE old_partition PARTITION OF entity_values_ts"
        f" FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + timedelta(days=1)).isoformat()}')"
    )
    for tenant in TENANTS:
        rig.admin.execute(
            "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
            " ingested_at, value_double)"
            " SELECT %s, 1, 1, %s, %s, n FROM generate_series(1, 50) AS n",
            [tenant.id, day, day + timedelta(hours=3)],
        )
    old = (
        "SELECT tenant_id, count(*) FROM entity_values_ts WHERE epoch_us(ingested_at) <"
        f" {round((day + timedelta(days=1)).timestamp() * 1_000_000)} GROUP BY 1 ORDER BY 1"
    )
    kept = [(ACME.id, 50), (GLOBEX.id, 50)]
    async with rig.running() as running:
        await _streaming(running)
        await running.caught_up()
        with Load(rig):
            with rig.admin.transaction():
                rig.admin.execute("ALTER TABLE entity_values_ts DETACH PARTITION old_partition")
                rig.admin.execute("DROP TABLE old_partition")
            before = (await running.counts()).applied

            async def goes_on() -> bool:
                return (await running.counts()).applied > before + 100

            await eventually(goes_on, WAIT_SECONDS)
        await running.caught_up()
        assert await running.query(old) == kept
        # It is no mismatch, and no repair takes it away.
        for tenant in TENANTS:
            _, found = await running.reconcile(tenant, from_start=True)
            assert (found.windows_mismatched, found.source.rows > 0) == (0, True)
            _, repaired = await running.repair(tenant)
            assert repaired.windows_mismatched == 0
        assert await running.query(old) == kept
        # Nor is it taken away by copying again, whoever ordered that.
        await running.upkeep.lifecycle.order(OrderKind.BACKFILL, OPERATOR)
        await running.upkeep.lifecycle.order(OrderKind.RECOVER, OPERATOR)
        await _streaming(running)
        await running.caught_up()
        assert await running.query(old) == kept
        rows = rig.admin.execute("SELECT count(*) FROM entity_values_ts").fetchall()
        assert await running.query("SELECT count(*) - 100 FROM entity_values_ts") == rows
        assert await running.query("SELECT count(*) FROM cdc_dead_letters") == [(0,)]
