"""Promotion under load: the primary dies, a replica that lacks its tail takes its place."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from atlas_client import AtlasClient, Endpoints
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from tests.integration.waiting import eventually

from .arena import TENANTS
from .audit import token_states
from .registers import ATTRIBUTES, Registers

RETURN_SECONDS_MAX = 20.0
"""From the promotion to answers of every kind for every tenant."""
ENOUGH = 25
"""Answers of a kind that make sure that it is at work."""


@pytest.fixture
def platform(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Stack]:
    options = StackOptions(
        services=("ingest", "hotcache", "query"),
        servers=server_options,
        tenants=TENANTS,
        follows_failover=True,
    )
    stack = Stack.start(tmp_path_factory.mktemp("promotion") / "state", options)
    try:
        yield stack
    finally:
        stack.remove()


@asynccontextmanager
async def registers_on(stack: Stack) -> AsyncIterator[Registers]:
    endpoints = Endpoints(
        ingest=stack.services["ingest"].target, query=stack.services["query"].target
    )
    async with AtlasClient.connect(endpoints) as anyone:
        clients = [anyone.for_tenant(tenant) for tenant in TENANTS]
        for client in clients:
            await client.upsert_attributes(ATTRIBUTES)
        yield Registers(clients, per_tenant=2)


async def test_no_caller_is_deceived_and_service_returns_by_itself(platform: Stack) -> None:
    promoted = platform.postgres.replicas[0]
    pids = {name: service.pid for name, service in platform.services.items()}
    async with registers_on(platform) as load:
        async with load.running():
            await _kinds_since(load, load.tallies, time.monotonic())
            await asyncio.to_thread(promoted.cut_off)
            cut_off = time.monotonic()
            await eventually(lambda: load.served_since(cut_off, "write") > ENOUGH)
            await asyncio.to_thread(platform.postgres.primary.kill)
            await asyncio.to_thread(promoted.promote)
            since = time.monotonic()
            await _kinds_since(load, load.tallies, since)
            returned = time.monotonic() - since
            # The former primary comes back, and takes writes. That writers do not go there is for
            # those to see to who run it; that nobody reads it, for us.
            load.stop_writing()
            await asyncio.to_thread(platform.postgres.primary.start)
            await eventually(lambda: _is_seen(load), RETURN_SECONDS_MAX)
            await _kinds_since(load, ("plain", "strong", "eventual", "token"), time.monotonic())
        assert not load.findings, load.findings[:5]
        assert returned < RETURN_SECONDS_MAX
        lost = _audit(load, promoted.superuser_dsn("atlas"))
        assert lost, "nothing was lost: this proves nothing"
        told = {kind: tally.losses for kind, tally in load.tallies.items()}
        assert told["strong"], told
        assert {name: service.pid for name, service in platform.services.items()} == pids


async def _kinds_since(load: Registers, kinds: Iterable[str], since: float) -> None:
    """Goodput of every kind for every tenant."""

    def is_served() -> bool:
        return all(load.served_since(since, kind) > ENOUGH for kind in kinds)

    try:
        await eventually(is_served, RETURN_SECONDS_MAX)
    except TimeoutError:
        served = {kind: load.served_since(since, kind) for kind in load.tallies}
        failures = {kind: tally.failures for kind, tally in load.tallies.items()}
        raise AssertionError(f"served {served}, failed {failures}") from None


async def _is_seen(load: Registers) -> bool:
    """Query has asked the former primary who it is."""
    return any("has ended" in tier.note for tier in await load.anyone.list_tiers())


def _audit(load: Registers, dsn: str) -> int:
    """What was acknowledged is stored, once and where it belongs, or its token says: lost.

    Answers how many are lost.
    """
    with psycopg.connect(dsn) as connection:
        connection.execute("SET search_path = atlas")
        stored = Counter(_stored(connection))
        tokens = [token for register in load.registers for token in register.acknowledged.values()]
        states = token_states(connection, tokens)
    assert all(count == 1 for count in stored.values()), "stored twice"
    lost = 0
    for register in load.registers:
        for version, token in register.acknowledged.items():
            is_stored = (register.tenant, register.name, version) in stored
            assert states[token] == ("reached" if is_stored else "lost"), (register.owner, version)
            lost += not is_stored
    for register, version in load.doubts:  # STRONG did not show them, so they are no more.
        assert states[register.acknowledged[version]] == "lost", (register.owner, version)
    sent = {(r.tenant, r.name) for r in load.registers}
    assert {key[:2] for key in stored} == sent
    return lost


def _stored(connection: "psycopg.Connection[Any]") -> list[tuple[str, str, int]]:
    return connection.execute(
        "SELECT t.key, e.key, v.value_int FROM entity_values_ts AS v"
        " JOIN tenants AS t USING (tenant_id)"
        " JOIN entities AS e USING (tenant_id, entity_id)"
        " WHERE v.value_int IS NOT NULL"
    ).fetchall()
