"""What an endpoint's failures do to a read and to its breaker, on a real server."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing

import psycopg
import pytest
from pydantic import SecretStr

from atlas_common.breaker import Breaker, BreakerState
from atlas_common.config import ReplicaConfig
from atlas_common.db import Freshness, PrimaryClock, PrimaryClockPoller
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_devstack.database import Database as DevDatabase
from atlas_query import store
from atlas_query.admission import Admission
from atlas_query.consistency import Consistency, Eventual, OnUnmet, Source
from atlas_query.endpoint import Endpoint, MissedError, Serving
from atlas_query.freshness import FreshnessTracker
from atlas_query.policy import Miss
from atlas_query.router import QueryRouter
from atlas_query.servers import Servers
from atlas_query.watched import WatchedDatabase

ACME, GLOBEX = Tenant(1, "acme"), Tenant(2, "globex")
EVENTUAL = Consistency(Eventual(3.0), OnUnmet.PRIMARY)


class Trio:
    """One real server under three names, and a router over them."""

    def __init__(self, endpoints: dict[str, Endpoint], router: QueryRouter) -> None:
        self.endpoints = endpoints
        self.router = router


@pytest.fixture
async def servers(fresh_database: DevDatabase) -> AsyncIterator[Trio]:
    with psycopg.connect(fresh_database.dsn("atlas_ingest"), autocommit=True) as ingest:
        ingest.execute("SELECT beat_heart('0s')")
    async with AsyncExitStack() as stack:
        endpoints = {}
        for name in ("primary", "replica-1", "replica-2"):
            config = ReplicaConfig(
                name=name, dsn=SecretStr(fresh_database.dsn("atlas_query")), pool_size_max=3
            )
            database = await stack.enter_async_context(WatchedDatabase.open(config, name=name))
            assert isinstance(database, WatchedDatabase)
            endpoints[name] = Endpoint(database, Breaker(3, 60.0), 5.0)
        clock = PrimaryClock()
        tracker = FreshnessTracker(clock, time.monotonic)
        await PrimaryClockPoller(endpoints["primary"].database, clock).poll()
        for name in ("replica-1", "replica-2"):
            look = await store.look(endpoints[name].database)
            tracker.seen(name, look.beat, look.positions)
        replicas = [endpoints["replica-1"], endpoints["replica-2"]]
        router = QueryRouter(
            Servers.fixed(endpoints["primary"], replicas, tracker),
            tracker,
            Admission(1, 0, 1.0, "full"),
            time.monotonic,
        )
        yield Trio(endpoints, router)


class FailingRead:
    """Fails with these errors on its first endpoints, then tells the tenant it reads as."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.endpoints: list[str] = []

    async def __call__(self, serving: Serving) -> str:
        self.endpoints.append(serving.endpoint)
        if self.failures:
            raise self.failures.pop(0)
        cursor = await serving.connection.execute("SELECT current_setting('atlas.tenant_id')")
        row = await cursor.fetchone()
        assert row is not None
        return str(row[0])


@pytest.mark.parametrize("tenant", [ACME, GLOBEX])
async def test_a_conflict_with_recovery_sends_the_read_elsewhere(
    servers: Trio, tenant: Tenant
) -> None:
    for _ in range(5):
        read = FailingRead(psycopg.errors.SerializationFailure("conflict with recovery"))
        answer = await servers.router.execute_query(tenant, EVENTUAL, 1.0, read)
        assert sorted(read.endpoints) == ["replica-1", "replica-2"]
        assert answer.value == str(tenant.id)
        assert answer.proof.source is Source.REPLICA
        assert "was in conflict with recovery" in answer.proof.route_reason
    states = {endpoint.breaker.state for endpoint in servers.endpoints.values()}
    assert states == {BreakerState.CLOSED}  # It is no word on the server's health.


async def test_a_session_that_ends_without_a_word_sends_the_read_elsewhere(
    servers: Trio,
) -> None:
    for _ in range(5):
        read = FailingRead(psycopg.OperationalError("server closed the connection unexpectedly"))
        answer = await servers.router.execute_query(ACME, EVENTUAL, 1.0, read)
        assert sorted(read.endpoints) == ["replica-1", "replica-2"]
        assert "ended the session" in answer.proof.route_reason
    states = {endpoint.breaker.state for endpoint in servers.endpoints.values()}
    assert states == {BreakerState.CLOSED}  # Whether the server is away, the next to open one says.


async def test_a_server_that_goes_away_opens_its_breaker_and_is_passed_over(
    servers: Trio,
) -> None:
    away = psycopg.errors.AdminShutdown("terminating connection")
    for _ in range(3):
        read = FailingRead(away, away)
        answer = await servers.router.execute_query(ACME, EVENTUAL, 1.0, read)
        assert read.endpoints == ["replica-1", "replica-2", "primary"]
        assert answer.proof.source is Source.PRIMARY
    assert servers.endpoints["replica-1"].breaker.state is BreakerState.OPEN
    read = FailingRead()
    await servers.router.execute_query(ACME, EVENTUAL, 1.0, read)
    assert read.endpoints == ["primary"]
    with pytest.raises(ServiceError) as raised:  # Nobody else waits for it either.
        await servers.endpoints["replica-1"].database.check()
    assert raised.value.reason == "DEPENDENCY_UNAVAILABLE"


async def test_a_callers_own_mistake_is_his_and_goes_nowhere_else(servers: Trio) -> None:
    read = FailingRead(psycopg.errors.DatetimeFieldOverflow("a bad value"))
    with pytest.raises(psycopg.errors.DatetimeFieldOverflow):
        await servers.router.execute_query(ACME, EVENTUAL, 1.0, read)
    assert len(read.endpoints) == 1


async def test_a_stream_that_has_begun_is_not_begun_again_elsewhere(servers: Trio) -> None:
    endpoints: list[str] = []

    async def read(serving: Serving) -> AsyncGenerator[int, None]:
        endpoints.append(serving.endpoint)
        yield 1
        raise psycopg.errors.SerializationFailure("conflict with recovery")

    stream = servers.router.stream_query(ACME, EVENTUAL, 1.0, read)
    assert (await anext(stream)).value == 1
    with pytest.raises(ServiceError) as raised:
        await anext(stream)
    assert len(endpoints) == 1
    assert raised.value.retryable


async def test_streams_leave_connections_to_other_reads(servers: Trio) -> None:
    """Of three connections one is for polls, and one is all that streams get."""

    async def read(serving: Serving) -> AsyncGenerator[str, None]:
        while True:
            yield serving.endpoint

    async with aclosing(servers.router.stream_query(ACME, EVENTUAL, 1.0, read)) as stream:
        busy = servers.endpoints[(await anext(stream)).value]
        async with busy.open(GLOBEX, Freshness()) as serving:
            assert serving.endpoint == busy.name
        with pytest.raises(MissedError) as full:
            async with busy.streaming():
                pass
        assert (full.value.miss, full.value.error.reason) == (Miss.BUSY, "OVERLOADED")
    async with busy.streaming():
        pass


async def test_reads_queue_before_the_pool_and_leave_room_for_polls(servers: Trio) -> None:
    endpoint = servers.endpoints["replica-1"]
    async with AsyncExitStack() as stack:
        for _ in range(2):
            opened = servers.router.get_replica_conn(ACME, EVENTUAL, "replica-1")
            await stack.enter_async_context(opened)
        assert endpoint.reads_running == 2
        await endpoint.polled(endpoint.database.check, 5.0)
    assert endpoint.reads_running == 0
    assert endpoint.database.stats().in_use == 0
