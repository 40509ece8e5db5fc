"""Where faults happen: a Postgres that may be hurt, ingest processes on it, clients, the audit."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.type.v1 import value_pb2
from atlas_client.call import open_channel
from atlas_common.rpc import TENANT_KEY
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database, another
from atlas_devstack.platform import SERVICES
from atlas_devstack.ports import free_port
from atlas_devstack.postgres import PostgresNode
from atlas_devstack.services import Service, Wiring
from atlas_devstack.stack import Stack
from atlas_devstack.waiting import Patience
from tests.integration.waiting import eventually

from .audit import Findings, audit
from .ledger import KINDS, Ledger, Level
from .load import LEVELS, Door, door_to
from .traffic import Load, under_load

TENANTS = ("acme", "globex")
RECOVERY_SECONDS_MAX = 10.0
"""From the end of a fault to the first durable write."""
RSS_BYTES_MAX = 512 * 2**20
OVERLOADED = "RESOURCE_EXHAUSTED OVERLOADED"
"""As ledgers count failures."""
_MAX_VALUE = "1000000000000"
_ENVIRONMENT = {
    # Hotcache is not part of this: nobody waits for one that is not there.
    "ATLAS_FLUSH__INVALIDATE_TIMEOUT_MS": "1",
    "ATLAS_RPC__READINESS_INTERVAL_SECONDS": "0.1",
}


@dataclass
class Arena:
    """One test's database and processes."""

    stack: Stack
    database: Database
    directory: Path
    ledger: Ledger = field(default_factory=Ledger)
    processes: list[Service] = field(default_factory=list)
    _credentials: Credentials = field(default_factory=Credentials)
    _ports: set[int] = field(default_factory=set)

    @property
    def primary(self) -> PostgresNode:
        """The Postgres server."""
        return self.stack.postgres.primary

    async def start_ingest(
        self, *, port: int | None = None, environment: Mapping[str, str] | None = None
    ) -> Service:
        """One more ingest process, ready; `port`: reaches Postgres through a proxy there."""
        process = self.make_ingest(port=port, environment=environment)
        await asyncio.to_thread(process.start)
        if len(self.processes) == 1:
            await set_up_tenants(process.target)
        return process

    async def start_ingests(self, count: int) -> list[Service]:
        """So many processes, started at the same time."""
        processes = [self.make_ingest() for _ in range(count)]
        await asyncio.gather(*(asyncio.to_thread(process.start) for process in processes))
        await set_up_tenants(processes[0].target)
        return processes

    def make_ingest(
        self, *, port: int | None = None, environment: Mapping[str, str] | None = None
    ) -> Service:
        """The same, not started yet."""
        directory = self.directory / f"ingest-{len(self.processes)}"
        for name in ("logs", "run"):
            (directory / name).mkdir(parents=True)
        wiring = Wiring(
            database=self.database,
            replicas={},
            valkey_url=None,
            credentials=self._credentials,
            ports={name: free_port(self._ports) for name in SERVICES},
            warehouse=directory / "warehouse",
            log_directory=directory / "logs",
            run_directory=directory / "run",
            spans=False,
        )
        extra = {**_ENVIRONMENT, **(environment or {})}
        if port is not None:
            extra["ATLAS_PRIMARY__DSN"] = make_conninfo(
                self.database.dsn("atlas_ingest"), port=port
            )
            extra["ATLAS_DIRECT__DSN"] = extra["ATLAS_PRIMARY__DSN"]
        process = Service(SERVICES["ingest"], wiring, extra, Patience(timeout_seconds=30))
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Stop the ingest processes."""
        for process in self.processes:
            process.stop()

    @asynccontextmanager
    async def door(self) -> AsyncIterator[Door]:
        """To all processes made by now."""
        async with door_to([process.target for process in self.processes], self.ledger) as door:
            yield door

    @asynccontextmanager
    async def load(
        self, *, writers: int = 4, points: int = 10, levels: Sequence[Level] = LEVELS
    ) -> AsyncIterator[Load]:
        """Clients of both tenants; the block begins when writes of every level are answered."""
        async with self.door() as door:
            load = Load(door, TENANTS, writers=writers, points=points, levels=levels)
            async with under_load(load):
                began = time.monotonic()
                await eventually(lambda: self._answered(began, levels))
                yield load

    def _answered(self, since: float, levels: Sequence[Level]) -> bool:
        answered = self.ledger.acknowledged_since(since, Level.STAGED)
        return {batch.level for batch in answered} >= set(levels)

    async def recovered(self, fault_ended: float) -> float:
        """Wait for the first durable write after the fault; how long it took, in seconds."""

        def written() -> bool:
            return bool(self.ledger.acknowledged_since(fault_ended))

        await eventually(written, RECOVERY_SECONDS_MAX)
        first = min(batch.acknowledged_at for batch in self.ledger.acknowledged_since(fault_ended))
        return first - fault_ended

    async def more_traffic(self, batches: int = 20) -> None:
        """Wait until so many more batches are acknowledged as durable."""
        since = time.monotonic()
        await eventually(lambda: len(self.ledger.acknowledged_since(since)) >= batches)

    async def verify(self, floor: Level = Level.STAGED, *, until: float = float("inf")) -> Findings:
        """Every outcome is known, every promise is kept, soon and without help; fails if not."""
        assert not self.ledger.surprises, self.ledger.surprises[:5]
        if floor is Level.STAGED:
            assert not self.ledger.lost, f"{len(self.ledger.lost)} batches were lost"
        unknown = [batch for batch in self.ledger.batches if batch.outcome.value == "unknown"]
        assert not unknown, f"{len(unknown)} batches without outcome; {self.ledger.summary()}"
        findings = Findings()

        async def sound() -> bool:
            nonlocal findings
            findings = await audit(self.database, self.ledger, floor, until=until)
            return not findings.problems()

        try:
            await eventually(sound, RECOVERY_SECONDS_MAX)
        except TimeoutError:
            raise AssertionError(f"{findings.problems()}; {self.ledger.summary()}") from None
        assert findings.stored > 0
        return findings

    async def verify_now(self, floor: Level = Level.DURABLE) -> None:
        """What may never be otherwise, as soon as the database can be asked."""
        async with asyncio.timeout(RECOVERY_SECONDS_MAX):
            while True:
                try:
                    findings = await audit(self.database, self.ledger, floor)
                    break
                except psycopg.OperationalError:
                    await asyncio.sleep(0.05)
        assert not findings.problems(), f"{findings.problems()}; {self.ledger.summary()}"

    async def lose_backend(self, victim: Callable[["psycopg.Connection[Any]"], int]) -> float:
        """SIGKILL a session's process; the moment at which Postgres has ended all the others.

        `victim` picks the process id, on a session that is ended too.
        """
        with self.admin() as witness:
            pid = await asyncio.to_thread(victim, witness)
            await asyncio.to_thread(self.primary.kill_backend, pid)

            def is_ended() -> bool:
                try:
                    witness.execute("SELECT 1")
                except psycopg.OperationalError:
                    return True
                return False

            await eventually(is_ended)
        return time.monotonic()

    # The database, as its administrator sees it ----------------------------------------------

    @contextmanager
    def admin(self) -> Iterator["psycopg.Connection[Any]"]:
        """An autocommit connection with all rights."""
        with psycopg.connect(self.database.admin_dsn, autocommit=True) as connection:
            connection.execute("SET search_path = atlas")
            yield connection

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows."""
        with self.admin() as connection:
            return connection.execute(sql, values or None).fetchall()

    @contextmanager
    def flushes_held(self) -> Iterator[None]:
        """Every flush on this database waits at its beginning while the block runs."""
        with self.admin() as connection:
            connection.execute("SELECT pg_advisory_lock(flush_lock())")
            yield

    @contextmanager
    def projection_held(self) -> Iterator[None]:
        """Every flush with hot points waits inside: its rows are inserted, its projection is not.

        Needs a projection to hold: something must have been flushed before.
        """
        with self.admin() as connection, connection.transaction():
            held = connection.execute("SELECT 1 FROM entity_jsonb FOR UPDATE").fetchall()
            assert held, "no projection to hold"
            yield

    def waiting_flushes(self, kind: str) -> int:
        """How many flushes wait for a lock: `advisory` for their beginning, `row` inside."""
        return len(self._waiting_flushes(kind))

    def ports_of_waiting_flushes(self) -> list[int]:
        """The ports that those come from that wait for their beginning."""
        return [int(row[0]) for row in self._waiting_flushes("advisory")]

    def _waiting_flushes(self, kind: str) -> list[tuple[Any, ...]]:
        return self.query(
            "SELECT client_port FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database() AND query LIKE '%%stage_flush%%'"
            " AND (wait_event = 'advisory') = (%s = 'advisory')",
            kind,
        )

    def staged_points(self) -> int:
        """Points in all halves of all lanes."""
        with self.admin() as connection:
            tables = connection.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
                " WHERE schemaname = 'staging' AND tablename LIKE '%points'"
            ).fetchall()
            return sum(
                int(connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0])
                for (name,) in tables
            )

    def flush_count(self) -> int:
        """Sequences of all lanes."""
        return int(self.query("SELECT coalesce(sum(sequence), 0) FROM flush_positions")[0][0])


@contextmanager
def arena_on(stack: Stack, directory: Path) -> Iterator[Arena]:
    """A fresh database on the stack's server, which runs afterwards, whatever was done to it."""
    primary = stack.postgres.primary
    with another(stack.database) as database, ExitStack() as cleanup:
        arena = Arena(stack, database, directory)
        cleanup.callback(primary.wait_ready)
        cleanup.callback(primary.relaunch_if_dead)
        cleanup.callback(primary.resume)
        cleanup.callback(arena.stop)
        yield arena


def resident_bytes_max(process: Service) -> int:
    """The most memory the process ever had."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {process.pid}")


async def set_up_tenants(target: str) -> None:
    """Make the tenants with the attributes that ledgers write."""
    attributes = [
        catalog_pb.Attribute(
            name=kind.name,
            data_type=value_pb2.DATA_TYPE_TEXT if kind.is_text else value_pb2.DATA_TYPE_INT,
            hot=kind.is_hot,
            max_value=_MAX_VALUE if kind.name == "level" else "",
        )
        for kind in KINDS
    ]
    async with open_channel(target, None) as channel:
        catalog: Any = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        for tenant in TENANTS:
            await catalog.CreateTenant(catalog_pb.CreateTenantRequest(key=tenant))
            await catalog.BatchUpsertAttributes(
                catalog_pb.BatchUpsertAttributesRequest(attributes=attributes),
                metadata=((TENANT_KEY, tenant),),
            )
