"""A platform of our own under test, with everything a scenario needs."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc
from atlas_bench import profiling
from atlas_bench.catalog import make_catalog
from atlas_bench.cdc.options import CdcOptions
from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.errors import BenchError
from atlas_bench.ingest.drivers import Drivers
from atlas_bench.ingest.resident import ResidentMemory
from atlas_client import Attribute, DataType
from atlas_devstack.errors import DevstackError
from atlas_devstack.postgres import PostgresOptions
from atlas_devstack.servers import ServerOptions
from atlas_devstack.services import Service
from atlas_devstack.stack import Stack, StackOptions

MEASURED, NEIGHBOUR = "bench-analytics", "bench-neighbour"
ATTRIBUTE = "temperature"
_SERVICES = ("ingest", "hotcache", "cdc-reconciler")
_RECONCILER = "cdc-reconciler"
_READY_SECONDS_MAX = 60.0


@dataclass
class Rig:
    """The platform, the load generators, a connection of the administrator's, and the memory."""

    options: CdcOptions
    stack: Stack
    drivers: Drivers
    admin: "psycopg.Connection[Any]"
    memory: ResidentMemory
    tenant_ids: dict[str, int]
    profile: profiling.Profile | None = None
    rss_mb_max: float = 0.0

    @property
    def reconciler(self) -> Service:
        """The service under test."""
        return self.stack.services[_RECONCILER]

    @property
    def ingest(self) -> str:
        """Where ingest is."""
        return self.stack.services["ingest"].target

    @property
    def warehouse(self) -> Path:
        """The warehouse's file."""
        return self.stack.state.warehouse

    def status(self) -> pb.GetPipelineStatusResponse:
        """Ask the reconciler how far it is."""
        return status_of(self.reconciler.target)

    def stop_reconciler(self) -> None:
        """Stop it, so that the log grows and its file can be opened; its memory is noted."""
        self.note_memory()
        self.reconciler.stop()

    def note_memory(self) -> None:
        """Keep the most memory that the reconciler's process has had."""
        self.rss_mb_max = max(self.rss_mb_max, self.memory.peak_mb)

    @contextmanager
    def profiled(self, kind: str) -> Iterator[None]:
        """Look at where the time goes in the block, if that was asked for.

        Of the reconciler's process as it is now: it has been started anew.
        """
        if not self.options.profile:
            yield
            return
        self.reconciler.wait_ready()
        self.profile = _profile(self.stack, self.admin)
        with self.profile.of(kind):
            yield

    def settle(self, seconds_max: float = 300.0) -> None:
        """Wait until the warehouse has all that is committed. Raises BenchError."""
        row = self.admin.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        deadline = time.monotonic() + seconds_max
        followed = (
            "SELECT coalesce(bool_and(confirmed_flush_lsn >= %s::pg_lsn), false)"
            " FROM pg_replication_slots WHERE slot_type = 'logical'"
        )
        while self.admin.execute(followed, [row[0]]).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise BenchError(f"the warehouse was behind for {seconds_max:.0f} s")
            time.sleep(0.1)


@contextmanager
def running(options: CdcOptions) -> Iterator[Rig]:
    """Start a platform with its catalog; removed afterwards. Raises BenchError."""
    with ExitStack() as undo:
        drivers = undo.enter_context(Drivers.started())
        stack = undo.enter_context(_stack(options))
        admin = undo.enter_context(psycopg.connect(stack.endpoints.primary, autocommit=True))
        fleet = options.ingest.fleet
        numbers = make_catalog(
            stack.endpoints, dict.fromkeys(fleet.tenant_keys, fleet.attributes), fleet.entity_keys
        )
        analysed = {key: [Attribute(ATTRIBUTE, DataType.DOUBLE)] for key in (MEASURED, NEIGHBOUR)}
        keys = [f"sensor-{number:06}" for number in range(options.entities)]
        numbers += make_catalog(stack.endpoints, analysed, keys)
        reconciler = stack.services[_RECONCILER]
        yield Rig(
            options=options,
            stack=stack,
            drivers=drivers,
            admin=admin,
            memory=undo.enter_context(ResidentMemory.watched(reconciler)),
            tenant_ids=dict(zip((*fleet.tenant_keys, *analysed), numbers, strict=True)),
        )


@contextmanager
def _stack(options: CdcOptions) -> Iterator[Stack]:
    settings = {
        # A checkpoint in one run and none in its neighbour would decide their ratio.
        "max_wal_size": "32GB",
        "checkpoint_timeout": "30min",
        **(profiling.SETTINGS if options.profile else {}),
    }
    postgres = PostgresOptions(
        replicas=0, shared_buffers_mb=options.shared_buffers_mb, settings=settings
    )
    with tempfile.TemporaryDirectory(prefix="atlas-bench-") as directory:
        state = Path(directory) / "state"
        sampling = profiling.environment(_samples(state)) if options.profile else {}
        stack_options = StackOptions(
            services=_SERVICES,
            servers=ServerOptions(postgres=postgres),
            environment={_RECONCILER: sampling},
            heal_services=False,  # One that dies is a result, not something to hide.
            ready_seconds_max=_READY_SECONDS_MAX,
        )
        try:
            stack = Stack.start(state, stack_options)
        except DevstackError as error:
            raise BenchError(f"the platform did not start: {error}") from error
        try:
            yield stack
        finally:
            stack.remove()


def status_of(target: str) -> pb.GetPipelineStatusResponse:
    """Ask a reconciler how far it is."""
    with grpc.insecure_channel(target, CHANNEL_OPTIONS) as channel:
        stub = reconciler_service_pb2_grpc.ReconcilerServiceStub(channel)
        return stub.GetPipelineStatus(
            pb.GetPipelineStatusRequest(), timeout=30, wait_for_ready=True
        )


def reading_dsn(rig: Rig) -> str:
    """The primary, as the query service reads it."""
    return rig.stack.database.dsn("atlas_query")


def _samples(state: Path) -> Path:
    return state / "cdc-reconciler.samples.json"


def _profile(stack: Stack, admin: "psycopg.Connection[Any]") -> profiling.Profile:
    pid = stack.services[_RECONCILER].pid
    sampled = profiling.Sampled(_RECONCILER, pid, _samples(stack.state.path))
    return profiling.Profile({"Postgres": admin}, [sampled], "row")
