"""Too little room and too little time: who is refused learns it soon, and nothing piles up."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2
from atlas_client.call import Caller
from atlas_client.errors import AtlasError
from atlas_devstack.proxy import FaultProxy
from tests.integration.query_reading import STRONG, eventual, refusal
from tests.integration.waiting import eventually

from .read_arena import REPLICAS, TENANTS, ReadArena, Reads
from .read_holding import long_history, unread
from .read_load import audited

POOL = 3  # One connection of each pool is left to polls, and one is for streams.
DEADLINE_SECONDS = 3.0
SMALL_POOLS = {"pool_size_max": POOL, "acquire_timeout_seconds": 0.5}


async def test_readers_that_hold_all_there_is_for_streams_cost_other_reads_nothing(
    read_arena: ReadArena,
) -> None:
    """Streams that nobody reads: their snapshots and connections stay, as long as they may."""
    arena = read_arena
    small = arena.through(settings=SMALL_POOLS) | {"ATLAS_RPC__STALLED_READER_SECONDS": "120"}
    async with arena.reads(environment=small) as reads, audited(arena, reads, readers=1) as load:
        history = (TENANTS[0], load.keys[0])
        long_history(arena, *history, load.base_us)
        await asyncio.to_thread(arena.stack.postgres.wait_caught_up)
        async with AsyncExitStack() as holders:
            for _ in ("primary", *REPLICAS):  # Half of three connections, at each: one.
                await holders.enter_async_context(unread(reads, *history, eventual(60.0)))
            began = time.monotonic()
            for consistency in (STRONG, eventual(60.0)):
                assert await _refused(reads, load.keys[1], consistency) == (
                    "RESOURCE_EXHAUSTED OVERLOADED"
                )
            assert time.monotonic() - began < DEADLINE_SECONDS
            # Whoever asks for no stream finds a connection, everywhere; polls do, too.
            for tenant in TENANTS:
                for consistency, endpoints in ((STRONG, ["primary"]), (eventual(60.0), REPLICAS)):
                    answer = await reads.get(
                        tenant,
                        load.keys[1],
                        consistency=consistency,
                        scope=pb.ATTRIBUTE_SCOPE_ALL,
                        timeout=DEADLINE_SECONDS,
                    )
                    assert answer.metadata.endpoint in endpoints
            tiers = await reads.tiers()
            assert {tiers[name].breaker for name in ("primary", *REPLICAS)} == {"CLOSED"}

        async def is_room_again() -> bool:
            return await _refused(reads, load.keys[1], STRONG) == "OK"

        await eventually(is_room_again)
    assert set(load.failures) <= {"RESOURCE_EXHAUSTED OVERLOADED"}


async def _refused(reads: Reads, key: str, consistency: consistency_pb2.Consistency) -> str:
    """What the other tenant hears that wants a history as well."""
    try:
        async with unread(reads, TENANTS[1], key, consistency):
            return "OK"
    except grpc.aio.AioRpcError as error:
        code, reason, _, _ = refusal(error)
        return f"{code.name} {reason}"


LATENCY_SECONDS = 2.0
CALL_SECONDS = 1.0
RATE = 40.0
"""Calls a second in peace: far below what a query process can do, also on a busy machine."""
STORM_SECONDS = 3.0
SLACK_SECONDS = 1.5
"""A busy machine is late to notice that a call has ended."""
AMPLIFICATION_MAX = 3.0
PEACE_SECONDS_MAX = 20.0


async def test_after_a_slow_network_at_twice_the_load_all_is_as_before(
    read_arena: ReadArena,
) -> None:
    arena = read_arena
    nodes = {name: arena.node(name).port for name in ("primary", *REPLICAS)}
    async with AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(FaultProxy.listen(port))
            for name, port in nodes.items()
        }
        ports = {name: proxy.port for name, proxy in proxies.items()}
        reads = await stack.enter_async_context(arena.reads(environment=arena.through(ports)))
        load = await stack.enter_async_context(audited(arena, reads, readers=0))
        pace = Pace(reads, load.keys)
        await eventually(pace.is_in_peace, PEACE_SECONDS_MAX)
        for proxy in proxies.values():
            proxy.latency_seconds = LATENCY_SECONDS
        running = asyncio.create_task(pace.run(2 * RATE, STORM_SECONDS))
        calls_max = connections_max = 0
        while not running.done():
            held = await reads.process.holdings()
            calls_max = max(calls_max, held.calls)
            connections_max = max(connections_max, *(p.connections for p in proxies.values()))
            await asyncio.wait({running}, timeout=0.2)
        storm = running.result()
        # Each call ends with its deadline, whatever the servers do; none waits behind others' work.
        assert storm.slowest_seconds < CALL_SECONDS + SLACK_SECONDS, storm
        assert calls_max <= 2 * RATE * AMPLIFICATION_MAX * (CALL_SECONDS + SLACK_SECONDS)
        # Those of the pool, one for each statement that is being cancelled, and as many again that
        # are closed already: the network brings the news as late as everything else.
        assert connections_max <= 4 * POOL_DEFAULT
        # Who is refused at once tries again when told to, and not before.
        assert storm.attempts <= AMPLIFICATION_MAX * storm.calls, storm
        for proxy in proxies.values():
            proxy.latency_seconds = 0.0
        await eventually(pace.is_in_peace, PEACE_SECONDS_MAX)
        held = await reads.process.holdings()
        assert held.calls <= RATE * CALL_SECONDS
        await reads.fresh()


POOL_DEFAULT = 8


@dataclass
class Outcome:
    """Of calls at a pace."""

    calls: int = 0
    answered: int = 0
    attempts: int = 0
    slowest_seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


@dataclass
class Pace:
    """Calls of both tenants at a fixed rate, whether or not those before are answered."""

    reads: Reads
    keys: tuple[str, ...]

    async def run(self, rate: float, seconds: float) -> Outcome:
        """Begin rate * seconds calls; returns when the last has ended."""
        outcome = Outcome()
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(round(rate * seconds)):
                await asyncio.sleep(began + number / rate - time.monotonic())
                tasks.create_task(self._call(number, outcome))
        return outcome

    async def is_in_peace(self) -> bool:
        """Whether a second's calls are all answered."""
        outcome = await self.run(RATE, 1.0)
        return outcome.answered == outcome.calls

    async def _call(self, number: int, outcome: Outcome) -> None:
        outcome.calls += 1
        caller = Caller(TENANTS[number % 2], CALL_SECONDS, ())
        request = pb.GetEntitiesRequest(
            entity_keys=[self.keys[number % len(self.keys)]],
            scope=pb.ATTRIBUTE_SCOPE_ALL,
            consistency=STRONG if number % 4 == 0 else eventual(3.0),
        )
        began = time.monotonic()
        try:
            await caller.unary(_counted(self.reads.stub.GetEntities, outcome), request)
        except AtlasError as error:
            outcome.errors[f"{error.code.name} {error.reason}"] += 1
        else:
            outcome.answered += 1
        outcome.slowest_seconds = max(outcome.slowest_seconds, time.monotonic() - began)


def _counted(method: Any, outcome: Outcome) -> Any:
    def counting(*arguments: Any, **named: Any) -> Any:
        outcome.attempts += 1
        return method(*arguments, **named)

    return counting
