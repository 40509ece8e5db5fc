"""What tests of the cdc-reconciler need: its parts in this process, a real server, a real file."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from atlas_cdc_reconciler.aggregate import Aggregator, Bounds
from atlas_cdc_reconciler.audit import Auditor
from atlas_cdc_reconciler.config import (
    KafkaConfig,
    ReconcileConfig,
    SlotConfig,
    WarehouseConfig,
)
from atlas_cdc_reconciler.differences import Difference
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.letters.desk import LetterDesk
from atlas_cdc_reconciler.levelling import Cutting
from atlas_cdc_reconciler.pipeline import Pipeline
from atlas_cdc_reconciler.progress import Progress, Standing
from atlas_cdc_reconciler.reconcile import Outcome, WindowDifferences
from atlas_cdc_reconciler.reconciliation import Reconciliation
from atlas_cdc_reconciler.repair import RepairOutcome, Request, WindowRepair
from atlas_cdc_reconciler.sink import Counts, Sink, WarehouseError
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.source.kafka import BesideTopic, KafkaSource
from atlas_cdc_reconciler.source.slot import SlotSource
from atlas_cdc_reconciler.tables import HEARTBEAT, TABLES
from atlas_cdc_reconciler.upkeep import Upkeep
from atlas_cdc_reconciler.verification_store import VerificationStore
from atlas_cdc_reconciler.warehouse_digests import WarehouseDigests
from atlas_cdc_reconciler.windows import Span, WindowComparison
from atlas_common import db
from atlas_common.config import DatabaseConfig
from atlas_common.errors import ServiceError
from atlas_common.maintenance import PolicyStore
from atlas_common.tenant import Tenant
from atlas_devstack.database import Database

from .conftest import make_two_tenants
from .lane_writer import LaneWriter, RawPoint

ACME, GLOBEX = Tenant(1, "acme"), Tenant(2, "globex")
WINDOW_US = 250_000
T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
WAIT_SECONDS = 60.0
EVER = Span(0, 4_000_000_000_000_000)

# Of every type: what a warehouse is likely to get wrong.
VALUES: tuple[tuple[str, Any], ...] = (
    ("value_bool", True),
    ("value_bool", False),
    ("value_int", 0),
    ("value_int", 2**63 - 1),
    ("value_int", -(2**63)),
    ("value_double", 0.1),
    ("value_double", -0.0),
    ("value_double", 5e-324),
    ("value_double", 1.7976931348623157e308),
    ("value_double", float("nan")),
    ("value_double", float("-inf")),
    ("value_decimal", Decimal(0)),
    ("value_decimal", Decimal("-12.50")),
    ("value_decimal", Decimal("99999999999999999999.999999999999999999")),
    ("value_decimal", Decimal("0.000000000000000001")),
    ("value_text", ""),
    ("value_text", "plain|12:with separators"),
    ("value_text", "Ünïcödé 🛰 \u0001\n\t\\ '\""),
    ("value_text", "x" * 65_536),  # Stored out of line.
    ("value_time", datetime(1, 1, 1, tzinfo=UTC)),
    ("value_time", datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)),
    ("value_time", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ("value_json", Jsonb(None)),
    ("value_json", Jsonb({"b": [1, 2.50, "x"], "a": {"ü": None}})),
)


def points(tenant_id: int, count: int = 10, value: float = 1.5) -> list[RawPoint]:
    """Doubles of one entity and attribute, the same in every tenant."""
    return [RawPoint(tenant_id, 1, 1, T0, value + number) for number in range(count)]


def points_of_all_types(tenant_id: int) -> list[RawPoint]:
    """Every value of VALUES."""
    return [
        RawPoint(tenant_id, 1 + number % 3, 1 + number, T0, value, column, quality=number)
        for number, (column, value) in enumerate(VALUES)
    ]


@dataclass
class Rig:
    """The reconciler's parts, wired as in its main()."""

    server: Database
    admin: "psycopg.Connection[Any]"
    path: Path
    slot: SlotConfig = field(
        # Slots belong to the whole server, tests to one database of it.
        default_factory=lambda: SlotConfig(name=f"test_{secrets.token_hex(4)}", linger_ms=5)
    )
    kafka: KafkaConfig | None = None
    """Read a topic instead of the slot."""
    # Small, so that even few rows are copied in several pieces, and by several connections.
    cutting: Cutting = field(
        default_factory=lambda: Cutting(5_000, windows_per_statement=4, rows_max=40, connections=3)
    )

    window_us: int = WINDOW_US

    @contextmanager
    def writer(self, lane: int = 0) -> Iterator[LaneWriter]:
        """The owner of a lane."""
        with psycopg.connect(self.server.dsn("atlas_ingest"), autocommit=True) as connection:
            yield LaneWriter(connection, lane)

    @asynccontextmanager
    async def running(
        self, wrap: Callable[[Sink], Sink] = lambda sink: sink, **bounds: Any
    ) -> AsyncIterator["Running"]:
        """Own the file and run the pipeline; `wrap` may put something between it and the sink.

        `bounds` are settings of the warehouse.
        """
        config = DatabaseConfig(dsn=SecretStr(self.server.dsn("atlas_reconciler")))
        async with AsyncExitStack() as stack:
            primary = await stack.enter_async_context(db.Database.open(config, name="primary"))
            warehouse = await stack.enter_async_context(
                DuckDbWarehouse.open(WarehouseConfig(path=self.path, memory_limit_mb=256, **bounds))
            )
            await VerificationStore(warehouse).use_width(self.window_us)
            progress = Progress()
            source = SlotSource(self.slot, config, primary)
            upkeep = Upkeep(self.slot, source, warehouse, progress, self.cutting)
            pipeline = Pipeline(source, wrap(warehouse), progress, 0.2, upkeep)
            if self.kafka:
                upkeep = Upkeep(
                    self.slot,
                    BesideTopic(self.kafka, source),
                    warehouse,
                    progress,
                    self.cutting,
                    streams_first_copy=self.kafka.first_copy == "topic",
                )
                topic = KafkaSource(self.kafka)
                pipeline = Pipeline(topic, wrap(warehouse), progress, 0.2, upkeep)
            task = asyncio.create_task(pipeline.run())
            try:
                yield Running(primary, warehouse, progress, upkeep, source, self.window_us)
            finally:
                task.cancel()
                await asyncio.wait({task})

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """What changes at the source meanwhile is told by no log, as if a disk had done it."""
        self.admin.execute("ALTER PUBLICATION atlas_warehouse DROP TABLE entity_values_ts")
        try:
            yield
        finally:
            self.admin.execute("ALTER PUBLICATION atlas_warehouse ADD TABLE entity_values_ts")

    def close(self) -> None:
        """Drop the slot, or the database cannot be dropped."""
        # The walsender of a connection that was just closed may not have noticed yet.
        self.admin.execute(
            "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
            " WHERE slot_name = %s AND active",
            [self.slot.name],
        )
        self.admin.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name = %s",
            [self.slot.name],
        )


class Running:
    """A pipeline under way."""

    def __init__(
        self,
        primary: db.Database,
        warehouse: DuckDbWarehouse,
        progress: Progress,
        upkeep: Upkeep,
        source: SlotSource,
        window_us: int,
    ) -> None:
        self.primary = primary
        self.warehouse = warehouse
        self.auditor = Auditor(warehouse)
        self.desk = LetterDesk(warehouse)
        self.progress = progress
        self.upkeep = upkeep
        self.source = source
        self.aggregator = Aggregator(warehouse, progress, Bounds(rows_max=100_000))
        config = ReconcileConfig(
            windows_per_statement=7, seal_timeout_seconds=WAIT_SECONDS, reports_max=5
        )
        parts = Reconciliation.of(config, primary, warehouse, progress, window_us=window_us)
        self.sealer, self.reconciler, self.sweep = parts.sealer, parts.reconciler, parts.sweep
        self.verifications, self.reports = parts.verifications, parts.reports
        self.repairer = parts.repairer
        self.digests = WarehouseDigests(warehouse)

    async def sweep_again(self, pause_seconds: float, *, catalogs: bool = False) -> None:
        """What the policies have done again and again, through outages."""
        tenants = PolicyStore(self.primary).tenants
        while True:
            await asyncio.sleep(pause_seconds)
            with suppress(ServiceError, psycopg.Error, WarehouseError, TimeoutError):
                await self.sweep.compare_windows(await tenants(()))
                if catalogs:
                    await self.sweep.compare_catalogs(await tenants(()))

    async def caught_up(self) -> None:
        """Wait until the warehouse has all that is committed now."""
        await self.sealer.seal(None)

    async def until(self, condition: Callable[[Standing], bool]) -> Standing:
        """Wait until the pipeline stands as asked."""
        async with asyncio.timeout(WAIT_SECONDS):
            standing = self.progress.now
            while not condition(standing):
                standing = await self.progress.after(standing.version)
        return standing

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the warehouse."""
        async with self.warehouse.reader() as reader:
            return await reader.all(sql)

    async def counts(self, table: str = "entity_values_ts") -> Counts:
        """The books of a table; the law of conservation is checked on the way."""
        counts = await self.warehouse.counts()
        assert all(count.are_conserved for count in counts.values()), counts
        return counts[table]

    async def reconcile(
        self, tenant: Tenant, through_us: int | None = None, *, from_start: bool = False
    ) -> tuple[list[WindowComparison], Outcome]:
        """The windows and the outcome."""
        windows: list[WindowComparison] = []
        async for event in self.reconciler.reconcile(tenant, through_us, from_start=from_start):
            if isinstance(event, Outcome):
                return windows, event
            if isinstance(event, WindowComparison):
                windows.append(event)
        raise AssertionError("a reconciliation without an outcome")

    async def findings(
        self, tenant: Tenant, *, from_start: bool = True
    ) -> tuple[list[Difference], Outcome]:
        """The rows that differ, and the outcome."""
        rows: list[Difference] = []
        async for event in self.reconciler.reconcile(tenant, None, from_start=from_start):
            if isinstance(event, WindowDifferences):
                assert event.found.is_complete
                rows += event.found.differences
            if isinstance(event, Outcome):
                return rows, event
        raise AssertionError("a reconciliation without an outcome")

    async def repair(
        self, tenant: Tenant, *, dry_run: bool = False, span: Span = EVER
    ) -> tuple[list[WindowRepair], RepairOutcome]:
        """Repair what differs, as the operator "tester"."""
        windows: list[WindowRepair] = []
        request = Request(span, "tester", "request-1", dry_run)
        async for event in self.repairer.repair(tenant, request):
            if isinstance(event, RepairOutcome):
                return windows, event
            windows.append(event)
        raise AssertionError("a repair without an outcome")

    async def assert_equal(self, rig: Rig) -> dict[Tenant, Digest]:
        """All tenants' rows are the same on both sides, by digest; the digests by tenant."""
        digests = {}
        for tenant in (ACME, GLOBEX):
            windows, outcome = await self.reconcile(tenant, from_start=True)
            assert all(window.is_matched for window in windows), windows
            assert outcome.source == outcome.warehouse
            rows = rig.admin.execute(
                "SELECT count(*) FROM entity_values_ts WHERE tenant_id = %s", [tenant.id]
            ).fetchone()
            assert rows == (outcome.warehouse.rows,)
            digests[tenant] = outcome.warehouse
        for name in TABLES.keys() - {"entity_values_ts", "replication_heartbeat"}:
            rows = rig.admin.execute(f"SELECT count(*) FROM {name}").fetchone()
            assert await self.query(f"SELECT count(*) FROM {name}") == [rows], name
        return digests


@contextmanager
def make_rig(server: Database, directory: Path) -> Iterator[Rig]:
    """A rig with two tenants that have the same entity keys, and nothing of an earlier rig."""
    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        # Cheaper than a database for each test.
        admin.execute(f"TRUNCATE {', '.join(TABLES.keys() - {HEARTBEAT.name})}, write_requests")
        make_two_tenants(admin)
        rig = Rig(server, admin, directory / "warehouse.duckdb")
        try:
            yield rig
        finally:
            rig.close()
