"""A failover that loses the tail, as callers see it: tokens, sessions, roles, nothing restarted.

One story on one stack: a write that all servers have, one that the promoted replica never had, the
primary killed, the replica promoted. Then each test looks at one thing.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from atlas_client import (
    AtlasClient,
    AtlasError,
    Attribute,
    Consistency,
    DataType,
    Endpoints,
    EntitiesResult,
    OnUnmet,
    Point,
    Source,
    at_least_as_fresh,
    eventual,
    strong,
)
from atlas_devstack.postgres import PostgresNode
from atlas_devstack.stack import Stack, StackOptions

from .waiting import eventually

KEPT, LOST, AFTER = 1, 2, 3
"""Values of acme's pump-1; globex has them negative."""
ENTITIES = 40
"""More than a sequence logs ahead: numbers given in the lost tail are given again."""
T0 = datetime.now(UTC) - timedelta(hours=1)
TENANTS = ("acme", "globex")
ONLY_REPLICAS = OnUnmet.FAIL


@dataclass
class Platform:
    """The stack, its clients, and what they were told before the failover."""

    stack: Stack
    kept: dict[str, bytes] = field(default_factory=dict)
    lost: bytes = b""
    seen: bytes = b""
    """Of an answer that showed the lost value."""

    @property
    def promoted(self) -> PostgresNode:
        return self.stack.postgres.replicas[0]

    @property
    def other(self) -> PostgresNode:
        return self.stack.postgres.replicas[1]

    @asynccontextmanager
    async def client(self, tenant: str = "acme") -> AsyncIterator[AtlasClient]:
        services = self.stack.services
        endpoints = Endpoints(ingest=services["ingest"].target, query=services["query"].target)
        async with AtlasClient.connect(endpoints, tenant=tenant) as client:
            yield client


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Platform]:
    """Before the failover."""
    options = StackOptions(
        services=("ingest", "hotcache", "query"),
        servers=server_options,
        tenants=TENANTS,
        follows_failover=True,
    )
    stack = Stack.start(tmp_path_factory.mktemp("failover") / "state", options)
    try:
        platform = Platform(stack)
        asyncio.run(_prepare(platform))
        yield platform
    finally:
        stack.remove()


@pytest.fixture(scope="module")
def platform(before: Platform) -> Platform:
    """After it: replica-1 is the primary, replica-2 has the tail that replica-1 never had."""
    asyncio.run(_fail_over(before))
    return before


async def _prepare(platform: Platform) -> None:
    for tenant in TENANTS:
        async with platform.client(tenant) as client:
            await client.upsert_attributes(
                [Attribute("level", DataType.INT, hot=True), Attribute("serial", DataType.INT)]
            )
            platform.kept[tenant] = await _write(client, _of(tenant, KEPT))
    await asyncio.to_thread(platform.stack.postgres.wait_caught_up)


async def _fail_over(platform: Platform) -> None:
    await asyncio.to_thread(platform.promoted.cut_off)
    async with platform.client() as acme, platform.client("globex") as globex:
        platform.lost = await _write(acme, LOST, *(f"lost-{n}" for n in range(ENTITIES)))
        # Replica-2 alone can serve this one, and does before the primary is gone.
        wanted = at_least_as_fresh(platform.lost, on_unmet=ONLY_REPLICAS)
        found = await _answered(lambda: _serial(acme, wanted))
        assert (found["pump-1"].values["serial"], found.metadata.endpoint) == (LOST, "replica-2")
        platform.seen = found.metadata.token
        for n in range(ENTITIES):  # The names' numbers are remembered from now on.
            await acme.get_entities([f"lost-{n}"], consistency=strong())
        platform.stack.postgres.primary.kill()
        await asyncio.to_thread(platform.promoted.promote)
        names = [f"new-{n}" for n in range(ENTITIES)]
        for client, value in ((acme, AFTER), (globex, -AFTER)):
            await _answered(partial(_write, client, value, *names))
        # Ingest has begun a new epoch by now, so what was lost can be told from what is late.
        await _answered(lambda: acme.get_entities(["pump-1"], consistency=strong()))


def _of(tenant: str, value: int) -> int:
    return value if tenant == "acme" else -value


_moments = itertools.count(1)


async def _write(client: AtlasClient, value: int, *entities: str) -> bytes:
    at = T0 + next(_moments) * timedelta(seconds=1)
    points = [
        Point(entity, attribute, value, at)
        for entity in ("pump-1", *entities)
        for attribute in ("level", "serial")
    ]
    return (await client.write(points)).token


async def _answered(call: Callable[[], Awaitable[Any]]) -> Any:
    """What it answers once it does, within the outage."""
    answers = []

    async def is_answered() -> bool:
        try:
            answers.append(await call())
        except AtlasError as error:
            if error.reason == "POSITION_LOST":
                raise
            return False
        return True

    await eventually(is_answered, 30)
    return answers[0]


async def _serial(client: AtlasClient, consistency: Consistency) -> EntitiesResult:
    """Of a cold attribute: hotcache is not asked."""
    return await client.get_entities(["pump-1"], attributes=["serial"], consistency=consistency)


async def _refused(call: Awaitable[Any]) -> str:
    with pytest.raises(AtlasError) as raised:
        await call
    return raised.value.reason


def levels(token: bytes) -> list[Consistency]:
    """Every level a read of Postgres can have."""
    return [strong(token=token), eventual(token=token), at_least_as_fresh(token)]


async def everything(client: AtlasClient, consistency: Consistency) -> list[Awaitable[Any]]:
    """Reads of every kind, each by another way through the service."""

    async def history() -> list[Any]:
        return [r async for r in client.history("pump-1", consistency=consistency)]

    async def find() -> list[Any]:
        return [s async for s in client.find_entities({"level": KEPT}, consistency=consistency)]

    return [
        client.get_entities(["pump-1"], consistency=consistency),
        client.get_entities(["pump-1"], include_cold=True, consistency=consistency),
        history(),
        find(),
    ]


def replay(node: PostgresNode, *, paused: bool) -> None:
    name = "pg_wal_replay_pause" if paused else "pg_wal_replay_resume"
    with psycopg.connect(node.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"SELECT {name}()")


async def test_a_session_never_reads_backwards_over_replicas_that_lag_differently(
    before: Platform,
) -> None:
    """Each replica in turn is held still; what has been seen stays seen, by whoever answers."""
    if before.lost:
        pytest.skip("the failover has been: its replicas are gone")
    nodes = before.stack.postgres.replicas
    endpoints = set()
    async with before.client() as client:
        session = client.session()
        for number in range(12):
            held = nodes[number % 2]
            await asyncio.to_thread(replay, held, paused=True)
            at = T0 - timedelta(hours=1) + number * timedelta(seconds=1)
            await session.write([Point("pump-2", "serial", number, at)])
            other = client.session()
            other.observe(session.token)  # As if the token went to another process.
            for reader in (session, other):
                for consistency in (None, eventual(timedelta(seconds=30)), strong()):
                    found = await reader.get_entities(
                        ["pump-2"], attributes=["serial"], consistency=consistency
                    )
                    endpoints.add(found.metadata.endpoint)
                    assert found["pump-2"].values["serial"] == number, found.metadata
            await asyncio.to_thread(replay, held, paused=False)
    assert endpoints >= {"primary", "replica-1"} or endpoints >= {"primary", "replica-2"}


async def test_strong_reads_go_to_the_promoted_server(platform: Platform) -> None:
    pid = platform.stack.services["query"].pid
    for tenant in TENANTS:
        async with platform.client(tenant) as client:
            found = await client.get_entities(["pump-1"], consistency=strong())
            assert found["pump-1"].values["level"] == _of(tenant, AFTER)
            assert found.metadata.source is Source.PRIMARY
            assert "replica-1" in found.metadata.route_reason
            tiers = {tier.endpoint: tier for tier in await client.list_tiers()}
            assert "replica-1, on timeline 2" in tiers["primary"].note
            assert "replica-1" not in tiers
    assert platform.stack.services["query"].pid == pid


async def test_a_kept_token_is_honoured_at_every_level(platform: Platform) -> None:
    for tenant in TENANTS:
        async with platform.client(tenant) as client:
            for consistency in levels(platform.kept[tenant]):
                for read in await everything(client, consistency):
                    await read
                found = await client.get_entities(["pump-1"], consistency=consistency)
                assert found["pump-1"].values["level"] == _of(tenant, AFTER)
            await client.wait_for(platform.kept[tenant], Source.PRIMARY)


async def test_a_lost_token_is_told_at_every_level(platform: Platform) -> None:
    """Of the write, and of an answer that showed it: both stand for what is no more."""
    async with platform.client() as client:
        for token in (platform.lost, platform.seen):
            for consistency in levels(token):
                for read in await everything(client, consistency):
                    assert await _refused(read) == "POSITION_LOST", consistency
            assert await _refused(client.wait_for(token, Source.PRIMARY)) == "POSITION_LOST"

            async def watched(token: bytes = token) -> None:
                async for _ in client.watch(["pump-1"], resume_token=token):
                    return

            assert await _refused(watched()) == "POSITION_LOST"


async def test_watches_go_on_at_the_promoted_server(platform: Platform) -> None:
    async with platform.client() as client, asyncio.timeout(20):
        watch = client.watch(["pump-1"], attributes=["serial"])
        seen: list[Any] = []
        async for event in watch:
            seen += [reading.value for state in event.entities for reading in state.readings]
            if len(seen) == 1:
                assert seen == [AFTER]
                await client.write([Point("pump-1", "serial", AFTER, datetime.now(UTC), quality=1)])
            elif len(seen) > 1:
                break
        assert seen == [AFTER, AFTER]


async def test_a_session_goes_on_after_it_forgot(platform: Platform) -> None:
    """It is told at every read, never shown less in silence; then it begins anew."""
    async with platform.client() as client:
        session = client.session()
        session.observe(platform.seen)
        for consistency in (None, strong(), eventual()):
            reading = session.get_entities(["pump-1"], consistency=consistency)
            assert await _refused(reading) == "POSITION_LOST"
        # What it wrote it knows better than anybody: it may write it again.
        session.forget()
        await session.write([Point("pump-3", "level", LOST, T0)])
        found = await session.get_entities(["pump-3"])
        assert found["pump-3"].values["level"] == LOST


async def test_a_replica_with_the_lost_tail_is_not_read(platform: Platform) -> None:
    async with platform.client() as client:
        for _ in range(20):
            found = await client.get_entities(
                ["pump-1"], attributes=["serial"], consistency=eventual(timedelta(hours=1))
            )
            assert found["pump-1"].values["serial"] == AFTER
            assert found.metadata.source is Source.PRIMARY
        alone = eventual(timedelta(hours=1), on_unmet=ONLY_REPLICAS)
        reading = client.get_entities(["pump-1"], attributes=["serial"], consistency=alone)
        assert await _refused(reading) == "FRESHNESS_UNMET"


async def test_numbers_of_the_lost_tail_lead_to_nobody_else(platform: Platform) -> None:
    """An entity of the lost tail is unknown, although its number was given to another since."""
    async with platform.client() as client:
        for n in range(ENTITIES):
            for include_cold in (False, True):
                found = await client.get_entities(
                    [f"lost-{n}"], include_cold=include_cold, consistency=strong()
                )
                assert not any(state.values for state in found), found
    with psycopg.connect(platform.promoted.superuser_dsn("atlas")) as connection:
        again = connection.execute(
            "SELECT max(entity_id), count(*) FROM atlas.entities WHERE key LIKE 'new-%'"
        ).fetchone()
    assert again is not None
    assert again[1] == 2 * ENTITIES


async def test_a_former_primary_that_comes_back_is_not_read(platform: Platform) -> None:
    """It takes writes and has the lost value: neither the old process nor a new one believes it."""
    former = platform.stack.postgres.primary
    if not former.is_running():
        await asyncio.to_thread(former.start)
    for is_new in (False, True):
        if is_new:
            await asyncio.to_thread(platform.stack.services["query"].restart)
        async with platform.client() as client:

            async def is_fenced(client: AtlasClient = client) -> bool:
                notes = [tier.note for tier in await client.list_tiers()]
                return any("timeline 1 has ended, 2 goes on" in note for note in notes)

            await eventually(is_fenced)
            for _ in range(20):
                for consistency in (strong(), eventual(timedelta(hours=1))):
                    found = await client.get_entities(
                        ["pump-1"], attributes=["serial"], consistency=consistency
                    )
                    assert found["pump-1"].values["serial"] == AFTER


async def test_a_replica_made_anew_is_read_again(platform: Platform) -> None:
    await asyncio.to_thread(platform.stack.postgres.rejoin, platform.other, platform.promoted)
    alone = eventual(on_unmet=ONLY_REPLICAS)
    for tenant in TENANTS:
        async with platform.client(tenant) as client:

            async def read(client: AtlasClient = client) -> Any:
                return await client.get_entities(
                    ["pump-1"], attributes=["serial"], consistency=alone
                )

            found = await _answered(read)
            assert found["pump-1"].values["serial"] == _of(tenant, AFTER)
            assert found.metadata.endpoint == "replica-2"
            kept = at_least_as_fresh(platform.kept[tenant], on_unmet=ONLY_REPLICAS)
            found = await client.get_entities(["pump-1"], attributes=["serial"], consistency=kept)
            assert found.metadata.endpoint == "replica-2"
