"""An ingest service in the test's process or beside it, on a real Postgres, with two tenants."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
from pydantic import SecretStr

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas.type.v1 import value_pb2
from atlas_common import errors
from atlas_common.background import Supervisor
from atlas_common.config import DatabaseConfig, PeerConfig, TokenConfig
from atlas_common.errors import ServiceError
from atlas_common.rpc import TENANT_KEY, Insecure, call_chain, declared_access
from atlas_common.testing import serving
from atlas_common.token import TokenSigner
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database
from atlas_devstack.platform import SERVICES
from atlas_devstack.ports import free_port
from atlas_devstack.services import Service, Wiring
from atlas_devstack.waiting import Patience
from atlas_ingest.config import Config, FlushConfig, StreamConfig
from atlas_ingest.wiring import SERVICES as INGEST_SERVICES
from atlas_ingest.wiring import Ingest, wire

from .waiting import eventually

TYPES = {
    "flag": value_pb2.DATA_TYPE_BOOL,
    "count": value_pb2.DATA_TYPE_INT,
    "ratio": value_pb2.DATA_TYPE_DOUBLE,
    "price": value_pb2.DATA_TYPE_DECIMAL,
    "name": value_pb2.DATA_TYPE_TEXT,
    "when": value_pb2.DATA_TYPE_TIME,
    "doc": value_pb2.DATA_TYPE_JSON,
}
ATTRIBUTES = [
    *(catalog_pb.Attribute(name=name, data_type=type_) for name, type_ in TYPES.items()),
    catalog_pb.Attribute(
        name="pressure",
        data_type=value_pb2.DATA_TYPE_DOUBLE,
        min_value="0",
        max_value="100",
        hot=True,
    ),
    catalog_pb.Attribute(
        name="state",
        data_type=value_pb2.DATA_TYPE_TEXT,
        allowed_values=["running", "stopped"],
        hot=True,
    ),
    catalog_pb.Attribute(
        name="serial", data_type=value_pb2.DATA_TYPE_TEXT, validation_regex="[A-Z]{2}[0-9]+"
    ),
]
_TOKEN_KEY = b"sixteen bytes, ok"


def point(attribute: str = "ratio", key: str = "pump-1", **fields: Any) -> value_pb2.Point:
    """A point; a good double unless told otherwise."""
    if not any(name.endswith("_value") for name in fields):
        fields["double_value"] = 1.5
    return value_pb2.Point(entity_key=key, attribute=attribute, **fields)


async def refusal(call: Awaitable[Any]) -> ServiceError:
    """The error that the call ends with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return errors.from_rpc_error(error)
    raise AssertionError(f"not refused: {answer}")


@dataclass
class Client:
    """Calls an ingest service as two tenants that look the same."""

    ingest: "ingest_service_pb2_grpc.IngestServiceAsyncStub"
    catalog: "catalog_service_pb2_grpc.CatalogServiceAsyncStub"
    acme: str
    globex: str

    @property
    def tenants(self) -> tuple[str, str]:
        """Both."""
        return self.acme, self.globex

    async def write(
        self, tenant: str, points: Sequence[value_pb2.Point], timeout: float = 20, **fields: Any
    ) -> pb.WriteResponse:
        """One Write."""
        request = pb.WriteRequest(points=points, **fields)
        return await self.ingest.Write(request, timeout=timeout, metadata=as_tenant(tenant))

    async def set_up(self) -> None:
        """Make both tenants with the same attributes."""
        for tenant in self.tenants:
            await self.catalog.CreateTenant(catalog_pb.CreateTenantRequest(key=tenant))
            await self.catalog.BatchUpsertAttributes(
                catalog_pb.BatchUpsertAttributesRequest(attributes=ATTRIBUTES),
                metadata=as_tenant(tenant),
            )


def as_tenant(key: str) -> tuple[tuple[str, str], ...]:
    """Call metadata."""
    return ((TENANT_KEY, key),)


def client_on(channel: grpc.aio.Channel) -> Client:
    """A client with two tenants of its own."""
    suffix = secrets.token_hex(4)
    return Client(
        ingest=ingest_service_pb2_grpc.IngestServiceStub(channel),
        catalog=catalog_service_pb2_grpc.CatalogServiceStub(channel),
        acme=f"acme-{suffix}",
        globex=f"globex-{suffix}",
    )


@dataclass
class Rig:
    """A service, a client of it, and the database as its administrator sees it."""

    client: Client
    service: Ingest
    signer: TokenSigner
    admin: "psycopg.AsyncConnection[Any]"
    database: Database

    async def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows as the administrator sees them."""
        return await (await self.admin.execute(sql, values)).fetchall()

    async def stored(self, tenant: str) -> list[tuple[Any, ...]]:
        """(entity key, attribute, quality, value as text) of the tenant's points, in order."""
        return await self.query(
            "SELECT e.key, a.name, v.quality, coalesce(value_bool::text, value_int::text,"
            " value_double::text, value_decimal::text, value_text, value_time::text,"
            " value_json::text)"
            " FROM entity_values_ts AS v JOIN tenants AS t USING (tenant_id)"
            " LEFT JOIN entities AS e USING (tenant_id, entity_id)"
            " LEFT JOIN attributes AS a USING (tenant_id, attribute_id)"
            " WHERE t.key = %s ORDER BY v.event_time, 1, 2",
            tenant,
        )

    async def count(self, tenant: str) -> int:
        """How many points the tenant has."""
        return len(await self.stored(tenant))

    @property
    def lane(self) -> int:
        """The number of the service's lane."""
        (worker,) = self.service.flusher.workers
        assert worker.holding is not None
        return worker.holding.lane

    async def tenant_id(self, key: str) -> int:
        """A tenant's number."""
        rows = await self.query("SELECT tenant_id FROM tenants WHERE key = %s", key)
        return int(rows[0][0])

    async def position(self) -> tuple[int, int]:
        """(epoch, sequence) of the service's lane."""
        (worker,) = self.service.flusher.workers
        assert worker.holding is not None
        open_load = worker.holding.open
        return worker.holding.epoch, open_load.sequence - 1

    @contextmanager
    def flushes_held(self) -> Iterator[None]:
        """No flush on this database gets on while the block runs: all wait for a lock."""
        with psycopg.connect(self.database.admin_dsn, autocommit=True) as connection:
            connection.execute("SET search_path = atlas")
            connection.execute("SELECT pg_advisory_lock(flush_lock())")
            yield

    async def waiting_flushes(self) -> int:
        """How many flushes wait for that lock."""
        rows = await self.query(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return int(rows[0][0])

    async def end_session(self, name: str) -> None:
        """End the lane's session of this name, as a failover would."""
        await self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            f"atlas ingest lane {name}",
        )


@asynccontextmanager
async def start_rig(
    database: Database,
    *,
    hotcache: str | None = None,
    stream: StreamConfig | None = None,
    **flush: Any,
) -> AsyncIterator[Rig]:
    """A service in this process, ready, with its tenants made."""
    dsn = DatabaseConfig(
        dsn=SecretStr(database.dsn("atlas_ingest")),
        statement_timeout_seconds=20,
        lock_timeout_seconds=20,
    )
    key = SecretStr(base64.b64encode(_TOKEN_KEY).decode())
    config = Config(
        primary=dsn,
        direct=dsn,
        hotcache=None if hotcache is None else PeerConfig(target=hotcache),
        token=TokenConfig(keys={1: key}, active_key=1),
        flush=FlushConfig(**flush),
        stream=stream or StreamConfig(),
    )
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(database.admin_dsn, autocommit=True)
        )
        service = await stack.enter_async_context(wire(config))
        await service.readiness["schema"]()  # Work waits for it, and nobody else asks here.
        tasks = await stack.enter_async_context(Supervisor())
        for name in ("partitions", "flush"):
            tasks.start(name, service.background[name])
        chain = call_chain(
            config.rpc,
            authenticator=Insecure("dev"),
            tenants=service.tenants,
            accesses=declared_access(INGEST_SERVICES),
            meters=service.meters,
            audit=service.audit,
        )
        add: Callable[[Ingest, grpc.aio.Server], None] = Ingest.add_to
        channel = await stack.enter_async_context(serving(service, add=add, chain=chain))
        await eventually(lambda: any(worker.is_live for worker in service.flusher.workers))
        rig = Rig(client_on(channel), service, TokenSigner({1: _TOKEN_KEY}, 1), admin, database)
        await rig.client.set_up()
        yield rig


@asynccontextmanager
async def ingest_process(
    database: Database, directory: Path, **environment: str
) -> AsyncIterator[Service]:
    """A service in a process of its own, ready.

    Waited for in a thread: a rig of this loop may be in a transaction that the process waits for.
    """
    for name in ("logs", "run"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    taken: set[int] = set()
    wiring = Wiring(
        database=database,
        replicas={},
        valkey_url=None,
        credentials=Credentials(),
        ports={name: free_port(taken) for name in SERVICES},
        warehouse=directory / "warehouse",
        log_directory=directory / "logs",
        run_directory=directory / "run",
        spans=False,
    )
    service = Service(SERVICES["ingest"], wiring, environment, Patience(timeout_seconds=20))
    try:
        await asyncio.to_thread(service.start)
        yield service
    finally:
        await asyncio.to_thread(service.stop)
