"""The platform under test: one of our own, or one that runs already."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg

from atlas.hotcache.v1 import hotcache_service_pb2, hotcache_service_pb2_grpc
from atlas_bench import profiling
from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.errors import BenchError
from atlas_bench.read.options import ReadOptions
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database
from atlas_devstack.endpoints import Endpoints
from atlas_devstack.errors import DevstackError
from atlas_devstack.platform import ROLES
from atlas_devstack.postgres import PostgresOptions
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

SERVICES = ("ingest", "hotcache", "query")
_SAMPLED = ("query", "hotcache")
_ROLE = "atlas_query"
_SETTLE_SECONDS_MAX = 60.0
_POLL_SECONDS = 0.1
_FOLLOWED = """
SELECT coalesce((SELECT bool_and(replay_lsn >= %(lsn)s) FROM pg_stat_replication
                 WHERE application_name LIKE 'replica%%'), true)
   AND coalesce((SELECT bool_and(confirmed_flush_lsn >= %(lsn)s) FROM pg_replication_slots
                 WHERE slot_type = 'logical' AND active), true)
"""


@dataclass
class Rig:
    """Where everything is, and a connection of the administrator's."""

    options: ReadOptions
    endpoints: Endpoints
    state: Path
    is_ours: bool
    """Made for this run, removed after it."""
    admin: "psycopg.Connection[Any]"
    profile: profiling.Profile | None = None

    @property
    def query(self) -> str:
        """Where the query service is."""
        return self.endpoints.services["query"]

    @property
    def primary_dsn(self) -> str:
        """The primary, as the query service reads it."""
        return self._as_query(self.endpoints.primary)

    @property
    def copy_dsn(self) -> str:
        """The first replica, as the query service reads it; the primary where there is none."""
        return self._as_query(next(iter(self.endpoints.replicas), self.endpoints.primary))

    @property
    def copies_source(self) -> str:
        """What EVENTUAL answers from Postgres say of themselves."""
        return "replica" if self.endpoints.replicas else "primary"

    def settle(self) -> None:
        """Wait until replicas and warehouse have what was written so far.

        Else a run would pay for the one before it. Raises BenchError when they do not come up.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS_MAX
        row = self.admin.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        while self.admin.execute(_FOLLOWED, {"lsn": row[0]}).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise BenchError(f"a copy was behind for {_SETTLE_SECONDS_MAX:.0f} s")
            time.sleep(_POLL_SECONDS)

    def cache_counters(self) -> tuple[int, int]:
        """Return how many entities the cache has answered and not answered since it started."""
        target = self.endpoints.services["hotcache"]
        with grpc.insecure_channel(target, CHANNEL_OPTIONS) as channel:
            stub = hotcache_service_pb2_grpc.HotCacheServiceStub(channel)
            request = hotcache_service_pb2.GetCacheStatusRequest()
            answer = stub.GetCacheStatus(request, timeout=10, wait_for_ready=True)
        return answer.hits_total, answer.misses_total

    def _as_query(self, admin_dsn: str) -> str:
        known = Credentials.load_or_make(self.state / "secrets.json", ROLES)
        return Database(admin_dsn, known.roles).dsn(_ROLE)


@contextmanager
def running(options: ReadOptions, state: Path | None) -> Iterator[Rig]:
    """Give the platform of a state directory, or start one in a temporary directory.

    Raises BenchError when there is none, or it does not start.
    """
    with ExitStack() as undo:
        if state is None:
            stack = undo.enter_context(_stack(options))
            endpoints, path = stack.endpoints, stack.state.path
        else:
            if options.profile:
                raise BenchError("--profile needs a platform of its own: leave out --state")
            endpoints, path = _known(state), state
        admin = undo.enter_context(psycopg.connect(endpoints.primary, autocommit=True))
        rig = Rig(options, endpoints, path, state is None, admin)
        if options.profile:
            rig.profile = undo.enter_context(_profile(stack, rig))
        yield rig


@contextmanager
def _stack(options: ReadOptions) -> Iterator[Stack]:
    settings = {
        # A checkpoint in one run and none in its neighbour would decide their ratio.
        "max_wal_size": "16GB",
        "checkpoint_timeout": "30min",
        **(profiling.SETTINGS if options.profile else {}),
    }
    postgres = PostgresOptions(
        replicas=1, shared_buffers_mb=options.shared_buffers_mb, settings=settings
    )
    with tempfile.TemporaryDirectory(prefix="atlas-bench-") as directory:
        state = Path(directory) / "state"
        sampled = _SAMPLED if options.profile else ()
        stack_options = StackOptions(
            services=SERVICES,
            servers=ServerOptions(postgres=postgres),
            environment={name: profiling.environment(_samples(state, name)) for name in sampled},
            heal_services=False,  # One that dies is a result, not something to hide.
        )
        try:
            stack = Stack.start(state, stack_options)
        except DevstackError as error:
            raise BenchError(f"the platform did not start: {error}") from error
        try:
            yield stack
        finally:
            stack.remove()


@contextmanager
def _profile(stack: Stack, rig: Rig) -> Iterator[profiling.Profile]:
    with ExitStack() as undo:
        servers = {"the primary": rig.admin}
        for number, dsn in enumerate(rig.endpoints.replicas, 1):
            replica = undo.enter_context(psycopg.connect(dsn, autocommit=True))
            servers[f"replica {number}"] = replica
        services = [
            profiling.Sampled(name, stack.services[name].pid, _samples(rig.state, name))
            for name in _SAMPLED
        ]
        yield profiling.Profile(servers, services, "call")


def _samples(state: Path, service: str) -> Path:
    return state / f"{service}.samples.json"


def _known(state: Path) -> Endpoints:
    try:
        endpoints = Endpoints.from_json((state / "endpoints.json").read_text())
    except FileNotFoundError:
        raise BenchError(f"no stack is ready on {state}: atlas up --state {state}") from None
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"{state}: {error}") from error
    missing = sorted(set(SERVICES) - set(endpoints.services))
    if missing:
        raise BenchError(f"the stack on {state} runs without {', '.join(missing)}")
    return endpoints
