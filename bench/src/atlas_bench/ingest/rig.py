"""A platform of our own under test, with everything a scenario needs."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas_bench import profiling
from atlas_bench.catalog import make_catalog
from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.errors import BenchError
from atlas_bench.ingest import direct
from atlas_bench.ingest.audit import Audit
from atlas_bench.ingest.direct import Direct
from atlas_bench.ingest.drivers import Drivers
from atlas_bench.ingest.jobs import first_jobs
from atlas_bench.ingest.options import IngestOptions
from atlas_bench.ingest.resident import ResidentMemory
from atlas_devstack.credentials import Credentials
from atlas_devstack.errors import DevstackError
from atlas_devstack.platform import ROLES, SERVICES
from atlas_devstack.postgres import PostgresOptions
from atlas_devstack.servers import ServerOptions
from atlas_devstack.services import Service, Wiring
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.waiting import Patience

_SETTLE_SECONDS_MAX = 120.0
_POLL_SECONDS = 0.1
_READY_SECONDS_MAX = 60.0
INGEST_ENVIRONMENT = {"ATLAS_RPC__MAX_CONCURRENT_RPCS": "4000"}
"""A thousand callers are a scenario here, not an overload."""


@dataclass
class Rig:
    """The platform, the driver, the connection that writes past the platform, and the audit."""

    options: IngestOptions
    stack: Stack
    drivers: Drivers
    direct: Direct
    admin: "psycopg.Connection[Any]"
    memory: ResidentMemory
    tenant_ids: list[int]
    profile: profiling.Profile | None = None
    audit: Audit = field(init=False)

    def __post_init__(self) -> None:
        self.audit = Audit(self.admin, self.tenant_ids, self.settle)

    @property
    def target(self) -> str:
        """Where ingest is."""
        return self.stack.services["ingest"].target

    def settle(self) -> None:
        """Wait until nothing of the run before is under way: staging, and who follows the WAL.

        Raises BenchError when staging does not empty.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS_MAX
        while not (self._is_flushed() and self._is_followed()):
            if time.monotonic() > deadline:
                raise BenchError(f"staging was not empty after {_SETTLE_SECONDS_MAX:.0f} s")
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def second_ingest(self, environment: Mapping[str, str]) -> Iterator[str]:
        """Run one more ingest process, configured differently; gives its address."""
        state = self.stack.state
        base = state.path / "second-ingest"
        for name in ("run", "logs"):
            (base / name).mkdir(parents=True, exist_ok=True)
        ports = dict.fromkeys(SERVICES, 0)  # Those that do not run are not called.
        ports |= {
            name: int(service.target.rpartition(":")[2])
            for name, service in self.stack.services.items()
        }
        ports["ingest"] = state.ports(["ingest-2"])["ingest-2"]
        wiring = Wiring(
            database=self.stack.database,
            replicas={},
            valkey_url=None,
            credentials=Credentials.load_or_make(state.secrets_file, ROLES),
            ports=ports,
            warehouse=state.warehouse,
            log_directory=base / "logs",
            run_directory=base / "run",
            spans=False,
        )
        patience = Patience(timeout_seconds=_READY_SECONDS_MAX)
        service = Service(
            SERVICES["ingest"], wiring, {**INGEST_ENVIRONMENT, **environment}, patience
        )
        service.start()
        try:
            yield service.target
        finally:
            service.stop()

    def _is_flushed(self) -> bool:
        with grpc.insecure_channel(self.target, CHANNEL_OPTIONS) as channel:
            stub = ingest_service_pb2_grpc.IngestServiceStub(channel)
            status = stub.GetStagingStatus(pb.GetStagingStatusRequest(), timeout=10)
        staged = sum(lane.staged_points for lane in status.lanes)
        return bool(staged == 0 and status.pending_points == 0)

    def _is_followed(self) -> bool:
        row = self.admin.execute(
            """
            SELECT coalesce((SELECT bool_and(replay_lsn >= now.lsn) FROM pg_stat_replication
                             WHERE application_name LIKE 'replica%'), true)
               AND coalesce((SELECT bool_and(confirmed_flush_lsn >= now.lsn)
                             FROM pg_replication_slots
                             WHERE slot_type = 'logical' AND active), true)
            FROM (SELECT pg_current_wal_flush_lsn() AS lsn) AS now"""
        ).fetchone()
        return row == (True,)


@contextmanager
def running(options: IngestOptions) -> Iterator[Rig]:
    """Start a platform, and all around it; removed afterwards. Raises BenchError."""
    with ExitStack() as undo:
        # Beside the platform: encoding the batches and starting servers overlap.
        drivers = undo.enter_context(Drivers.started())
        for job in first_jobs(options):
            drivers.prepare(job)
        stack = undo.enter_context(_stack(options))
        admin_dsn = stack.endpoints.primary
        admin = undo.enter_context(psycopg.connect(admin_dsn, autocommit=True))
        ingest = stack.services["ingest"]
        yield Rig(
            options=options,
            stack=stack,
            drivers=drivers,
            direct=undo.enter_context(direct.opened(admin_dsn, options.fleet)),
            admin=admin,
            memory=undo.enter_context(ResidentMemory.watched(ingest)),
            tenant_ids=make_catalog(
                stack.endpoints,
                dict.fromkeys(options.fleet.tenant_keys, options.fleet.attributes),
                options.fleet.entity_keys,
            ),
            profile=_profile(stack, admin) if options.profile else None,
        )


@contextmanager
def _stack(options: IngestOptions) -> Iterator[Stack]:
    settings = {
        # A checkpoint in one run and none in its neighbour would decide their ratio.
        "max_wal_size": "16GB",
        "checkpoint_timeout": "30min",
        **(profiling.SETTINGS if options.profile else {}),
    }
    postgres = PostgresOptions(
        replicas=2 if options.everything else 0,
        shared_buffers_mb=options.shared_buffers_mb,
        settings=settings,
    )
    with tempfile.TemporaryDirectory(prefix="atlas-bench-") as directory:
        state = Path(directory) / "state"
        sampling = profiling.environment(_samples(state)) if options.profile else {}
        stack_options = StackOptions(
            services=tuple(SERVICES) if options.everything else ("ingest", "hotcache"),
            servers=ServerOptions(postgres=postgres),
            environment={"ingest": {**INGEST_ENVIRONMENT, **sampling}},
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


def _samples(state: Path) -> Path:
    return state / "ingest.samples.json"


def _profile(stack: Stack, admin: "psycopg.Connection[Any]") -> profiling.Profile:
    ingest = profiling.Sampled("ingest", stack.services["ingest"].pid, _samples(stack.state.path))
    return profiling.Profile({"Postgres": admin}, [ingest], "row")
