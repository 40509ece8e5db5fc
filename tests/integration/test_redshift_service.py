"""The service as a process of its own with its warehouse in Redshift: kills, outages, refusals.

Against a real Postgres through a shim: see redshift_shim.py for what that shows and what not.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
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

from .conftest import make_two_tenants
from .lane_writer import LaneWriter
from .reconciler_rig import points
from .redshift_shim import BrokenConnectionError
from .sink_sites import RedshiftSite, redshift_site, source_history

ACME, GLOBEX = 1, 2
PATIENCE = Patience(60.0)
pytestmark = pytest.mark.timeout(240)  # The first test waits for all the servers too.


class Feeding:
    """A running cdc-reconciler that feeds a cluster from a primary of its own."""

    def __init__(self, stack: Stack, site: RedshiftSite, cleanup: ExitStack) -> None:
        self.site = site
        self.service = stack.services["cdc-reconciler"]
        self.admin = cleanup.enter_context(
            psycopg.connect(stack.database.admin_dsn, autocommit=True)
        )
        make_two_tenants(self.admin)
        ingest = psycopg.connect(stack.database.dsn("atlas_ingest"), autocommit=True)
        self._writer = LaneWriter(cleanup.enter_context(ingest))
        channel = grpc.insecure_channel(
            self.service.target, [("grpc.max_reconnect_backoff_ms", 200)]
        )
        cleanup.enter_context(closing(channel))
        self.stub = reconciler_service_pb2_grpc.ReconcilerServiceStub(channel)

    def write(self) -> None:
        """Points of both tenants."""
        self._writer.write([*points(ACME, 30), *points(GLOBEX, 20)])

    def status(self) -> pb.GetPipelineStatusResponse:
        return self.stub.GetPipelineStatus(
            pb.GetPipelineStatusRequest(), timeout=20, wait_for_ready=True
        )

    def history(self) -> list[str]:
        """What the cluster has."""
        return self.site.history_now()

    def caught_up(self) -> None:
        """Wait until the cluster has what the primary has."""
        wait_until(
            lambda: len(self.history()) == len(source_history(self.admin)),
            "the cluster has all rows",
            patience=PATIENCE,
        )
        assert self.history() == source_history(self.admin)


@pytest.fixture(scope="module")
def feeding(
    tmp_path_factory: pytest.TempPathFactory,
    server_options: ServerOptions,
    database: Database,
    aws: str,
) -> Iterator[Feeding]:
    with ExitStack() as cleanup:
        patch = cleanup.enter_context(pytest.MonkeyPatch.context())
        credentials = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        for name, value in credentials.items():
            patch.setenv(name, value)
        site = cleanup.enter_context(redshift_site(database.admin_dsn, aws))
        servers = replace(
            server_options,
            postgres=replace(server_options.postgres, replicas=0),
            replica_dsns=(),
            valkey=False,
        )
        options = StackOptions(
            services=("cdc-reconciler",),
            servers=servers,
            environment={"cdc-reconciler": {**credentials, **site.environment()}},
            heal_services=False,
        )
        stack = Stack.start(tmp_path_factory.mktemp("feeding") / "state", options)
        cleanup.callback(stack.remove)
        yield Feeding(stack, site, cleanup)


def test_kills_lose_and_double_nothing(feeding: Feeding) -> None:
    def write_many() -> None:
        for _ in range(40):
            feeding.write()

    for _ in range(2):
        seen = len(feeding.history())
        writing = threading.Thread(target=write_many)
        writing.start()
        wait_until(
            lambda seen=seen: len(feeding.history()) > seen,  # type: ignore[misc]
            "the stream moves",
            patience=PATIENCE,
        )
        feeding.service.kill()
        feeding.service.start()
        writing.join()
    feeding.caught_up()
    status = feeding.status()
    assert status.phase == "streaming"
    assert status.warehouse_rows == len(feeding.history()) == 2 * 40 * 50
    assert status.dead_lettered_total == 0
    assert status.read_total == status.applied_total + status.skipped_total


def test_an_outage_of_the_cluster_is_waited_out(feeding: Feeding) -> None:
    feeding.write()
    feeding.caught_up()

    def broken(_: str) -> None:
        raise BrokenConnectionError

    feeding.site.shim.before = broken
    feeding.site.shim.break_all()
    try:
        feeding.write()
        with pytest.raises(grpc.RpcError, match="Redshift is out of reach"):
            feeding.status()
    finally:
        feeding.site.shim.before = lambda _: None
    feeding.caught_up()
    assert feeding.status().phase == "streaming"


def test_what_needs_the_warehouse_read_is_refused(feeding: Feeding) -> None:
    tenant = (("x-atlas-tenant", "globex"),)
    aggregate = pb.AggregateRequest(attribute_ids=[1], aggregations=[pb.AGGREGATION_COUNT])
    calls = (
        lambda: list(feeding.stub.Aggregate(aggregate, metadata=tenant, timeout=10)),
        lambda: list(feeding.stub.Reconcile(pb.ReconcileRequest(), metadata=tenant, timeout=10)),
        lambda: feeding.stub.GetVerification(
            pb.GetVerificationRequest(), metadata=tenant, timeout=10
        ),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError, match="ask the cluster itself") as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
