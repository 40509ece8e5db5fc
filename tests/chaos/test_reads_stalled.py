"""Replicas that stall, or must give up a read for the sake of replay: others answer, truthfully."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from atlas.query.v1 import query_service_pb2 as pb
from tests.integration.query_reading import as_tenant, eventual, refusal
from tests.integration.waiting import eventually

from .read_arena import REPLICAS, TENANTS, ReadArena, Reads
from .read_holding import long_history, unread
from .read_load import audited

PRIMARY_READS_MAX = 2
CAP = {
    "ATLAS_ROUTER__PRIMARY_READS_MAX": str(PRIMARY_READS_MAX),
    "ATLAS_ROUTER__PRIMARY_READS_WAITING_MAX": "20",
}
FEW_FAILURES = {
    "ATLAS_ROUTER__BREAKER_FAILURES_MAX": "3",  # As many conflicts would open it, if they counted.
    "ATLAS_ROUTER__PRIMARY_READS_MAX": "7",
    "ATLAS_ROUTER__REPLICA_OPEN_TIMEOUT_SECONDS": "3",  # A busy machine is no slow replica.
}
BEGIN_AGAIN = {"ABORTED OVERLOADED", "UNAVAILABLE DEPENDENCY_UNAVAILABLE"}
"""What both mean to clients: try again. The second where the server's reason was not heard."""
REFUSED_SECONDS_MAX = 3.0
"""A turn on the primary is waited for 0.25 s; the rest is for hundreds of calls at once."""


async def test_no_promise_is_broken_while_replicas_stall(read_arena: ReadArena) -> None:
    arena = read_arena
    async with arena.reads(arena.query) as reads, audited(arena, reads) as load:
        with arena.receivers_stopped("replica-1"):
            await reads.lagging(1.5, "replica-1")
            answered = Counter(load.audit.answers)
            await load.more_at("replica-2")
            tier = (await reads.tiers())["replica-1"]
            # It answers and its breaker is closed: it is passed over for its lag alone.
            assert (tier.available, tier.breaker) == (True, "CLOSED")
            with arena.receivers_stopped("replica-2"):
                await reads.lagging(3.5, *REPLICAS)
                await load.more_at("primary")
        assert load.audit.answers["replica-2"] > answered["replica-2"]
        await load.more_at(*REPLICAS)
    assert not load.failures


async def test_of_what_replicas_cannot_serve_the_primary_takes_only_so_much(
    read_arena: ReadArena,
) -> None:
    arena = read_arena
    async with (
        arena.reads(environment={**CAP, **arena.through()}) as reads,
        audited(arena, reads, readers=1) as load,
    ):
        key = load.keys[0]
        with arena.receivers_stopped(*REPLICAS):
            await reads.lagging(1.0, *REPLICAS)
            storm = [asyncio.create_task(_storm(reads, key, tenant)) for tenant in TENANTS]
            running: list[int] = []
            async with arena.locked("entity_values_ts"):
                await eventually(lambda: _sampled(arena, running) == PRIMARY_READS_MAX)
                for _ in range(20):
                    _sampled(arena, running)
            outcomes: Counter[str] = Counter()
            for stormed in storm:
                outcomes += await stormed
            assert max(running) == PRIMARY_READS_MAX
            assert set(outcomes) == {"OK", "RESOURCE_EXHAUSTED OVERLOADED"}, outcomes
        await reads.fresh()
        failed = Counter(load.failures)
        await load.more_at(*REPLICAS)
        assert load.failures == failed, "it has not recovered"
    assert set(load.failures) <= {"RESOURCE_EXHAUSTED OVERLOADED"}


async def _storm(reads: Reads, key: str, tenant: str, calls: int = 150) -> Counter[str]:
    """So many EVENTUAL reads at once. Who is refused learns it soon, and when to come back."""

    async def one() -> str:
        began = time.monotonic()
        try:
            await reads.get(
                tenant,
                key,
                consistency=eventual(1.0),
                scope=pb.ATTRIBUTE_SCOPE_ALL,
                timeout=20,
            )
        except grpc.aio.AioRpcError as error:
            return _refused(error, time.monotonic() - began)
        return "OK"

    return Counter(await asyncio.gather(*(one() for _ in range(calls))))


def _refused(error: grpc.aio.AioRpcError, seconds: float) -> str:
    assert seconds < REFUSED_SECONDS_MAX
    assert _retry_after(error) > 0
    code, reason, _, _ = refusal(error)
    return f"{code.name} {reason}"


def _retry_after(error: grpc.aio.AioRpcError) -> float:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(bytes(details)).details:
        if detail.Unpack(info):
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return 0.0


def _sampled(arena: ReadArena, running: list[int]) -> int:
    running.append(arena.waiting_reads("primary"))
    return running[-1]


async def test_a_read_in_conflict_with_recovery_is_answered_elsewhere(
    read_arena: ReadArena,
) -> None:
    arena = read_arena
    async with (
        arena.reads(environment={**FEW_FAILURES, **arena.through()}) as reads,
        # Nobody reads the primary: what waits there would keep us from locking what it has read.
        audited(arena, reads, readers=0) as load,
    ):
        async with impatient(arena):
            async with arena.locked("entity_values_ts", *REPLICAS):
                calls = [_held(reads, tenant, load.keys[0]) for tenant in TENANTS * 4]
                held = [asyncio.create_task(call) for call in calls]
                await eventually(lambda: arena.waiting_reads(*REPLICAS) == len(held))
                await collide(arena)
            answers = await asyncio.gather(*held)
        for tenant, answer in answers:
            load.audit.judge_bytes(tenant, answer.SerializeToString())
            assert [state.entity_key for state in answer.entities] == [load.keys[0]]
        # Each of them was: all waited on replicas. What is told is the last miss, and the other
        # replica may have been one, too.
        reasons = [answer.metadata.route_reason for _, answer in answers]
        assert any("was in conflict with recovery" in reason for reason in reasons)
        assert all("conflict" in reason or "was behind" in reason for reason in reasons)
        tiers = await reads.tiers()
        assert {tiers[name].breaker for name in ("primary", *REPLICAS)} == {"CLOSED"}
    async with arena.reads(arena.query) as others, audited(arena, others, readers=1) as load:
        await load.more_at(*REPLICAS)
    assert not load.failures


async def test_a_read_of_rows_that_vacuum_removes_is_answered_elsewhere(
    read_arena: ReadArena,
) -> None:
    arena = read_arena
    async with (
        arena.reads(environment={**FEW_FAILURES, **arena.through()}) as reads,
        audited(arena, reads, readers=0) as load,
    ):
        before = _snapshot_conflicts(arena)
        async with impatient(arena):
            with arena.admin() as admin:
                # Begun before the lock's own transaction, or vacuum would have to wait for that.
                admin.execute("BEGIN")
                admin.execute("UPDATE tenants SET display_name = display_name")
                async with arena.locked("entities", *REPLICAS):
                    calls = [_found(reads, tenant) for tenant in TENANTS * 4]
                    held = [asyncio.create_task(call) for call in calls]
                    await eventually(lambda: arena.waiting_reads(*REPLICAS) == len(held))
                    admin.execute("COMMIT")
                    await vacuumed_away(arena, "tenants")
            answers = await asyncio.gather(*held)
        # Each session tells a moment later what ended its read.
        await eventually(lambda: _snapshot_conflicts(arena) > before)
        for tenant, answer in answers:
            load.audit.judge_bytes(tenant, answer.SerializeToString())
            # Tests before this one have left entities of their own.
            assert set(load.keys) <= {state.entity_key for state in answer.entities}
        reasons = [answer.metadata.route_reason for _, answer in answers]
        assert any("was in conflict with recovery" in reason for reason in reasons)
        tiers = await reads.tiers()
        assert {tiers[name].breaker for name in ("primary", *REPLICAS)} == {"CLOSED"}


@pytest.mark.parametrize("cause", ["lock", "vacuum"])
async def test_a_stream_in_conflict_with_recovery_is_told_to_begin_again(
    read_arena: ReadArena, cause: str
) -> None:
    """Between two statements the server ends the session: that is no failure of the server's."""
    arena = read_arena
    async with (
        arena.reads(environment={**FEW_FAILURES, **arena.through()}) as reads,
        audited(arena, reads, readers=1) as load,
        AsyncExitStack() as holders,
    ):
        long_history(arena, TENANTS[0], load.keys[0], load.base_us)
        await asyncio.to_thread(arena.stack.postgres.wait_caught_up)
        calls = [
            await holders.enter_async_context(
                unread(reads, TENANTS[0], load.keys[0], eventual(60.0))
            )
            for _ in range(6)
        ]
        async with impatient(arena):
            if cause == "lock":
                await collide(arena)
            else:
                before = _snapshot_conflicts(arena)
                await vacuumed_away(arena, "replication_heartbeat")
                await eventually(lambda: _snapshot_conflicts(arena) > before)
        assert {await _outcome(call) for call in calls} <= BEGIN_AGAIN
        tiers = await reads.tiers()
        assert {tiers[name].breaker for name in ("primary", *REPLICAS)} == {"CLOSED"}
        await load.more_at(*REPLICAS)
    assert set(load.failures) <= BEGIN_AGAIN


async def _outcome(call: Any) -> str:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        code, reason, _, _ = refusal(error)
        return f"{code.name} {reason}"
    return "OK"


async def _held(reads: Reads, tenant: str, key: str) -> tuple[str, Any]:
    consistency = eventual(60.0)
    scope = pb.ATTRIBUTE_SCOPE_ALL
    return tenant, await reads.get(tenant, key, consistency=consistency, scope=scope, timeout=20)


async def _found(reads: Reads, tenant: str) -> tuple[str, Any]:
    request = pb.FindEntitiesRequest(
        filter=pb.Filter(exists=pb.Exists(attribute="pressure")),
        page_size=1000,
        consistency=eventual(60.0),
    )
    return tenant, await reads.stub.FindEntities(request, metadata=as_tenant(tenant), timeout=20)


@asynccontextmanager
async def impatient(arena: ReadArena) -> AsyncIterator[None]:
    """Replicas whose replay waits for no read, and of whose reads the primary does not hear."""
    settings = {"max_standby_streaming_delay": "0", "hot_standby_feedback": "off"}
    try:
        for name in REPLICAS:
            await arena.configured(name, settings)
        yield
    finally:
        for name in REPLICAS:
            await arena.configured(name, dict.fromkeys(settings))


async def collide(arena: ReadArena) -> None:
    """Lock what every read has read; returns when those are over that the replay ran into."""
    before = arena.open_reads(*REPLICAS)
    with arena.admin() as admin, admin.transaction():
        admin.execute("SET LOCAL lock_timeout = '5s'")
        admin.execute("LOCK TABLE replication_heartbeat IN ACCESS EXCLUSIVE MODE")
    await eventually(lambda: not before & arena.open_reads(*REPLICAS))


async def vacuumed_away(arena: ReadArena, table: str) -> None:
    """Vacuum what changes in a table until the replay has ended every read that could see it."""
    before = arena.open_reads(*REPLICAS)

    def ended() -> bool:
        with arena.admin() as admin:
            admin.execute(f"VACUUM {table}".encode())
        return not before & arena.open_reads(*REPLICAS)

    await eventually(lambda: asyncio.to_thread(ended))


def _snapshot_conflicts(arena: ReadArena) -> int:
    sql = "SELECT sum(confl_snapshot) FROM pg_stat_database_conflicts"
    return sum(int(arena.rows(name, sql)[0][0]) for name in REPLICAS)
