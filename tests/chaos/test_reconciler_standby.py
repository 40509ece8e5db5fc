"""Two instances on one warehouse: one works, and when it dies or hangs the other takes over."""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import grpc
import psycopg
import pytest

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database, another
from atlas_devstack.health import is_serving
from atlas_devstack.platform import SERVICES
from atlas_devstack.ports import free_port
from atlas_devstack.services import Service, Wiring
from atlas_devstack.stack import Stack
from atlas_devstack.waiting import Patience, wait_until
from tests.integration.conftest import make_two_tenants
from tests.integration.lane_writer import LaneWriter
from tests.integration.query_reading import TOKEN_ENVIRONMENT
from tests.integration.reconciler_rig import points

from .background import Background

TENANTS = ((1, "acme"), (2, "globex"))
PATIENCE = Patience(timeout_seconds=60.0)
ENVIRONMENT = {
    **TOKEN_ENVIRONMENT,
    "ATLAS_RECONCILE__WINDOW_SECONDS": "1",
    "ATLAS_RECONCILE__INTERVAL_SECONDS": "0",
    "ATLAS_LEADER__LEASE_SECONDS": "3",
    "ATLAS_LEADER__HUNG_OWNER_SECONDS": "1",
    "ATLAS_RPC__READINESS_INTERVAL_SECONDS": "0.2",
}


class Pair:
    """Two processes that share a database and a file."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        cleanup: ExitStack,
        environment: Mapping[str, str],
    ) -> None:
        self.database = database
        self._environment = {**ENVIRONMENT, **environment}
        self._credentials = Credentials()
        self.warehouse = directory / "warehouse.duckdb"
        ports: set[int] = set()
        self.processes = [self._made(directory, number, ports) for number in (1, 2)]
        self.stubs = {}
        for process in self.processes:
            channel = cleanup.enter_context(
                grpc.insecure_channel(process.target, [("grpc.max_reconnect_backoff_ms", 200)])
            )
            self.stubs[process] = reconciler_service_pb2_grpc.ReconcilerServiceStub(channel)
            cleanup.callback(process.stop)
        admin = psycopg.connect(database.admin_dsn, autocommit=True)
        self.admin = cleanup.enter_context(admin)
        make_two_tenants(self.admin)

    def _made(self, directory: Path, number: int, ports: set[int]) -> Service:
        own = directory / f"instance-{number}"
        for name in ("logs", "run"):
            (own / name).mkdir(parents=True)
        wiring = Wiring(
            database=self.database,
            replicas={},
            valkey_url=None,
            credentials=self._credentials,
            ports={name: free_port(ports) for name in SERVICES},
            warehouse=self.warehouse,
            log_directory=own / "logs",
            run_directory=own / "run",
            spans=False,
        )
        environment = {**self._environment, "ATLAS_INSTANCE": f"instance-{number}"}
        return Service(SERVICES["cdc-reconciler"], wiring, environment, PATIENCE)

    def status(self, process: Service) -> pb.GetPipelineStatusResponse:
        """What it tells; waits for the process."""
        return self.stubs[process].GetPipelineStatus(
            pb.GetPipelineStatusRequest(), timeout=20, wait_for_ready=True
        )

    def wait_phase(self, process: Service, phase: str) -> None:
        """Wait until its pipeline stands as asked."""
        wait_until(
            lambda: self.status(process).phase == phase,
            f"{process.name}: {phase}",
            patience=PATIENCE,
        )

    def assert_equal(self, process: Service) -> None:
        """Every tenant's rows are the same on both sides, to the last one."""
        for tenant_id, key in TENANTS:
            *_, last = self.stubs[process].Reconcile(
                pb.ReconcileRequest(from_start=True),
                metadata=(("x-atlas-tenant", key),),
                timeout=60,
            )
            row = self.admin.execute(
                "SELECT count(*) FROM entity_values_ts WHERE tenant_id = %s", [tenant_id]
            ).fetchone()
            assert last.summary.windows_mismatched == 0
            assert (last.summary.warehouse.row_count,) == row
            assert last.summary.source == last.summary.warehouse


@pytest.fixture
def pair(chaos_stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    with another(chaos_stack.database) as database:
        with ExitStack() as cleanup:
            yield Pair(database, tmp_path, cleanup, getattr(request, "param", {}))
        with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
                " WHERE active AND database = current_database()"
            )
            admin.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE database = current_database()"
            )


class Load(Background):
    """Writes for both tenants while the block runs."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def _run(self) -> None:
        with psycopg.connect(self._database.dsn("atlas_ingest"), autocommit=True) as connection:
            writer = LaneWriter(connection)
            while not self._stop.is_set():
                writer.write([row for tenant, _ in TENANTS for row in points(tenant, 30)])


@pytest.mark.parametrize("how", ["killed", "stopped", "terminated"])
def test_the_standby_takes_over(pair: Pair, how: str) -> None:
    first, second = pair.processes
    first.start()
    second.launch()
    pair.wait_phase(second, "standby")
    told = pair.status(second)
    assert told.reason == "instance-1 leads"
    assert (told.instance, told.leader) == ("instance-2", "instance-1")
    assert told.slot.active
    assert not is_serving(second.target)
    with pytest.raises(grpc.RpcError, match="standby"):
        list(
            pair.stubs[second].Aggregate(
                pb.AggregateRequest(attribute_ids=[1], aggregations=[pb.AGGREGATION_COUNT]),
                metadata=(("x-atlas-tenant", "acme"),),
                timeout=10,
            )
        )
    with Load(pair.database):
        before = pair.status(first).applied_total
        wait_until(
            lambda: pair.status(first).applied_total > before + 100, "it applies", patience=PATIENCE
        )
        pid = first.pid
        if how == "killed":
            first.kill()
        elif how == "stopped":
            os.kill(pid, signal.SIGSTOP)
        else:
            first.stop()
        pair.wait_phase(second, "streaming")
        wait_until(lambda: is_serving(second.target), "it is ready", patience=PATIENCE)
        after = pair.status(second).applied_total
        wait_until(
            lambda: pair.status(second).applied_total > after + 100, "it applies", patience=PATIENCE
        )
    pair.assert_equal(second)
    status = pair.status(second)
    assert status.leader == "instance-2"
    assert status.dead_lettered_total == 0
    assert status.read_total == status.applied_total + status.skipped_total
    if how == "stopped":
        # It was ended, since nothing else would have made it give the file away.
        wait_until(lambda: not first.is_running(), "the one that hung is gone", patience=PATIENCE)
    first.launch()
    pair.wait_phase(first, "standby")
    note = json.loads(pair.warehouse.with_name("warehouse.duckdb.owner").read_text())
    assert note["instance"] == "instance-2"


@pytest.mark.parametrize(
    "pair",
    [{"ATLAS_SLOT__SNAPSHOT_ROWS_MAX": "1000", "ATLAS_RECONCILE__WINDOWS_PER_STATEMENT": "10"}],
    indirect=True,
)
def test_a_recovery_whose_process_is_killed_is_finished_by_the_next(pair: Pair) -> None:
    first, second = pair.processes
    rows = 8_000
    for tenant_id, _ in TENANTS:
        pair.admin.execute(
            "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
            " ingested_at, value_double) SELECT %s, 1, 1, now(),"
            " now() - interval '1 minute' - n * interval '10 ms', n"
            " FROM generate_series(1, %s) AS n",
            [tenant_id, rows],
        )
    first.start()
    pair.assert_equal(first)
    first.kill()
    pair.admin.execute("UPDATE entity_values_ts SET quality = 9")
    pair.admin.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        " WHERE database = current_database()"
    )
    first.launch()

    def is_in_the_middle() -> bool:
        status = pair.status(first)
        return status.phase == "recovering" and status.copy.rows_copied > 0

    wait_until(is_in_the_middle, "it recovers", patience=PATIENCE)
    first.kill()
    second.start()
    pair.assert_equal(second)
    copied = pair.status(second).copy
    assert copied.rows_compared == 2 * rows
    assert copied.rows_differing < 2 * rows, "what was copied before was copied again"
    assert pair.status(second).dead_lettered_total == 0


@pytest.mark.parametrize("pair", [{"ATLAS_LEADER__KILL_HUNG_OWNER": "false"}], indirect=True)
def test_a_leader_that_was_replaced_steps_down(pair: Pair) -> None:
    first, second = pair.processes
    first.start()
    second.launch()
    pair.wait_phase(second, "standby")
    # Its session ends, and sooner or later the other is quicker; the file is still with the first.
    while not _leads(pair, "instance-2"):
        pair.admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE '%cdc-leader instance-1'"
        )
        wait_until(
            lambda: _leads(pair, "instance-1") or _leads(pair, "instance-2"),
            "somebody leads",
            patience=PATIENCE,
        )
    wait_until(lambda: not first.is_running(), "it has stepped down", patience=PATIENCE)
    pair.wait_phase(second, "streaming")
    pair.assert_equal(second)


def _leads(pair: Pair, instance: str) -> bool:
    rows = pair.admin.execute(
        "SELECT 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
        " WHERE l.locktype = 'advisory' AND l.granted AND a.application_name LIKE %s"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        [f"%cdc-leader {instance}"],
    ).fetchall()
    return bool(rows)
