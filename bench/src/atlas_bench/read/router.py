"""`python -m atlas_bench.read.router`: what the router costs beyond the statement it runs.

The query service's parts in this process, wired as its __main__ does, without gRPC. Each round
reads one entity's projection in three ways, on connections of the same kind to the same server:
through QueryRouter.execute_query, by psycopg in a transaction that names the tenant, and by psycopg
as a statement alone, in a session that names it. Reads a RouterJob a line from stdin, answers
each with one line of JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np

from atlas_bench.read.overhead import RouterJob
from atlas_common import telemetry
from atlas_common.breaker import Breaker
from atlas_common.config import DatabaseConfig, TelemetryConfig
from atlas_common.db import PrimaryClock, ReadConnection
from atlas_common.db.connection import Connection, direct_connection
from atlas_common.tenant import Tenant
from atlas_query import store
from atlas_query.admission import Admission
from atlas_query.config import RouterConfig
from atlas_query.consistency import Consistency
from atlas_query.election import Election
from atlas_query.endpoint import Endpoint, Serving
from atlas_query.freshness import FreshnessTracker
from atlas_query.polling import Pollers
from atlas_query.router import QueryRouter
from atlas_query.servers import Servers
from atlas_query.watched import WatchedDatabase

_WARM_UP_ROUNDS = 50
_READY_SECONDS_MAX = 10.0
_Read = Callable[[int], Awaitable[int]]
"""Reads an entity; returns how many readings it has."""


def main() -> None:
    """Work off the jobs on stdin."""
    with telemetry.setup("query", TelemetryConfig(log_level="warning")):
        for line in sys.stdin:
            found = asyncio.run(_compare(RouterJob(**json.loads(line))))
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


async def _compare(job: RouterJob) -> dict[str, Any]:
    config = DatabaseConfig.model_validate({"dsn": job.copy_dsn})
    async with AsyncExitStack() as stack:
        router, endpoint = await _router(stack, job)
        own = await stack.enter_async_context(direct_connection(config, name="bench"))
        alone = await stack.enter_async_context(direct_connection(config, name="bench"))
        await alone.execute(f"SET atlas.tenant_id = '{job.tenant_id}'".encode())
        ways = [
            _by_router(router, job.tenant_id, endpoint),
            _in_transaction(own, job.tenant_id),
            _by_statement(alone, job.tenant_id),
        ]
        await _rounds(ways, job.entity_ids, _WARM_UP_ROUNDS)
        return _summary(await _rounds(ways, job.entity_ids, job.rounds))


async def _router(stack: AsyncExitStack, job: RouterJob) -> tuple[QueryRouter, str]:
    """The router as the service has it, its pollers running; and who is to answer."""
    config = RouterConfig()
    primary = await _endpoint(stack, job.primary_dsn, "primary", None)
    replicas = []
    if job.copy_dsn != job.primary_dsn:
        timeout = config.replica_open_timeout_seconds
        replicas.append(await _endpoint(stack, job.copy_dsn, "replica-1", timeout))
    clock = PrimaryClock()
    tracker = FreshnessTracker(clock, time.monotonic)
    admission = Admission(
        config.primary_reads_max,
        config.primary_reads_waiting_max,
        config.primary_reads_wait_seconds,
        "the primary is busy",
    )
    endpoints = [primary, *replicas]
    servers = Servers(endpoints, tracker, Election(endpoint.name for endpoint in endpoints))
    router = QueryRouter(servers, tracker, admission, time.monotonic)
    pollers = Pollers(servers, tracker, clock, config)
    tasks = await stack.enter_async_context(_Background())
    for endpoint in endpoints:
        tasks.run(pollers.of(endpoint).run())
    for replica in replicas:
        async with asyncio.timeout(_READY_SECONDS_MAX):
            while tracker.lag_seconds(replica.name) > 1.0:  # noqa: ASYNC110 - pollers tell nobody.
                await asyncio.sleep(0.05)
    return router, replicas[0].name if replicas else "primary"


async def _endpoint(
    stack: AsyncExitStack, dsn: str, name: str, open_timeout: float | None
) -> Endpoint:
    config = DatabaseConfig.model_validate({"dsn": dsn})
    database = await stack.enter_async_context(WatchedDatabase.open(config, name=name))
    assert isinstance(database, WatchedDatabase)
    return Endpoint(database, Breaker(), open_timeout)


class _Background:
    """Tasks that end with the block."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def __aenter__(self) -> "_Background":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _by_router(router: QueryRouter, tenant_id: int, endpoint: str) -> _Read:
    tenant = Tenant(tenant_id, "bench")

    async def read(entity_id: int) -> int:
        async def statement(serving: Serving) -> int:
            return await _statement(serving.connection, tenant_id, entity_id)

        answer = await router.execute_query(tenant, Consistency(), 0.0, statement)
        assert answer.proof.endpoint == endpoint, f"served by {answer.proof.endpoint}"
        return answer.value

    return read


def _in_transaction(connection: Connection, tenant_id: int) -> _Read:
    begin = f"BEGIN READ ONLY; SET LOCAL atlas.tenant_id = '{tenant_id}'".encode()

    async def read(entity_id: int) -> int:
        await connection.execute(begin, prepare=False)
        found = await _statement(ReadConnection(connection), tenant_id, entity_id)
        await connection.execute(b"COMMIT", prepare=False)
        return found

    return read


def _by_statement(connection: Connection, tenant_id: int) -> _Read:
    async def read(entity_id: int) -> int:
        return await _statement(ReadConnection(connection), tenant_id, entity_id)

    return read


async def _statement(connection: ReadConnection, tenant_id: int, entity_id: int) -> int:
    return len(await store.hot_values(connection, tenant_id, [entity_id], None))


async def _rounds(
    ways: list[_Read], entity_ids: tuple[int, ...], rounds: int
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Milliseconds of each way in each round; who is first takes turns."""
    taken = np.zeros((rounds, len(ways)))
    for number in range(rounds):
        entity_id = entity_ids[number % len(entity_ids)]
        for turn in range(len(ways)):
            way = (number + turn) % len(ways)
            began = time.perf_counter()
            readings = await ways[way](entity_id)
            taken[number, way] = (time.perf_counter() - began) * 1_000
            assert readings > 0, "an entity has no readings"
    return taken


def _summary(taken: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[str, Any]:
    router, transaction, statement = taken.T
    return {
        "latency_ms": {"p50": _at(router, 50), "p99": _at(router, 99)},
        "transaction_ms": {"p50": _at(transaction, 50), "p99": _at(transaction, 99)},
        "statement_ms": {"p50": _at(statement, 50), "p99": _at(statement, 99)},
        # Of the differences of neighbours, not the difference of the medians.
        "overhead_ms": {"p50": _at(router - transaction, 50), "p99": _at(router - transaction, 99)},
        "overhead_to_statement_ms": {"p50": _at(router - statement, 50)},
        "rounds": len(taken),
    }


def _at(values: "np.ndarray[Any, np.dtype[np.float64]]", percentile: float) -> float:
    return round(float(np.percentile(values, percentile)), 4)


if __name__ == "__main__":
    main()
