"""Callers that give up: nothing of theirs stays behind, nothing of it reaches others."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest

from atlas.hotcache.v1 import hotcache_service_pb2 as hot_pb
from atlas.hotcache.v1 import hotcache_service_pb2_grpc
from atlas.query.v1 import query_service_pb2 as pb
from atlas_client.call import open_channel
from tests.integration.query_reading import STRONG, as_tenant, eventual
from tests.integration.waiting import eventually

from .inspected import Holdings
from .read_arena import REPLICAS, TENANTS, Inspected, ReadArena, Reads
from .read_load import ReadLoad, audited

CANCELLED_CALLS = 10_000
AT_ONCE = 250
GROWTH_BYTES_MAX = 48 * 2**20
STOPPED_SECONDS_MAX = 1.0


async def test_ten_thousand_cancelled_calls_leave_nothing_behind(read_arena: ReadArena) -> None:
    arena = read_arena
    processes = (arena.query, arena.hotcache)
    async with (
        arena.reads(arena.query) as reads,
        open_channel(arena.hotcache.target, None) as to_hotcache,
    ):
        async with audited(arena, reads, readers=1) as load:
            await load.more(20)
        kinds = _kinds(reads, hotcache_service_pb2_grpc.HotCacheServiceStub(to_hotcache), load)
        await _give_up(kinds, load, 500)  # Pools, caches and memory are as large as they get.
        before = [await _at_rest(process) for process in processes]
        await _give_up(kinds, load, CANCELLED_CALLS)
        for process, held in zip(processes, before, strict=True):
            after = await _at_rest(process)
            assert after.tasks <= held.tasks + 10, (process.name, held, after)
            assert after.resident_bytes < held.resident_bytes + GROWTH_BYTES_MAX, process.name
        load.audit.assert_sound()
        async with audited(arena, reads, readers=2) as later:
            await later.more(50)  # Each tenant is answered right, by every tier.
        assert not later.failures


Kind = Callable[[str], Any]


def _kinds(reads: Reads, hotcache: Any, load: ReadLoad) -> list[Kind]:
    """Calls of every kind, begun and not awaited."""
    keys, stub = load.keys, reads.stub

    def of(method: Any, request: Any) -> Kind:
        return lambda tenant: method(request, metadata=as_tenant(tenant), timeout=30)

    everything = pb.ATTRIBUTE_SCOPE_ALL
    exists = pb.Filter(exists=pb.Exists(attribute="pressure"))
    history = pb.GetHistoryRequest(entity_key=keys[0], attributes=["state"])
    return [
        of(stub.GetEntities, pb.GetEntitiesRequest(entity_keys=keys)),  # Through hotcache.
        of(stub.GetEntities, pb.GetEntitiesRequest(entity_keys=keys, scope=everything)),
        of(stub.GetEntities, pb.GetEntitiesRequest(entity_keys=keys, consistency=STRONG)),
        of(stub.FindEntities, pb.FindEntitiesRequest(filter=exists)),
        of(stub.GetHistory, history),
        of(hotcache.GetEntities, hot_pb.GetEntitiesRequest(entity_ids=range(1, 40))),
    ]


async def _give_up(kinds: list[Kind], load: ReadLoad, count: int) -> None:
    """Begin so many calls, some hundreds at a time, and cancel each at some moment of its life."""
    chance = random.Random(11)
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        tenant = TENANTS[number % 2]
        call = kinds[number // 2 % len(kinds)](tenant)
        try:
            # Begun at least; then anywhere between its first step and its answer.
            await asyncio.sleep(chance.random() ** 2 * 0.1)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                answer = await (call.read() if hasattr(call, "read") else call)
                if answer is not grpc.aio.EOF:  # It was quicker.
                    load.audit.judge_bytes(tenant, answer.SerializeToString())
        finally:
            room.release()

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            await room.acquire()
            tasks.create_task(one(number))


async def _at_rest(process: Inspected) -> Holdings:
    """What it holds once nobody asks for anything but the load: polls come and go."""
    found = await process.holdings()

    async def nothing_is_held() -> bool:
        nonlocal found
        found = await process.holdings()
        return (found.in_use, found.waiting, found.flights, found.reads) == (0, 0, 0, 0)

    try:
        await eventually(nothing_is_held, 10)
    except TimeoutError:
        raise AssertionError(f"{process.name} still holds {found}") from None
    return found


@pytest.mark.parametrize("server", ["primary", "replica"])
@pytest.mark.parametrize("end", ["cancelled", "deadline", "killed"])
async def test_a_call_that_ends_ends_its_statement_within_a_second(
    read_arena: ReadArena, server: str, end: str
) -> None:
    """However it ends: also with its process, which can tell nobody."""
    arena = read_arena
    servers = ("primary",) if server == "primary" else REPLICAS
    process = None if end == "killed" else arena.query
    async with (
        arena.reads(process, arena.through()) as reads,
        audited(arena, reads, readers=0) as load,
    ):
        request = pb.GetEntitiesRequest(
            entity_keys=load.keys,
            consistency=STRONG if server == "primary" else eventual(60.0),
            scope=pb.ATTRIBUTE_SCOPE_ALL,
        )
        async with arena.locked("entity_values_ts", *REPLICAS):
            timeout = 2.0 if end == "deadline" else 30.0
            calls = [
                reads.stub.GetEntities(request, metadata=as_tenant(tenant), timeout=timeout)
                for tenant in TENANTS
            ]
            await eventually(lambda: arena.waiting_reads(*servers) == len(calls))
            await _end(reads, calls, end)
            ended = time.monotonic()
            await eventually(lambda: arena.waiting_reads(*servers) == 0, 5.0)
            assert time.monotonic() - ended < STOPPED_SECONDS_MAX
        assert {await call.code() for call in calls} == {_CODES[end]}
        if end != "killed":  # And others are served.
            for tenant in TENANTS:
                metadata = as_tenant(tenant)
                answer = await reads.stub.GetEntities(request, metadata=metadata, timeout=5)
                load.audit.judge_bytes(tenant, answer.SerializeToString())


_CODES = {
    "cancelled": grpc.StatusCode.CANCELLED,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
    "killed": grpc.StatusCode.UNAVAILABLE,
}


async def _end(reads: Reads, calls: list[Any], end: str) -> None:
    match end:
        case "cancelled":
            for call in calls:
                call.cancel()
        case "deadline":
            await asyncio.wait([asyncio.ensure_future(call.code()) for call in calls])
        case "killed":
            reads.process.kill()
