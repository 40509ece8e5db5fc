"""Random histories of flushes, lost calls, crashes and two cache instances on one real Valkey.

Whatever happens, an entity that is answered had that value at a time within the lag the answer
admits, and after the flushes of the caller's token.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from atlas_common import errors
from atlas_common.tenant import Tenant
from atlas_common.testing import FakeClock
from atlas_hotcache import convert
from atlas_hotcache.cache_store import ValkeyCache
from atlas_hotcache.config import CacheConfig, ValkeyConfig
from atlas_hotcache.invalidator import Invalidator
from atlas_hotcache.metrics import Counts
from atlas_hotcache.reader import Demand, Reader
from atlas_hotcache.sampler import Sampler
from atlas_hotcache.shards import Shards
from atlas_hotcache.watcher import CatchUp, Watcher

from .hotcache_model import LANES, Key, ModelPrimary
from .hotcache_rig import SHARDS, ClusterServers, OneServer, Servers, start_valkey

TENANTS = (Tenant(1, "acme"), Tenant(2, "globex"))
ENTITIES = (1, 2)
PATIENCE_SECONDS = 1.0
CATCH_UP_SECONDS = 0.3

lanes = st.sampled_from(LANES)
keys = st.lists(
    st.tuples(st.sampled_from([tenant.id for tenant in TENANTS]), st.sampled_from(ENTITIES)),
    min_size=1,
    max_size=3,
    unique=True,
)
# What else may happen in the middle of a read or of a watcher's step.
events = st.one_of(
    st.tuples(st.just("flush"), lanes, keys),
    st.tuples(st.just("flush_told"), lanes, keys),
    st.tuples(st.just("tell"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("crash"), st.integers(1, 2), st.none()),
    st.tuples(st.just("claim"), lanes, st.none()),
    st.tuples(st.just("step"), st.sampled_from([0, 1]), st.none()),
    st.tuples(st.just("get"), st.sampled_from(TENANTS), st.none()),
)
interruptions = st.lists(events, max_size=3)


class Instance:
    """One process of the service."""

    def __init__(
        self, primary: ModelPrimary, caches: Sequence[ValkeyCache], clock: FakeClock
    ) -> None:
        counts = self.counts = Counts()
        shards = Shards(caches)
        self.watcher = Watcher(
            primary,
            shards,
            interval_seconds=1.0,
            patience_seconds=PATIENCE_SECONDS,
            catch_up=CatchUp(CATCH_UP_SECONDS, 1000),
            clock=clock,
            counts=counts,
        )
        self.reader = Reader(
            primary,
            shards,
            self.watcher,
            Sampler(0),
            encode=convert.body,
            reads_max=100,
            clock=clock,
            counts=counts,
        )
        self.invalidator = Invalidator(shards, self.watcher, counts, changes_max=1000)


class Histories(RuleBasedStateMachine):
    """Rules are what happens; each answer is judged where it is given."""

    loop: asyncio.AbstractEventLoop
    caches: Sequence[ValkeyCache]
    servers: Servers
    hits = 0
    checks = 0
    caught_up = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.primary = ModelPrimary(self.clock)
        self.instances = [Instance(self.primary, self.caches, self.clock) for _ in range(3)]
        self.untold: list[int] = []
        self.checks_here = 0
        self.servers.flushall()
        for instance in self.instances:
            self.run(instance.watcher.step())

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @rule(lane=lanes, changed=keys)
    def flush_and_tell(self, lane: int, changed: list[Key]) -> None:
        self.run(self._event(("flush_told", lane, changed)))

    @rule(lane=lanes, changed=keys)
    def flush(self, lane: int, changed: list[Key]) -> None:
        self.run(self._event(("flush", lane, changed)))

    @rule(which=st.integers(0, 3), twice=st.booleans())
    def tell_late(self, which: int, twice: bool) -> None:
        self.run(self._event(("tell", which, twice)))

    @rule(count=st.integers(1, 3))
    def crash(self, count: int) -> None:
        self.primary.crash(count)

    @rule(lane=lanes)
    def claim(self, lane: int) -> None:
        self.primary.claim(lane)

    @rule(instance=st.sampled_from([0, 1]), meanwhile=interruptions, early=st.booleans())
    def step(self, instance: int, meanwhile: list[Any], early: bool) -> None:
        self._interrupt_with(meanwhile, early)
        self.run(self.instances[instance].watcher.step())

    @rule(seconds=st.sampled_from([0.1, 0.4, 0.7, 1.5]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.checks_here > 10)
    @rule()
    def flushall(self) -> None:
        self.checks_here = 0
        self.servers.flushall()

    @invariant()
    def one_tenant_is_read_all_the_time(self) -> None:
        """So that its entries are there to be wrong; the other one's are read by rules alone."""
        self._interrupt_with([], early=False)
        self.run(self._get(TENANTS[0], 0, 0.05, None))
        self.run(self._get(TENANTS[0], 1, 100.0, None))

    @rule(
        tenant=st.sampled_from(TENANTS),
        instance=st.sampled_from([0, 1]),
        staleness=st.sampled_from([0.05, 1.0, 100.0]),
        flush=st.none() | st.integers(0, 5),
        meanwhile=interruptions,
        early=st.booleans(),
    )
    def get(
        self,
        tenant: Tenant,
        instance: int,
        staleness: float,
        flush: int | None,
        meanwhile: list[Any],
        early: bool,
    ) -> None:
        self._interrupt_with(meanwhile, early)
        self.run(self._get(tenant, instance, staleness, flush))

    async def _get(
        self, tenant: Tenant, instance: int, staleness: float, flush: int | None
    ) -> None:
        asked = self.clock()
        wanted = self.primary.flushes[-1 - flush :][:1] if flush is not None else []
        demand = Demand(staleness, tuple(one.position for one in wanted))
        try:
            answer = await self.instances[instance].reader.get(tenant, ENTITIES, demand)
        except errors.ServiceError as error:
            if error.reason == "POSITION_LOST" and wanted[0].lost_at is not None:
                return
            raise
        assert "in time" not in answer.bypass_reason, "the test's Valkey hangs"
        assert answer.proof.lag_seconds <= staleness
        since = asked - answer.proof.lag_seconds
        for one in wanted:
            since = max(since, one.committed_at)
        type(self).hits += answer.hit_count
        type(self).checks += 1
        self.checks_here += 1
        for entity in answer.entities:
            key = (tenant.id, entity.entity_id)
            assert self.primary.was_true(key, entity.version, since, self.clock()), (
                f"{key} answered as {entity}, lag {answer.proof.lag_seconds}, since {since}"
            )

    async def _event(self, event: tuple[str, Any, Any]) -> None:
        name, first, second = event
        match name:
            case "flush":
                self.primary.flush(first, second)
                self.untold.append(len(self.primary.flushes) - 1)
            case "flush_told":
                self.primary.flush(first, second)
                await self._tell(len(self.primary.flushes) - 1)
            case "tell" if self.untold:
                number = self.untold[first % len(self.untold)]
                if not second:
                    self.untold.remove(number)
                await self._tell(number)
            case "crash":
                self.primary.crash(first)
            case "claim":
                self.primary.claim(first)
            case "step":
                await self.instances[first].watcher.step()
            case "get":
                # By an instance of its own: on the interrupted one it would join the very flight
                # that waits for it.
                await self._get(first, 2, 100.0, None)

    async def _tell(self, number: int) -> None:
        flush = self.primary.flushes[number]
        self.clock.advance(0.001)
        await self.instances[number % 2].invalidator.apply(flush.position, flush.changes)

    def _interrupt_with(self, meanwhile: list[Any], early: bool) -> None:
        async def interrupt() -> None:
            for event in meanwhile:
                await self._event(event)

        self.primary.before = interrupt if early and meanwhile else None
        self.primary.between = interrupt if not early and meanwhile else None

    def teardown(self) -> None:
        type(self).caught_up += sum(one.counts.caught_up_flushes for one in self.instances)


@pytest.fixture(params=["standalone", "cluster"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    if request.param == "cluster":
        yield ClusterServers(request.getfixturevalue("valkey_cluster"))
        return
    valkey = start_valkey(tmp_path / "valkey")
    yield OneServer(valkey)
    valkey.stop()


@pytest.mark.timeout(600)  # A failure is shrunk first, which takes its time.
def test_no_history_makes_an_answer_staler_than_it_admits(servers: Servers) -> None:
    loop = asyncio.new_event_loop()
    config = ValkeyConfig.model_validate(
        {"url": servers.url, "call_timeout_seconds": 5, "shards": SHARDS}
    )
    opened = ValkeyCache.open(config, CacheConfig())
    Histories.loop = loop
    Histories.servers = servers
    Histories.hits = Histories.checks = Histories.caught_up = 0
    Histories.caches = loop.run_until_complete(opened.__aenter__())
    try:
        run_state_machine_as_test(
            Histories,
            settings=settings(
                max_examples=100,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()
    assert Histories.hits > Histories.checks / 10  # Else the test would show little.
    assert Histories.caught_up > 30
