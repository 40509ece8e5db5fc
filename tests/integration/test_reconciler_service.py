"""The service as a process of its own, called over gRPC: aggregates, freshness, kills."""

import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2, status_pb2

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc
from atlas.type.v1 import consistency_pb2
from atlas_common.token import Position, TokenSigner
from atlas_common.values import datetime_to_us
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.waiting import Patience, wait_until

from .conftest import make_two_tenants
from .lane_writer import Flushed, LaneWriter, RawPoint
from .query_reading import TOKEN_ENVIRONMENT
from .reconciler_rig import T0, points

ACME, GLOBEX = 1, 2
PRESSURE, STATE = 1, 2
KEYS = {ACME: "acme", GLOBEX: "globex"}
PATIENCE = Patience(30.0)
SIGNER = TokenSigner({1: b"0123456789abcdef"}, 1)
ENVIRONMENT = {
    **TOKEN_ENVIRONMENT,
    "ATLAS_IDENTITY__MODE": "insecure",
    "ATLAS_RECONCILE__WINDOW_SECONDS": "1",
    "ATLAS_RECONCILE__INTERVAL_SECONDS": "0.5",
}
ALL = (
    pb.AGGREGATION_COUNT,
    pb.AGGREGATION_SUM,
    pb.AGGREGATION_AVG,
    pb.AGGREGATION_MIN,
    pb.AGGREGATION_MAX,
)


class Warehouse:
    """A running cdc-reconciler over a primary of its own, seen by two tenants."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.service = stack.services["cdc-reconciler"]
        self.admin = psycopg.connect(stack.database.admin_dsn, autocommit=True)
        self._ingest = psycopg.connect(stack.database.dsn("atlas_ingest"), autocommit=True)
        self.writer = LaneWriter(self._ingest)
        make_two_tenants(self.admin)
        self.channel = grpc.insecure_channel(
            self.service.target, [("grpc.max_reconnect_backoff_ms", 200)]
        )
        self.stub = reconciler_service_pb2_grpc.ReconcilerServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()
        self._ingest.close()
        self.admin.close()

    def write(self, rows: list[RawPoint]) -> Flushed:
        return self.writer.write(rows)

    def token(self, flushed: Flushed, tenant: int = ACME, epoch: int | None = None) -> bytes:
        position = Position(0, epoch or self.writer.epoch, flushed.sequence)
        return SIGNER.seal(tenant, [position])

    def aggregate(
        self, tenant: int = ACME, wait: float | None = None, **fields: Any
    ) -> tuple[list[pb.AggregateRow], consistency_pb2.ReadMetadata]:
        request = pb.AggregateRequest(
            **{"attribute_ids": [PRESSURE], "aggregations": [pb.AGGREGATION_COUNT], **fields}
        )
        if wait is not None:
            request.wait_timeout.FromTimedelta(timedelta(seconds=wait))
        answers = list(self.stub.Aggregate(request, metadata=as_tenant(tenant), timeout=20))
        assert all(not answer.HasField("metadata") for answer in answers[1:])
        assert all(len(answer.rows) <= 1000 for answer in answers)
        return [row for answer in answers for row in answer.rows], answers[0].metadata

    def reconcile(self, tenant: int, **fields: Any) -> pb.ReconcileSummary:
        *events, last = self.stub.Reconcile(
            pb.ReconcileRequest(**fields), metadata=as_tenant(tenant), timeout=30
        )
        assert {event.WhichOneof("event") for event in events} <= {"table", "window"}
        return last.summary

    def status(self) -> pb.GetPipelineStatusResponse:
        return self.stub.GetPipelineStatus(
            pb.GetPipelineStatusRequest(), timeout=10, wait_for_ready=True
        )


def as_tenant(tenant: int) -> tuple[tuple[str, str], ...]:
    return (("x-atlas-tenant", KEYS[tenant]),)


def reason_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str]:
    """(code, ErrorInfo.reason, field at fault or "")."""
    call: Any = error  # What is raised is a grpc.Call as well, which the stubs cannot say.
    reason = field = ""
    for key, value in call.trailing_metadata():
        if key == "grpc-status-details-bin":
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    reason = info.reason
                elif detail.Unpack(bad):
                    field = bad.field_violations[0].field
    return call.code(), reason, field


@pytest.fixture(scope="module")
def warehouse(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Warehouse]:
    servers = replace(
        server_options,
        postgres=replace(server_options.postgres, replicas=0),
        replica_dsns=(),
        valkey=False,
    )
    options = StackOptions(
        services=("cdc-reconciler",),
        servers=servers,
        environment={"cdc-reconciler": ENVIRONMENT},
        heal_services=False,
    )
    stack = Stack.start(tmp_path_factory.mktemp("warehouse") / "state", options)
    try:
        with closing(Warehouse(stack)) as warehouse:
            yield warehouse
    finally:
        stack.remove()


@pytest.fixture(autouse=True)
def emptied(warehouse: Warehouse) -> None:
    warehouse.admin.execute("DELETE FROM entity_values_ts")


def test_aggregates_by_every_function(warehouse: Warehouse) -> None:
    flushed = warehouse.write(
        [
            *points(ACME, 4, 1.0),
            RawPoint(ACME, 2, PRESSURE, T0 + timedelta(seconds=90), 10.0),
            RawPoint(ACME, 1, STATE, T0, "on", "value_text"),
            *points(GLOBEX, 2, 100.0),
        ]
    )
    rows, proof = warehouse.aggregate(
        token=warehouse.token(flushed), wait=10, aggregations=ALL, entity_ids=[1, 2]
    )
    assert [list(row.results) for row in rows] == [[5, 20, 4, 1, 10]]
    assert (rows[0].entity_id, rows[0].HasField("bucket_time_us")) == (0, False)
    assert proof.source == consistency_pb2.SOURCE_WAREHOUSE
    assert proof.consistency == consistency_pb2.CONSISTENCY_LEVEL_ANALYTICS
    assert proof.lag.ToTimedelta() < timedelta(seconds=5)
    assert SIGNER.open(proof.token, ACME) >= SIGNER.open(warehouse.token(flushed), ACME)
    other, _ = warehouse.aggregate(GLOBEX, aggregations=ALL, token=b"")
    assert [list(row.results) for row in other] == [[2, 201, 100.5, 100, 101]]


def test_aggregates_by_entity_and_bucket(warehouse: Warehouse) -> None:
    flushed = warehouse.write(
        [
            RawPoint(ACME, entity, PRESSURE, T0 + timedelta(seconds=second), float(second))
            for entity in (1, 2)
            for second in range(-30, 90, 10)
        ]
    )
    token = warehouse.token(flushed)
    start, minute = datetime_to_us(T0), 60_000_000
    rows, _ = warehouse.aggregate(
        token=token,
        wait=10,
        bucket_us=minute,
        group_by_entity=True,
        start_time_us=start - 20_000_000,
        end_time_us=start + 80_000_000,
        aggregations=[pb.AGGREGATION_COUNT, pb.AGGREGATION_MAX],
    )
    assert [(row.entity_id, row.bucket_time_us - start, *row.results) for row in rows] == [
        (entity, bucket, count, top)
        for entity in (1, 2)
        for bucket, count, top in ((-minute, 2, -10), (0, 6, 50), (minute, 2, 70))
    ]
    none, proof = warehouse.aggregate(end_time_us=0, token=token)
    assert none == []
    assert proof.HasField("as_of")


def test_many_rows_come_in_pieces(warehouse: Warehouse) -> None:
    flushed = warehouse.write(
        [RawPoint(ACME, 1, PRESSURE, T0 + timedelta(seconds=n), 1.0) for n in range(2500)]
    )
    rows, _ = warehouse.aggregate(
        token=warehouse.token(flushed), wait=10, bucket_us=1_000_000, aggregations=[2]
    )
    assert len(rows) == 2500
    assert [row.bucket_time_us for row in rows] == sorted(row.bucket_time_us for row in rows)


def test_whole_numbers_and_decimals_become_doubles(warehouse: Warehouse) -> None:
    flushed = warehouse.write(
        [
            RawPoint(ACME, 1, 7, T0, 2**62, "value_int"),
            RawPoint(ACME, 1, 7, T0, 2**62, "value_int"),
            RawPoint(ACME, 1, 8, T0, "0.25", "value_decimal"),
            RawPoint(ACME, 1, 8, T0, "99999999999999999999", "value_decimal"),
            RawPoint(ACME, 1, 9, T0, math.inf),
            RawPoint(ACME, 1, 9, T0, -math.inf),
        ]
    )
    rows, _ = warehouse.aggregate(
        attribute_ids=[7, 8, 9], token=warehouse.token(flushed), wait=10, aggregations=ALL[:4]
    )
    results = {row.attribute_id: list(row.results) for row in rows}
    assert results[7] == [2, 2.0**63, 2.0**62, 2.0**62]
    assert results[8] == [2, 1e20, 5e19, 0.25]
    assert results[9][0] == 2
    assert math.isnan(results[9][1])


def test_first_and_last_are_by_event_time_then_by_arrival(warehouse: Warehouse) -> None:
    later = T0 + timedelta(seconds=5)
    warehouse.write([RawPoint(ACME, 1, PRESSURE, T0, 1.0), RawPoint(ACME, 1, PRESSURE, later, 7.0)])
    flushed = warehouse.write(
        [
            RawPoint(ACME, 1, PRESSURE, T0, 2.0),
            RawPoint(ACME, 1, PRESSURE, later, 8.0),
            RawPoint(ACME, 1, PRESSURE, T0 + timedelta(seconds=1), 99.0),
            *points(GLOBEX, 3, 50.0),
        ]
    )
    token = warehouse.token(flushed)
    ends = [pb.AGGREGATION_FIRST, pb.AGGREGATION_LAST]
    rows, _ = warehouse.aggregate(token=token, wait=10, aggregations=ends)
    assert [list(row.results) for row in rows] == [[1.0, 8.0]]
    other, _ = warehouse.aggregate(GLOBEX, aggregations=ends)
    assert other[0].results[0] in {50.0, 51.0, 52.0}  # One flush, one event time: any of them.


def test_percentiles_are_exact_and_of_all_numeric_types(warehouse: Warehouse) -> None:
    flushed = warehouse.write(
        [
            *(RawPoint(ACME, 1, PRESSURE, T0, float(n)) for n in range(101)),
            *(RawPoint(ACME, 1, 7, T0, n, "value_int") for n in (1, 2)),
            *(RawPoint(ACME, 1, 8, T0, f"{n}.5", "value_decimal") for n in (1, 3)),
            *points(GLOBEX, 3, 50.0),
        ]
    )
    rows, _ = warehouse.aggregate(
        attribute_ids=[PRESSURE, 7, 8],
        token=warehouse.token(flushed),
        wait=10,
        aggregations=[pb.AGGREGATION_COUNT],
        percentiles=[50, 99.9, 0],
    )
    results = {row.attribute_id: list(row.results) for row in rows}
    assert results[PRESSURE] == [101, 50.0, pytest.approx(99.9), 0.0]
    assert results[7] == [2, 1.5, pytest.approx(1.999), 1.0]
    assert results[8] == [2, 2.5, pytest.approx(3.498), 1.5]
    other, _ = warehouse.aggregate(GLOBEX, aggregations=[], percentiles=[50])
    assert [list(row.results) for row in other] == [[51.0]]


def test_a_row_for_each_quality(warehouse: Warehouse) -> None:
    flushed = warehouse.write(
        [
            *points(ACME, 3, 1.0),
            RawPoint(ACME, 1, PRESSURE, T0, 40.0, quality=2),
            RawPoint(GLOBEX, 1, PRESSURE, T0, 5.0, quality=2),
        ]
    )
    rows, _ = warehouse.aggregate(
        token=warehouse.token(flushed),
        wait=10,
        group_by_quality=True,
        aggregations=[pb.AGGREGATION_SUM],
    )
    assert [(row.quality, list(row.results)) for row in rows] == [(0, [6.0]), (2, [40.0])]
    together, _ = warehouse.aggregate(aggregations=[pb.AGGREGATION_SUM])
    assert [(row.HasField("quality"), *row.results) for row in together] == [(False, 46.0)]


def test_a_token_is_waited_for(warehouse: Warehouse) -> None:
    flushed = warehouse.write(points(ACME))
    ahead = replace(flushed, sequence=flushed.sequence + 1)
    with pytest.raises(grpc.RpcError) as unmet:
        warehouse.aggregate(token=warehouse.token(ahead))
    assert reason_of(unmet.value)[:2] == (grpc.StatusCode.UNAVAILABLE, "FRESHNESS_UNMET")
    writing = threading.Timer(0.3, warehouse.write, [points(ACME)])
    writing.start()
    try:
        rows, _ = warehouse.aggregate(token=warehouse.token(ahead), wait=15)
    finally:
        writing.join()
    assert rows[0].results[0] == 20


def test_positions_that_are_lost_or_of_others_are_refused(warehouse: Warehouse) -> None:
    flushed = warehouse.write(points(ACME))
    warehouse.aggregate(token=warehouse.token(flushed), wait=10)
    lost = warehouse.token(replace(flushed, sequence=flushed.sequence + 5), epoch=1)
    for token, expected in (
        (lost, (grpc.StatusCode.FAILED_PRECONDITION, "POSITION_LOST", "token")),
        (
            warehouse.token(flushed, GLOBEX),
            (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_WRONG_TENANT", "token"),
        ),
        (b"abc", (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_MALFORMED", "token")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            warehouse.aggregate(token=token, wait=10)
        code, reason, field = reason_of(refused.value)
        assert (code, reason) == expected[:2]
        assert field in (expected[2], "")


def test_verification_is_waited_for(warehouse: Warehouse) -> None:
    flushed = warehouse.write(points(ACME))
    _, proof = warehouse.aggregate(min_verified_through=flushed.flushed_at, wait=20)
    assert proof.verified_through.ToDatetime(flushed.flushed_at.tzinfo) >= flushed.flushed_at
    verification = warehouse.stub.GetVerification(
        pb.GetVerificationRequest(), metadata=as_tenant(ACME), timeout=5
    )
    assert verification.verified_through.ToMicroseconds() >= datetime_to_us(flushed.flushed_at)
    assert verification.windows_mismatched == 0
    known = warehouse.stub.ListVerifications(pb.ListVerificationsRequest(), timeout=5)
    assert (known.tenant_count, known.freshness_budget.seconds) == (2, 300)
    ours = {one.tenant: one for one in known.verifications}
    assert set(ours) == {"acme", "globex"}
    assert ours["acme"].verified_through.ToMicroseconds() >= datetime_to_us(flushed.flushed_at)
    first = warehouse.stub.ListVerifications(pb.ListVerificationsRequest(page_size=1), timeout=5)
    assert (len(first.verifications), first.tenant_count) == (1, 2)
    with pytest.raises(grpc.RpcError) as unmet:
        warehouse.aggregate(min_verified_through=flushed.flushed_at + timedelta(days=1), wait=0.1)
    assert reason_of(unmet.value)[1] == "FRESHNESS_UNMET"


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"attribute_ids": []}, "INVALID_FIELD", "attribute_ids"),
        ({"attribute_ids": list(range(1001))}, "BATCH_TOO_LARGE", "attribute_ids"),
        ({"entity_ids": list(range(1001))}, "BATCH_TOO_LARGE", "entity_ids"),
        ({"aggregations": []}, "INVALID_FIELD", "aggregations"),
        ({"aggregations": [99]}, "INVALID_FIELD", "aggregations"),
        ({"percentiles": [50, 100.5]}, "INVALID_FIELD", "percentiles[1]"),
        ({"percentiles": [math.nan]}, "INVALID_FIELD", "percentiles[0]"),
        ({"percentiles": [1.0] * 17}, "BATCH_TOO_LARGE", "percentiles"),
        ({"attribute_ids": [STATE], "percentiles": [50]}, "TYPE_MISMATCH", "attribute_ids"),
        ({"bucket_us": -1}, "INVALID_FIELD", "bucket_us"),
        ({"start_time_us": 2, "end_time_us": 1}, "INVALID_FIELD", "end_time_us"),
        ({"start_time_us": 2**62}, "INVALID_FIELD", "start_time_us"),
        ({"token": b"x" * 8193}, "INVALID_FIELD", "token"),
        ({"wait": -1}, "INVALID_FIELD", "wait_timeout"),
        ({"attribute_ids": [STATE], "aggregations": [2]}, "TYPE_MISMATCH", "attribute_ids"),
    ],
)
def test_bad_requests_name_the_field(
    warehouse: Warehouse, fields: dict[str, Any], reason: str, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        warehouse.aggregate(**fields)
    assert reason_of(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, reason, field)


def test_a_kill_in_the_middle_of_the_stream_loses_and_doubles_nothing(
    warehouse: Warehouse,
) -> None:
    stop = threading.Event()
    written = {ACME: 0, GLOBEX: 0}

    def write_on() -> None:
        while not stop.is_set():
            warehouse.write([*points(ACME, 30), *points(GLOBEX, 20)])
            written[ACME] += 30
            written[GLOBEX] += 20

    writing = threading.Thread(target=write_on)
    writing.start()
    try:
        for _ in range(3):
            applied = warehouse.status().applied_total
            wait_until(
                lambda seen=applied: warehouse.status().applied_total > seen + 100,  # type: ignore[misc]
                "the stream moves",
                patience=PATIENCE,
            )
            warehouse.service.kill()
            warehouse.service.start()
    finally:
        stop.set()
        writing.join()
    for tenant in (ACME, GLOBEX):
        summary = warehouse.reconcile(tenant)
        again = warehouse.reconcile(tenant, from_start=True)
        assert (again.source, again.warehouse) == (summary.source, summary.warehouse)
        assert summary.windows_mismatched == 0
        assert summary.source == summary.warehouse
        assert summary.warehouse.row_count == written[tenant]
    status = warehouse.status()
    assert status.phase == "streaming"
    assert status.dead_lettered_total == 0
    assert status.read_total == status.applied_total + status.skipped_total
    assert status.warehouse_rows == sum(written.values())


def _cli(warehouse: Warehouse, *arguments: str, code: int = 0) -> Any:
    """What `atlas pipeline ... --json` answers."""
    command = [sys.executable, "-c", "from atlas_client.cli.root import main; main()"]
    done = subprocess.run(
        [*command, "pipeline", *arguments, "--reconciler", warehouse.service.target, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def test_the_pipeline_is_administered_from_the_command_line(warehouse: Warehouse) -> None:
    warehouse.write([*points(ACME), *points(GLOBEX)])
    found = _cli(warehouse, "status")
    assert (found["phase"], found["slot"]["active"]) == ("streaming", True)
    assert found["slot"]["wal_status"] == "reserved"
    assert 0 <= found["slot"]["used_share"] < 0.5
    assert found["slot"]["safe_bytes"] > 0
    assert found["leader"] == found["instance"]
    paused = _cli(warehouse, "pause", "--operator", "ann", "--reason", "a drill")
    assert (paused["phase"], paused["reason"]) == ("paused", "by ann: a drill")
    warehouse.write([*points(ACME, 5), *points(GLOBEX)])
    warehouse.service.kill()
    warehouse.service.start()  # Ready: a pause is no outage.
    assert _cli(warehouse, "status", code=1)["phase"] == "paused"
    assert "paused" in _cli(warehouse, "backfill", code=1)
    assert "unknown_table" in _cli(warehouse, "backfill", "--table", "unknown_table", code=1)
    _cli(warehouse, "resume")
    wait_until(
        lambda: warehouse.status().phase == "streaming", "it streams again", patience=PATIENCE
    )
    warehouse.reconcile(ACME)
    same = _cli(warehouse, "backfill", "--tenant", "acme", "--dry-run")
    assert (same["rows_differing"], same["spans_copied"], same["tenants_total"]) == (0, 0, 1)
    assert same["rows_compared"] == 15
    assert same["percent"] == 100
    _cli(warehouse, "recover", "--reason", "a drill")
    wait_until(
        lambda: warehouse.status().phase == "streaming", "it has recovered", patience=PATIENCE
    )
    status = warehouse.status()
    assert status.copy.rows_differing == 0
    assert status.copy.rows_compared == 35
    for tenant, rows in ((ACME, 15), (GLOBEX, 20)):
        summary = warehouse.reconcile(tenant, from_start=True)
        assert (summary.windows_mismatched, summary.warehouse.row_count) == (0, rows)


def test_it_comes_through_the_death_of_the_primary(warehouse: Warehouse) -> None:
    warehouse.write(points(GLOBEX))
    # synchronous_commit is off in flushes: what is to survive has to be in the log on disk.
    warehouse.admin.execute("CHECKPOINT")
    warehouse.admin.close()
    warehouse.stack.postgres.primary.kill()
    warehouse.stack.postgres.primary.start()
    warehouse.admin = psycopg.connect(warehouse.stack.database.admin_dsn, autocommit=True)
    summary = None

    def reconciled() -> bool:
        nonlocal summary
        try:
            summary = warehouse.reconcile(GLOBEX, from_start=True)
        except grpc.RpcError:
            return False
        return True

    wait_until(reconciled, "the stream is back", patience=PATIENCE)
    assert summary is not None
    assert summary.source == summary.warehouse
    assert summary.warehouse.row_count == 10


def test_an_owner_by_another_lock_is_left_alone(warehouse: Warehouse, tmp_path: Path) -> None:
    dsn = warehouse.stack.database.dsn("atlas_reconciler")
    environment = {
        **ENVIRONMENT,
        "ATLAS_PRIMARY__DSN": dsn,
        "ATLAS_DIRECT__DSN": dsn,
        "ATLAS_WAREHOUSE__PATH": str(warehouse.stack.state.warehouse),
        "ATLAS_SLOT__NAME": "another",  # So it leads, and the file's owner leads as well.
        "ATLAS_LEADER__HUNG_OWNER_SECONDS": "0",
    }
    pid = warehouse.service.pid
    with subprocess.Popen(
        [sys.executable, "-m", "atlas_cdc_reconciler"],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    ) as second:
        try:
            assert second.stdout is not None
            said = []
            for line in second.stdout:
                said.append(line)
                if "leading" in line:
                    break
            assert "leading" in said[-1], said
            with pytest.raises(subprocess.TimeoutExpired):  # It waits for the file.
                second.wait(2.0)
        finally:
            second.kill()
    assert warehouse.service.pid == pid
    assert warehouse.status().phase == "streaming"
