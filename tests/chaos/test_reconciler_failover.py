"""A replica is promoted: the slot is there, the pipeline goes on there, and the copy is equal."""

from collections.abc import Iterator
from dataclasses import replace

import grpc
import psycopg
import pytest

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc
from atlas_devstack.database import Database
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.waiting import Patience, wait_until
from tests.integration.conftest import make_two_tenants
from tests.integration.lane_writer import LaneWriter
from tests.integration.reconciler_rig import points

PATIENCE = Patience(timeout_seconds=60.0)
TENANTS = ((1, "acme"), (2, "globex"))
ENVIRONMENT = {
    "ATLAS_RECONCILE__WINDOW_SECONDS": "1",
    "ATLAS_RECONCILE__INTERVAL_SECONDS": "0",
    "ATLAS_LEADER__LEASE_SECONDS": "3",
}


@pytest.fixture
def stack(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Stack]:
    servers = replace(
        server_options.embedded(),
        postgres=replace(server_options.postgres, replicas=1),
        valkey=False,
    )
    options = StackOptions(
        services=("cdc-reconciler",),
        servers=servers,
        environment={"cdc-reconciler": ENVIRONMENT},
        follows_failover=True,
        heal_services=False,
    )
    stack = Stack.start(tmp_path_factory.mktemp("failover") / "state", options)
    try:
        if stack.postgres.binaries.major_version < 17:
            pytest.skip("slots of standbys came with PostgreSQL 17")
        yield stack
    finally:
        stack.remove()


def _write(database: Database, times: int, value: float) -> None:
    with psycopg.connect(database.dsn("atlas_ingest"), autocommit=True) as connection:
        # What is to be lost or kept must be in the log, not in the memory of the server.
        connection.execute("SET synchronous_commit = local")
        writer = LaneWriter(connection)
        for number in range(times):
            writer.write(
                [row for tenant, _ in TENANTS for row in points(tenant, 20, value + 100 * number)]
            )


def _caught_up(stub: reconciler_service_pb2_grpc.ReconcilerServiceStub, tenant: str) -> int:
    """Rows of a tenant, once both sides are compared to the last one and found equal."""

    def summary() -> pb.ReconcileSummary | None:
        try:
            *_, last = stub.Reconcile(
                pb.ReconcileRequest(from_start=True),
                metadata=(("x-atlas-tenant", tenant),),
                timeout=60,
            )
        except grpc.RpcError:
            return None
        return last.summary

    found: list[pb.ReconcileSummary] = []

    def compared() -> bool:
        outcome = summary()
        if outcome is not None:
            found.append(outcome)
        return outcome is not None

    wait_until(compared, f"{tenant} is compared", patience=PATIENCE)
    assert found[-1].windows_mismatched == 0
    assert found[-1].source == found[-1].warehouse
    return int(found[-1].warehouse.row_count)


@pytest.mark.parametrize("tail", ["kept", "lost"])
def test_the_pipeline_goes_on_at_the_promoted_server(stack: Stack, tail: str) -> None:
    replica = stack.postgres.replicas[0]
    promoted = stack.replicas["replica-1"]
    pid = stack.services["cdc-reconciler"].pid
    with grpc.insecure_channel(stack.services["cdc-reconciler"].target) as channel:
        stub = reconciler_service_pb2_grpc.ReconcilerServiceStub(channel)

        def status() -> pb.GetPipelineStatusResponse:
            return stub.GetPipelineStatus(pb.GetPipelineStatusRequest(), timeout=20)

        with psycopg.connect(stack.database.admin_dsn, autocommit=True) as admin:
            make_two_tenants(admin)
        _write(stack.database, 3, 0)
        for _, key in TENANTS:
            assert _caught_up(stub, key) == 60
        assert status().slot.failover

        def is_synced() -> bool:
            with psycopg.connect(promoted.admin_dsn, autocommit=True) as connection:
                rows = connection.execute(
                    "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'atlas_warehouse'"
                    " AND synced AND NOT temporary AND invalidation_reason IS NULL"
                ).fetchall()
            return bool(rows)

        wait_until(is_synced, "the replica has the slot", patience=PATIENCE)
        if tail == "lost":
            stack.postgres.wait_caught_up()
            replica.cut_off()
        _write(stack.database, 2, 1000)
        for _, key in TENANTS:
            assert _caught_up(stub, key) == 100
        if tail == "kept":
            stack.postgres.wait_caught_up()
        before = status()
        stack.postgres.primary.kill()
        replica.promote()
        _write(promoted, 4, 2000)
        expected = 180 if tail == "kept" else 140
        for _, key in TENANTS:
            assert _caught_up(stub, key) == expected
        after = status()
    assert after.phase == "streaming"
    assert stack.services["cdc-reconciler"].pid == pid
    with psycopg.connect(promoted.admin_dsn, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM entity_values_ts").fetchone()
        active = connection.execute(
            "SELECT active FROM pg_replication_slots WHERE slot_name = 'atlas_warehouse'"
        ).fetchone()
    assert row == (2 * expected,)
    assert active == (True,)
    if tail == "kept":
        # It went on; nothing was copied again, and nothing came twice.
        assert after.copy == before.copy
    else:
        # Its rows were counted at the source, and what was lost is often all of its window.
        assert after.copy.spans_copied > 0
    assert after.dead_lettered_total == 0
