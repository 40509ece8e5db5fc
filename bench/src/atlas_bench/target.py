"""The platform under test: one that runs already, or one of our own; and its catalog."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg

from atlas.hotcache.v1 import hotcache_service_pb2, hotcache_service_pb2_grpc
from atlas_bench.errors import BenchError
from atlas_bench.workload import ATTRIBUTES, Shape
from atlas_client import AtlasClient
from atlas_client import Endpoints as ClientEndpoints
from atlas_devstack.endpoints import Endpoints
from atlas_devstack.errors import DevstackError
from atlas_devstack.stack import Stack, StackOptions

SETTLE_SECONDS_MAX = 30.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Platform:
    """Where the platform is, and whether its data may stay."""

    endpoints: Endpoints
    state: Path
    is_ours: bool
    """Made for this run, removed after it."""

    @property
    def client_endpoints(self) -> ClientEndpoints:
        """The same addresses for the client."""
        return ClientEndpoints.from_json(self.endpoints.to_json())


@contextmanager
def running(state: Path | None) -> Iterator[Platform]:
    """Give the platform of a state directory, or start one in a temporary directory.

    Raises BenchError when there is none, or it does not start.
    """
    if state is not None:
        yield Platform(_endpoints(state), state, is_ours=False)
        return
    with tempfile.TemporaryDirectory(prefix="atlas-bench-") as directory:
        try:
            stack = Stack.start(Path(directory) / "state", StackOptions())
        except DevstackError as error:
            raise BenchError(f"the platform did not start: {error}") from error
        try:
            yield Platform(stack.endpoints, stack.state.path, is_ours=True)
        finally:
            stack.remove()


def prepare(platform: Platform, shape: Shape) -> list[int]:
    """Make the tenants, entities and attributes; return the tenants' ids, in their keys' order."""
    return asyncio.run(_prepare(platform.client_endpoints, shape))


def cache_counters(platform: Platform) -> tuple[int, int]:
    """Return how many entities the cache has answered and not answered since it started."""
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.insecure_channel(platform.endpoints.services["hotcache"], options) as channel:
        stub = hotcache_service_pb2_grpc.HotCacheServiceStub(channel)
        request = hotcache_service_pb2.GetCacheStatusRequest()
        answer = stub.GetCacheStatus(request, timeout=10, wait_for_ready=True)
    return answer.hits_total, answer.misses_total


def settle(admin_dsn: str) -> float:
    """Wait until replicas and warehouse have what was written so far; return how long it took.

    Else a run would pay for the one before it. Gives up after SETTLE_SECONDS_MAX.
    """
    began = time.monotonic()
    query = """
        SELECT coalesce((SELECT bool_and(replay_lsn >= %(lsn)s) FROM pg_stat_replication
                         WHERE application_name LIKE 'replica%%'), true)
           AND coalesce((SELECT bool_and(confirmed_flush_lsn >= %(lsn)s) FROM pg_replication_slots
                         WHERE slot_type = 'logical'), true)"""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        while time.monotonic() - began < SETTLE_SECONDS_MAX:
            if connection.execute(query, {"lsn": row[0]}).fetchone() == (True,):
                break
            time.sleep(_POLL_SECONDS)
    return round(time.monotonic() - began, 3)


async def _prepare(endpoints: ClientEndpoints, shape: Shape) -> list[int]:
    tenant_ids = []
    async with AtlasClient.connect(endpoints, timeout=60) as client:
        for key in shape.tenant_keys:
            tenant_ids.append((await client.create_tenant(key)).tenant_id)
            own = client.for_tenant(key)
            await own.upsert_attributes(ATTRIBUTES)
            await own.create_entities(shape.entity_keys)
    return tenant_ids


def _endpoints(state: Path) -> Endpoints:
    try:
        return Endpoints.from_json((state / "endpoints.json").read_text())
    except FileNotFoundError:
        raise BenchError(f"no stack is ready on {state}: atlas up --state {state}") from None
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"{state}: {error}") from error
