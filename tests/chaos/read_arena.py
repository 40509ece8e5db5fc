"""Where reads are hurt: a primary, two replicas, a cache, and the services, each a real process."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
from psycopg.conninfo import make_conninfo

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.query.v1 import query_service_pb2 as pb
from atlas.query.v1 import query_service_pb2_grpc
from atlas.type.v1 import value_pb2
from atlas_client.call import open_channel
from atlas_common.rpc import TENANT_KEY
from atlas_devstack.credentials import Credentials
from atlas_devstack.platform import SERVICES
from atlas_devstack.ports import free_port
from atlas_devstack.postgres import PostgresNode
from atlas_devstack.services import Service, Wiring
from atlas_devstack.stack import Stack
from atlas_devstack.waiting import Patience
from tests.integration.query_reading import TOKEN_ENVIRONMENT, as_tenant, lag
from tests.integration.waiting import eventually

from . import inspected
from .inspected import Holdings

ROOT = Path(__file__).parents[2]
TENANTS = ("acme", "globex")
REPLICAS = ("replica-1", "replica-2")
LOCKED_SECONDS_MAX = 20.0
RECOVERY_SECONDS_MAX = 10.0
"""From the end of a fault until reads are served as before."""


class Inspected(Service):
    """A service's process that tells what it holds."""

    @property
    def _holdings_file(self) -> Path:
        return Path(self.environment[inspected.FILE])

    async def holdings(self) -> Holdings:
        """What it holds now."""
        self._holdings_file.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        await eventually(self._holdings_file.exists)
        return inspected.read(self._holdings_file)


@dataclass
class Reads:
    """One query process, as its callers and its operators see it."""

    process: Inspected
    channel: grpc.aio.Channel

    @property
    def stub(self) -> Any:
        """Its calls."""
        return query_service_pb2_grpc.QueryServiceStub(self.channel)

    async def get(self, tenant: str, *keys: str, timeout: float = 5.0, **fields: Any) -> Any:
        """GetEntities."""
        request = pb.GetEntitiesRequest(entity_keys=keys, **fields)
        return await self.stub.GetEntities(request, metadata=as_tenant(tenant), timeout=timeout)

    async def tiers(self) -> dict[str, pb.Tier]:
        """By endpoint."""
        answer = await self.stub.ListTiers(pb.ListTiersRequest(), timeout=5)
        return {tier.endpoint: tier for tier in answer.tiers}

    async def lagging(self, seconds: float, *names: str) -> None:
        """Wait until it knows that these replicas are behind by so much."""

        async def known() -> bool:
            tiers = await self.tiers()
            return all(lag(tiers[name]) > seconds for name in names)

        await eventually(known)

    async def fresh(self, *names: str, seconds: float = RECOVERY_SECONDS_MAX) -> None:
        """Wait until these tiers (all servers, if none is named) are there and hardly behind."""

        async def known() -> bool:
            tiers = await self.tiers()
            return all(
                tiers[name].available and lag(tiers[name]) < 1
                for name in names or ("primary", *REPLICAS)
            )

        await eventually(known, seconds)


@dataclass
class ReadArena:
    """The servers of these tests, and the processes on them."""

    stack: Stack
    directory: Path
    processes: list[Inspected] = field(default_factory=list)
    _ports: set[int] = field(default_factory=set)
    _watches: "dict[str, psycopg.Connection[Any]]" = field(default_factory=dict)

    def make(
        self, service: str, *, port: int = 0, environment: Mapping[str, str] | None = None
    ) -> Inspected:
        """An inspected process of a service, not started yet; it stops with the arena."""
        directory = self.directory / f"{service}-{len(self.processes)}"
        for name in ("logs", "run"):
            (directory / name).mkdir(parents=True)
        ports = self.stack.state.ports(list(SERVICES))
        ports[service] = port or free_port(self._ports)
        wiring = Wiring(
            database=self.stack.database,
            replicas=self.stack.replicas,
            valkey_url=self.stack.endpoints.valkey,
            credentials=Credentials(),
            ports=ports,
            warehouse=directory / "warehouse",
            log_directory=directory / "logs",
            run_directory=directory / "run",
            spans=False,
        )
        kind = SERVICES[service]
        extra = {
            **TOKEN_ENVIRONMENT,
            "PYTHONPATH": str(ROOT),
            inspected.MODULE: kind.module,
            inspected.FILE: str(directory / "run" / "holdings.json"),
            **(environment or {}),
        }
        kind = replace(kind, module=inspected.__name__)
        process = Inspected(kind, wiring, extra, Patience(timeout_seconds=30))
        self.processes.append(process)
        return process

    @property
    def hotcache(self) -> Inspected:
        """The hotcache service, which all query processes ask."""
        return self.processes[0]

    @property
    def query(self) -> Inspected:
        """The query service that tests share."""
        return self.processes[1]

    @asynccontextmanager
    async def reads(
        self, process: Inspected | None = None, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Reads]:
        """Calls to a process, or to a new one that knows these variables."""
        own = process or self.make("query", environment=environment)
        if process is None:
            await asyncio.to_thread(own.start)
        try:
            async with open_channel(own.target, None) as channel:
                reads = Reads(own, channel)
                await reads.fresh()
                yield reads
        finally:
            if process is None:
                await asyncio.to_thread(own.stop)

    def through(
        self,
        ports: Mapping[str, int] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> dict[str, str]:
        """Variables that lead query to its servers by these ports, with settings of each.

        Statements wait for locks as long as tests hold them.
        """
        ports = ports or {}
        settings = {"lock_timeout_seconds": LOCKED_SECONDS_MAX, **(settings or {})}
        role = SERVICES["query"].role
        replicas = [
            {"name": name, "dsn": _at(database.dsn(role), ports.get(name)), **settings}
            for name, database in self.stack.replicas.items()
        ]
        return {
            "ATLAS_PRIMARY__DSN": _at(self.stack.database.dsn(role), ports.get("primary")),
            "ATLAS_REPLICAS": json.dumps(replicas),
            **{f"ATLAS_PRIMARY__{key.upper()}": str(value) for key, value in settings.items()},
        }

    def stop(self) -> None:
        """Stop the processes."""
        for watch in self._watches.values():
            watch.close()
        for process in self.processes:
            process.stop()

    # The servers, as their administrator sees them ---------------------------------------------

    def node(self, name: str) -> PostgresNode:
        """A server by its name."""
        return next(node for node in self.stack.postgres.nodes if node.node_name == name)

    @contextmanager
    def admin(self, name: str = "primary") -> Iterator["psycopg.Connection[Any]"]:
        """An autocommit connection with all rights, to the platform's database on a server."""
        with psycopg.connect(self._dsn(name), autocommit=True) as connection:
            connection.execute("SET search_path = atlas")
            yield connection

    def rows(self, name: str, sql: str) -> list[tuple[Any, ...]]:
        """Asked on a connection that stays open: some ask again and again."""
        if name not in self._watches:
            self._watches[name] = psycopg.connect(self._dsn(name), autocommit=True)
        return self._watches[name].execute(sql.encode()).fetchall()

    def waiting_reads(self, *names: str) -> int:
        """How many statements of query wait for a lock on these servers."""
        sql = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE usename = 'atlas_query' AND wait_event_type = 'Lock'"
        )
        return sum(int(self.rows(name, sql)[0][0]) for name in names)

    def open_reads(self, *names: str) -> set[tuple[Any, ...]]:
        """The transactions of query on these servers: server, process, beginning."""
        sql = (
            "SELECT pid, xact_start FROM pg_stat_activity"
            " WHERE usename = 'atlas_query' AND xact_start IS NOT NULL"
        )
        return {(name, *row) for name in names for row in self.rows(name, sql)}

    @asynccontextmanager
    async def locked(self, table: str, *replicas: str) -> AsyncIterator[None]:
        """Nobody reads this table: not on the primary, nor on these replicas, which replay that."""
        held = (
            "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
            f" AND relation = 'atlas.{table}'::regclass"
        )
        with self.admin() as connection, connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '5s'")
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
            for name in replicas:
                await eventually(partial(self._is_held, name, held))
            yield

    def _is_held(self, name: str, sql: str) -> bool:
        return self.rows(name, sql) == [(1,)]

    async def configured(self, name: str, settings: Mapping[str, str | None]) -> None:
        """Change settings of a running server, None for what they were."""
        with self.admin(name) as connection:
            for key, value in settings.items():
                change = f"RESET {key}" if value is None else f"SET {key} = '{value}'"
                connection.execute(f"ALTER SYSTEM {change}".encode())
            connection.execute("SELECT pg_reload_conf()")

            def is_known() -> bool:
                rows = connection.execute(
                    "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(settings)]
                ).fetchall()
                return all(settings[row[0]] in {None, row[1]} for row in rows)

            await eventually(is_known)

    @contextmanager
    def receivers_stopped(self, *names: str) -> Iterator[None]:
        """SIGSTOP the process that receives the log; the replica itself goes on answering."""
        stopped = [(self.node(name), self._receiver(name)) for name in names]
        try:
            for node, pid in stopped:
                node.signal_backend(pid, signal.SIGSTOP)
            yield
        finally:
            for node, pid in stopped:
                node.signal_backend(pid, signal.SIGCONT)

    def _dsn(self, name: str) -> str:
        database = self.stack.database if name == "primary" else self.stack.replicas[name]
        return database.admin_dsn

    def _receiver(self, name: str) -> int:
        with self.admin(name) as connection:
            row = connection.execute("SELECT pid FROM pg_stat_wal_receiver").fetchone()
        assert row is not None, f"{name} receives nothing"
        return int(row[0])


@contextmanager
def read_arena_on(stack: Stack, directory: Path) -> Iterator[ReadArena]:
    """Hotcache beside the stack's ingest, tenants and attributes."""
    arena = ReadArena(stack, directory)
    hotcache = arena.make("hotcache", port=stack.state.ports(list(SERVICES))["hotcache"])
    query = arena.make("query", environment=arena.through())
    try:
        for process in (hotcache, query):
            process.launch()
        for process in (hotcache, query):
            process.wait_ready()
        asyncio.run(_set_up_tenants(stack.services["ingest"].target))
        yield arena
    finally:
        arena.stop()


def _at(dsn: str, port: int | None) -> str:
    return dsn if port is None else make_conninfo(dsn, port=port)


async def _set_up_tenants(target: str) -> None:
    double, text = value_pb2.DATA_TYPE_DOUBLE, value_pb2.DATA_TYPE_TEXT
    attributes = [
        catalog_pb.Attribute(name="pressure", data_type=double, hot=True),
        catalog_pb.Attribute(name="state", data_type=text, hot=True),
        catalog_pb.Attribute(name="serial", data_type=text),
    ]
    async with open_channel(target, None) as channel:
        catalog: Any = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        for tenant in TENANTS:
            await catalog.CreateTenant(catalog_pb.CreateTenantRequest(key=tenant))
            await catalog.BatchUpsertAttributes(
                catalog_pb.BatchUpsertAttributesRequest(attributes=attributes),
                metadata=((TENANT_KEY, tenant),),
            )
