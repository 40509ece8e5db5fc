"""Reads go to the tier their consistency asks for, wait, go on, or say why not."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2
from atlas_common.token import Position
from atlas_devstack.waiting import wait_until

from .query_reading import (
    ACME,
    FAIL,
    GLOBEX,
    PATIENCE,
    SIGNER,
    STRONG,
    T0,
    WAIT,
    Reading,
    as_tenant,
    at_least,
    eventual,
    pressure,
    reading_stack,
    refusal,
    trailers,
    values,
)

REPLICAS = ("replica-1", "replica-2")
CAP = {"ATLAS_ROUTER__PRIMARY_READS_MAX": "2", "ATLAS_ROUTER__PRIMARY_READS_WAITING_MAX": "0"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Reading]:
    with reading_stack(tmp_path_factory.mktemp("routing"), server_options, query=CAP) as reading:
        yield reading


@pytest.fixture
def reading(shared: Reading) -> Iterator[Reading]:
    """The shared stack, as fresh at the end as at the beginning."""
    yield shared
    shared.wait_fresh("primary", *REPLICAS)


_written = iter(range(1, 10_000))


def write(reading: Reading) -> tuple[bytes, float]:
    """A new value in each tenant's pump-1: acme's token, and acme's value."""
    number = next(_written)
    at = T0 + number * timedelta(seconds=1)
    return (
        reading.write([pressure(ACME, float(number), at=at), pressure(GLOBEX, -number, at=at)]),
        float(number),
    )


def read(
    reading: Reading, consistency: consistency_pb2.Consistency, **fields: Any
) -> tuple[float, consistency_pb2.ReadMetadata]:
    answer = reading.get("pump-1", consistency=consistency, **fields)
    return values(answer.entities[0])["pressure"], answer.metadata


def refused(reading: Reading, consistency: consistency_pb2.Consistency, **fields: Any) -> Any:
    with pytest.raises(grpc.RpcError) as raised:
        reading.get("pump-1", consistency=consistency, **fields)
    return refusal(raised.value)


def test_eventual_is_served_by_a_replica_that_proves_its_lag(reading: Reading) -> None:
    token, value = write(reading)
    reading.stack.postgres.wait_caught_up()
    got, proof = read(reading, eventual())
    assert got == value
    assert proof.source == consistency_pb2.SOURCE_REPLICA
    assert proof.endpoint in REPLICAS
    assert proof.consistency == consistency_pb2.CONSISTENCY_LEVEL_EVENTUAL
    assert proof.lag.ToTimedelta() < timedelta(seconds=3)
    assert proof.token == token
    assert "least lagged of 2 replicas under 3.0 s" in proof.route_reason
    assert read(reading, eventual(), tenant=GLOBEX)[0] == -value


def test_a_stream_is_served_by_a_replica_with_the_same_proof(reading: Reading) -> None:
    write(reading)
    reading.stack.postgres.wait_caught_up()
    request = pb.GetHistoryRequest(entity_key="pump-1")
    call = reading.query.GetHistory(request, metadata=as_tenant(ACME), timeout=10)
    first = next(iter(call))
    assert first.metadata.source == consistency_pb2.SOURCE_REPLICA
    list(call)
    found = trailers(call)
    assert (found["x-data-source"], found["x-consistency"]) == ("replica", "eventual")
    assert float(found["x-data-lag-seconds"]) < 3


def test_a_replica_that_is_behind_is_avoided(reading: Reading) -> None:
    with reading.paused("replica-1"):
        _, value = write(reading)
        reading.wait_lagging(1.0, "replica-1")
        got, proof = read(reading, eventual(1.0))
        assert (got, proof.endpoint) == (value, "replica-2")
        assert "least lagged of 1 replica under 1.0 s" in proof.route_reason


def test_when_all_are_behind_the_primary_answers_or_nobody(reading: Reading) -> None:
    with reading.paused(*REPLICAS):
        _, value = write(reading)
        reading.wait_lagging(1.0, *REPLICAS)
        got, proof = read(reading, eventual(1.0))
        assert (got, proof.endpoint) == (value, "primary")
        assert "no replica is under 1.0 s (replica-1 lag " in proof.route_reason
        code, reason, metadata, field = refused(reading, eventual(1.0, on_unmet=FAIL))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "FRESHNESS_UNMET")
        assert field == "consistency"
        for name in REPLICAS:
            assert metadata[name].startswith("lag ")
            assert ", at 0:" in metadata[name]


def test_a_stale_copy_is_served_within_a_wide_bound_with_a_warning(reading: Reading) -> None:
    with reading.paused(*REPLICAS):
        reading.wait_lagging(3.2, *REPLICAS)
        _, proof = read(reading, eventual(60.0))
        assert proof.source == consistency_pb2.SOURCE_REPLICA
        assert proof.lag.ToTimedelta() > timedelta(seconds=3)
        (warning,) = proof.warnings
        assert warning.startswith("replica lag ")
        assert warning.endswith("exceeds the budget of 3.0 s")


@pytest.mark.parametrize("by", ["staleness", "token"])
def test_a_waiting_read_is_woken_when_replay_goes_on(reading: Reading, by: str) -> None:
    with ThreadPoolExecutor(1) as pool, reading.paused(*REPLICAS):
        token, value = write(reading)
        reading.wait_lagging(1.0, *REPLICAS)
        consistency = (
            at_least(token, wait_timeout=20, on_unmet=WAIT)
            if by == "token"
            else eventual(1.0, wait_timeout=20, on_unmet=WAIT)
        )
        waiting = pool.submit(read, reading, consistency, timeout=30)
        reading.wait_lagging(1.3, *REPLICAS)
        assert not waiting.done()
        reading.resume("replica-2")
        got, proof = waiting.result(timeout=20)
        assert (got, proof.endpoint) == (value, "replica-2")
        assert "waited " in proof.route_reason


def test_a_wait_ends_at_its_timeout_and_before_the_deadline(reading: Reading) -> None:
    with reading.paused(*REPLICAS):
        token, _ = write(reading)
        wait = at_least(token, wait_timeout=0.2, on_unmet=WAIT)
        assert refused(reading, wait)[1] == "FRESHNESS_UNMET"
        long = at_least(token, wait_timeout=60, on_unmet=WAIT)
        # The reserve for saying so is short: a crowded machine may need more than one call for it.
        wait_until(
            lambda: refused(reading, long, timeout=0.7)[1] == "FRESHNESS_UNMET",
            "a refusal before the deadline",
            patience=PATIENCE,
        )


def test_a_token_goes_on_to_who_holds_it(reading: Reading) -> None:
    with reading.paused("replica-1"):
        token, value = write(reading)
        reading.wait_lagging(1.0, "replica-1")
        wait_until(lambda: read(reading, at_least(token))[1].endpoint == "replica-2", "replica-2",
                   patience=PATIENCE)  # fmt: skip
        got, proof = read(reading, at_least(token))
        assert (got, proof.endpoint) == (value, "replica-2")
        assert proof.consistency == consistency_pb2.CONSISTENCY_LEVEL_AT_LEAST_AS_FRESH
    with reading.paused(*REPLICAS):
        token, value = write(reading)
        got, proof = read(reading, at_least(token))
        assert (got, proof.endpoint) == (value, "primary")
        assert "replica-1 was behind" in proof.route_reason


def test_an_old_token_is_served_by_a_stale_replica(reading: Reading) -> None:
    token, value = write(reading)
    reading.stack.postgres.wait_caught_up()
    with reading.paused(*REPLICAS):
        write(reading)
        reading.wait_lagging(1.0, *REPLICAS)
        got, proof = read(reading, at_least(token))
        assert (got, proof.source) == (value, consistency_pb2.SOURCE_REPLICA)


def test_tokens_that_are_not_ours_are_refused_before_anything_is_read(reading: Reading) -> None:
    token, _ = write(reading)
    flipped = token[:-1] + bytes([token[-1] ^ 1])
    for bad, tenant, reason in (
        (token, GLOBEX, "TOKEN_WRONG_TENANT"),
        (flipped, ACME, "TOKEN_TAMPERED"),
        (b"abc", ACME, "TOKEN_MALFORMED"),
    ):
        answer = refused(reading, at_least(bad), tenant=tenant)
        assert answer[:2] == (grpc.StatusCode.INVALID_ARGUMENT, reason)


def test_a_lost_position_is_told_from_one_to_come(reading: Reading) -> None:
    write(reading)
    writer = reading.writer
    lost = SIGNER.seal(ACME, [Position(writer.lane, writer.epoch - 1, writer.sequence)])
    answer = refused(reading, at_least(lost))
    assert answer[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "POSITION_LOST")
    to_come = SIGNER.seal(ACME, [Position(writer.lane, writer.epoch, writer.sequence + 1000)])
    answer = refused(reading, at_least(to_come))
    assert answer[:2] == (grpc.StatusCode.UNAVAILABLE, "FRESHNESS_UNMET")


def test_a_silent_heart_makes_every_lag_unknown_but_no_token_untrue(reading: Reading) -> None:
    token, value = write(reading)
    reading.stack.postgres.wait_caught_up()
    with reading.heart.held():
        reading.wait_lagging(1e9, *REPLICAS)
        got, proof = read(reading, eventual(3600.0))
        assert (got, proof.endpoint) == (value, "primary")
        got, proof = read(reading, at_least(token))
        assert (got, proof.source) == (value, consistency_pb2.SOURCE_REPLICA)
        assert not proof.HasField("lag")
        assert list(proof.warnings) == ["replica lag is unknown: no recent heartbeat"]


def test_the_primary_takes_only_so_many_reads_from_others(reading: Reading) -> None:
    with reading.paused(*REPLICAS), psycopg.connect(reading.stack.database.admin_dsn) as locker:
        reading.wait_lagging(1.0, *REPLICAS)
        locker.execute("LOCK TABLE entity_values_ts IN ACCESS EXCLUSIVE MODE")
        request = pb.GetEntitiesRequest(
            entity_keys=["pump-1"], scope=pb.ATTRIBUTE_SCOPE_ALL, consistency=eventual(1.0)
        )
        calls = [
            reading.query.GetEntities.future(request, metadata=as_tenant(ACME), timeout=30)
            for _ in range(2)
        ]
        wait_until(lambda: waiting(reading) == 2, "two reads wait", patience=PATIENCE)
        answer = refused(reading, eventual(1.0))
        assert answer[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert read(reading, STRONG)[1].endpoint == "primary"
        locker.rollback()
        for call in calls:
            assert call.result().metadata.endpoint == "primary"


def waiting(reading: Reading) -> int:
    row = reading.admin.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE usename = 'atlas_query' AND wait_event_type = 'Lock'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_thousand_cancelled_reads_cost_no_connection(reading: Reading) -> None:
    request = pb.GetEntitiesRequest(
        entity_keys=["pump-1"], scope=pb.ATTRIBUTE_SCOPE_ALL, consistency=eventual()
    )
    for _ in range(20):
        calls = [
            reading.query.GetEntities.future(request, metadata=as_tenant(ACME), timeout=30)
            for _ in range(50)
        ]
        next(iter(calls)).result()
        for call in calls:
            call.cancel()
    for consistency in (STRONG, eventual()):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _, c=consistency: read(reading, c), range(40)))
        assert len(answers) == 40


def test_a_killed_replica_is_noticed_left_alone_and_taken_back(reading: Reading) -> None:
    node = reading.replica("replica-1")
    node.kill()
    try:
        for _ in range(20):
            assert read(reading, eventual())[1].endpoint != "replica-1"

        def is_open() -> bool:
            tier = reading.tiers()["replica-1"]
            return (tier.breaker, tier.available) == ("OPEN", False)

        wait_until(is_open, "the breaker opens", patience=PATIENCE)
    finally:
        node.start()
    wait_until(
        lambda: reading.tiers()["replica-1"].breaker == "CLOSED", "it closes", patience=PATIENCE
    )
    reading.wait_fresh("replica-1")


def test_a_replica_that_hangs_holds_up_reads_for_a_moment_only(reading: Reading) -> None:
    node = reading.replica("replica-1")
    node.pause()
    try:
        for _ in range(20):
            read(reading, eventual(), timeout=3)
        wait_until(
            lambda: not reading.tiers()["replica-1"].available, "it is missed", patience=PATIENCE
        )
        assert read(reading, eventual(), timeout=1)[1].endpoint == "replica-2"
    finally:
        node.resume()


def test_while_the_primary_is_away_replicas_serve_what_they_can(
    tmp_path_factory: pytest.TempPathFactory, server_options: Any
) -> None:
    with reading_stack(tmp_path_factory.mktemp("alone"), server_options) as reading:
        token, value = write(reading)
        reading.stack.postgres.wait_caught_up()
        assert read(reading, eventual())[0] == value
        reading.stack.postgres.primary.kill()
        wait_until(
            lambda: not reading.tiers()["primary"].available, "it is missed", patience=PATIENCE
        )
        assert read(reading, eventual(60.0))[0] == value
        assert read(reading, at_least(token), tenant=ACME)[0] == value
        answer = refused(reading, STRONG)
        assert answer[:2] == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        health = health_pb2_grpc.HealthStub(reading.channel)
        check = health_pb2.HealthCheckRequest(service="atlas.query.v1.QueryService")
        assert health.Check(check, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        reading.stack.postgres.primary.start()
        wait_until(lambda: reading.tiers()["primary"].available, "it is back", patience=PATIENCE)
        assert read(reading, STRONG)[0] == value
