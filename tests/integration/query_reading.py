"""What tests of the query service need: a stack, a heart that beats, hands that write."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
from google.rpc import error_details_pb2, status_pb2

from atlas.query.v1 import query_service_pb2 as pb
from atlas.query.v1 import query_service_pb2_grpc
from atlas.type.v1 import consistency_pb2
from atlas_common.token import Position, TokenSigner
from atlas_devstack.postgres import PostgresNode
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.waiting import Patience, wait_until

from .conftest import make_two_tenants
from .lane_writer import LaneWriter, RawPoint

ACME, GLOBEX = 1, 2
PRESSURE, STATE, SERIAL = 1, 2, 3
T0 = datetime(2026, 3, 1, tzinfo=UTC)
TENANTS = {ACME: "acme", GLOBEX: "globex"}
PATIENCE = Patience(20.0, threading.Event())
SIGNER = TokenSigner({1: b"0123456789abcdef"}, 1)
TOKEN_ENVIRONMENT = {
    "ATLAS_TOKEN__KEYS": '{"1": "MDEyMzQ1Njc4OWFiY2RlZg=="}',
    "ATLAS_TOKEN__ACTIVE_KEY": "1",
}


def eventual(max_staleness: float | None = None, **fields: Any) -> consistency_pb2.Consistency:
    message = consistency_pb2.Consistency(**_durations(fields))
    message.eventual.SetInParent()
    if max_staleness is not None:
        message.eventual.max_staleness.FromMicroseconds(int(max_staleness * 1e6))
    return message


def at_least(token: bytes, **fields: Any) -> consistency_pb2.Consistency:
    return consistency_pb2.Consistency(at_least_as_fresh=token, **_durations(fields))


def _durations(fields: dict[str, Any]) -> dict[str, Any]:
    if isinstance(fields.get("wait_timeout"), float | int):
        fields["wait_timeout"] = timedelta(seconds=fields["wait_timeout"])
    return fields


STRONG = consistency_pb2.Consistency(strong=consistency_pb2.Consistency.Strong())
WAIT, PRIMARY, FAIL = (
    consistency_pb2.ON_UNMET_WAIT,
    consistency_pb2.ON_UNMET_PRIMARY,
    consistency_pb2.ON_UNMET_FAIL,
)


@contextmanager
def reading_stack(
    directory: Path,
    servers: Any,
    services: tuple[str, ...] = ("query",),
    query: Mapping[str, str] | None = None,
    fresh: tuple[str, ...] = ("replica-1", "replica-2"),
) -> Iterator["Reading"]:
    """A stack of these services, with a primary, two replicas and Valkey, and two tenants."""
    environment = {service: dict(TOKEN_ENVIRONMENT) for service in services}
    environment["query"] |= query or {}
    options = StackOptions(services=services, servers=servers, environment=environment)
    stack = Stack.start(directory / "state", options)
    try:
        with closing(Reading(stack)) as reading:
            reading.wait_fresh(*fresh)
            yield reading
    finally:
        stack.remove()


class Heart:
    """Beats as the writers do, as long as the primary lives and nobody holds it."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stopping = threading.Event()
        self._holding = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heart", daemon=True)
        self._thread.start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """It does not beat."""
        self._holding.set()
        try:
            yield
        finally:
            self._holding.clear()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _live(self) -> None:
        while not self._stopping.is_set():
            try:
                self._beat()
            except psycopg.OperationalError:
                self._stopping.wait(0.1)

    def _beat(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stopping.wait(0.1):
                if not self._holding.is_set():
                    connection.execute("SELECT beat_heart('50ms')")


class Reading:
    """A running query service over a primary and two replicas, seen by two tenants."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.admin = psycopg.connect(stack.database.admin_dsn, autocommit=True)
        self._ingest = psycopg.connect(stack.database.dsn("atlas_ingest"), autocommit=True)
        self.writer = LaneWriter(self._ingest)
        make_two_tenants(self.admin)
        self.heart = Heart(stack.database.dsn("atlas_ingest"))
        self.channel = grpc.insecure_channel(stack.services["query"].target)
        self.query = query_service_pb2_grpc.QueryServiceStub(self.channel)

    def close(self) -> None:
        self.heart.stop()
        self.channel.close()
        self._ingest.close()
        self.admin.close()

    def write(self, points: Iterable[RawPoint], tenant_id: int = ACME) -> bytes:
        """Write, and answer the token of the flush for this tenant."""
        flushed = self.writer.write(points)
        position = Position(self.writer.lane, self.writer.epoch, flushed.sequence)
        return SIGNER.seal(tenant_id, [position])

    def get(
        self,
        *keys: str,
        tenant: int | str = ACME,
        consistency: consistency_pb2.Consistency | None = None,
        timeout: float = 10,
        **fields: Any,
    ) -> pb.GetEntitiesResponse:
        request = pb.GetEntitiesRequest(entity_keys=keys, consistency=consistency, **fields)
        return self.query.GetEntities(request, metadata=as_tenant(tenant), timeout=timeout)

    def find(
        self,
        filter_: pb.Filter | None = None,
        *,
        tenant: int = ACME,
        consistency: consistency_pb2.Consistency | None = STRONG,
        **fields: Any,
    ) -> pb.FindEntitiesResponse:
        request = pb.FindEntitiesRequest(filter=filter_, consistency=consistency, **fields)
        return self.query.FindEntities(request, metadata=as_tenant(tenant), timeout=10)

    def history(
        self,
        key: str,
        *,
        tenant: int = ACME,
        consistency: consistency_pb2.Consistency | None = STRONG,
        **fields: Any,
    ) -> list[pb.GetHistoryResponse]:
        request = pb.GetHistoryRequest(entity_key=key, consistency=consistency, **fields)
        return list(self.query.GetHistory(request, metadata=as_tenant(tenant), timeout=10))

    def tiers(self) -> dict[str, pb.Tier]:
        return {
            tier.endpoint: tier
            for tier in self.query.ListTiers(pb.ListTiersRequest(), timeout=5).tiers
        }

    def replica(self, name: str) -> PostgresNode:
        return next(node for node in self.stack.postgres.replicas if node.name.endswith(name))

    @contextmanager
    def paused(self, *names: str) -> Iterator[None]:
        """These replicas replay nothing, but answer."""
        try:
            for name in names:
                self._replay(name, "pg_wal_replay_pause")
            yield
        finally:
            for name in names:
                self.resume(name)

    def resume(self, name: str) -> None:
        self._replay(name, "pg_wal_replay_resume")

    def wait_lagging(self, seconds: float, *names: str) -> None:
        """Return once the service knows that these replicas are behind by this much."""

        def lagging() -> bool:
            tiers = self.tiers()
            return all(lag(tiers[name]) > seconds for name in names)

        wait_until(lagging, f"{names} lag {seconds} s", patience=PATIENCE)

    def wait_fresh(self, *names: str) -> None:
        """Return once these tiers are available and hardly behind."""

        def fresh() -> bool:
            tiers = self.tiers()
            return all(tiers[name].available and lag(tiers[name]) < 0.5 for name in names)

        wait_until(fresh, f"{names} are fresh", patience=PATIENCE)

    def _replay(self, name: str, function: str) -> None:
        dsn = self.replica(name).superuser_dsn("postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"SELECT {function}()")


def lag(tier: pb.Tier) -> float:
    """A tier's lag in seconds; infinite if it is unknown."""
    return tier.lag.ToTimedelta().total_seconds() if tier.HasField("lag") else float("inf")


def as_tenant(tenant: int | str) -> tuple[tuple[str, str], ...]:
    return (("x-atlas-tenant", tenant if isinstance(tenant, str) else TENANTS[tenant]),)


def values(state: pb.EntityState) -> dict[str, Any]:
    """Attribute -> value, in Python's types."""
    return {
        reading.attribute: getattr(reading.value, str(reading.value.WhichOneof("kind")))
        for reading in state.readings
    }


def pressure(
    tenant_id: int, value: float, entity_id: int = 1, at: datetime = T0, quality: int = 0
) -> RawPoint:
    return RawPoint(tenant_id, entity_id, PRESSURE, at, value, quality=quality)


def text(
    tenant_id: int, attribute_id: int, value: str, entity_id: int = 1, at: datetime = T0
) -> RawPoint:
    return RawPoint(tenant_id, entity_id, attribute_id, at, value, column="value_text")


def trailers(call: Any) -> dict[str, Any]:
    """A finished call's trailing metadata."""
    return dict(call.trailing_metadata() or ())


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, dict[str, str], str]:
    """Code, reason, metadata and field of a call's failure."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    details = trailers(error).get("grpc-status-details-bin", b"")
    for detail in status_pb2.Status.FromString(details).details:
        _ = detail.Unpack(info) or detail.Unpack(bad)
    field = bad.field_violations[0].field if bad.field_violations else ""
    return error.code(), info.reason, dict(info.metadata), field
