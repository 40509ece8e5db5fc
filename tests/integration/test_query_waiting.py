"""WaitFor returns when a tier holds a token's positions; ExplainRoute says what a read would do."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import pytest

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2
from atlas_common.token import Position
from atlas_devstack.waiting import wait_until

from .query_reading import (
    ACME,
    FAIL,
    GLOBEX,
    PATIENCE,
    PRIMARY,
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
)

REPLICAS = ("replica-1", "replica-2")
REACHED, PENDING = pb.POSITION_STATE_REACHED, pb.POSITION_STATE_PENDING


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Reading]:
    with reading_stack(tmp_path_factory.mktemp("waiting"), server_options) as reading:
        yield reading


@pytest.fixture
def reading(shared: Reading) -> Iterator[Reading]:
    """The shared stack, as fresh at the end as at the beginning."""
    yield shared
    shared.wait_fresh("primary", *REPLICAS)


_written = iter(range(1, 10_000))


def write(reading: Reading) -> bytes:
    """A new value in each tenant's pump-1: acme's token."""
    number = next(_written)
    at = T0 + number * timedelta(seconds=1)
    return reading.write([pressure(ACME, float(number), at=at), pressure(GLOBEX, 0.0, at=at)])


def wait_for(
    reading: Reading,
    token: bytes,
    tier: Any,
    *,
    tenant: int = ACME,
    timeout: float = 20,
    wait: float = 10,
    **fields: Any,
) -> pb.WaitForResponse:
    request = pb.WaitForRequest(token=token, tier=tier, **fields)
    request.wait_timeout.FromTimedelta(timedelta(seconds=wait))
    return reading.query.WaitFor(request, metadata=as_tenant(tenant), timeout=timeout)


def refused(reading: Reading, token: bytes, tier: Any, **fields: Any) -> Any:
    with pytest.raises(grpc.RpcError) as raised:
        wait_for(reading, token, tier, **fields)
    return refusal(raised.value)


def explain(
    reading: Reading, consistency: consistency_pb2.Consistency | None, **fields: Any
) -> pb.ExplainRouteResponse:
    request = pb.ExplainRouteRequest(consistency=consistency, **fields)
    return reading.query.ExplainRoute(request, metadata=as_tenant(ACME), timeout=10)


def test_what_is_there_is_waited_for_in_no_time_and_its_tier_says_what_it_holds(
    reading: Reading,
) -> None:
    token = write(reading)
    answer = wait_for(reading, token, consistency_pb2.SOURCE_PRIMARY)
    (tier,) = answer.tiers
    assert (tier.endpoint, tier.position_state, tier.token) == ("primary", REACHED, token)
    assert tier.lag.ToTimedelta() == timedelta(0)
    answer = wait_for(reading, token, consistency_pb2.SOURCE_REPLICA, all_replicas=True)
    assert {tier.endpoint for tier in answer.tiers} == set(REPLICAS)
    assert {tier.token for tier in answer.tiers} == {token}


@pytest.mark.parametrize("by", ["endpoint", "all"])
def test_a_wait_is_woken_when_replay_goes_on(reading: Reading, by: str) -> None:
    how = {"endpoint": "replica-1"} if by == "endpoint" else {"all_replicas": True}
    with ThreadPoolExecutor(1) as pool, reading.paused("replica-1"):
        token = write(reading)
        any_one = wait_for(reading, token, consistency_pb2.SOURCE_REPLICA)
        assert [tier.endpoint for tier in any_one.tiers] == ["replica-2"]
        waiting = pool.submit(wait_for, reading, token, consistency_pb2.SOURCE_REPLICA, **how)
        reading.wait_lagging(0.5, "replica-1")
        assert not waiting.done()
        reading.resume("replica-1")
        answer = waiting.result(timeout=20)
        assert "replica-1" in {tier.endpoint for tier in answer.tiers}
        assert answer.waited.ToTimedelta() > timedelta(seconds=0.3)


def test_a_wait_for_the_primary_is_woken_by_the_flush(reading: Reading) -> None:
    writer = reading.writer
    token = SIGNER.seal(ACME, [Position(writer.lane, writer.epoch, writer.sequence + 1)])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for, reading, token, consistency_pb2.SOURCE_PRIMARY)
        assert refused(reading, token, consistency_pb2.SOURCE_PRIMARY, wait=0.3)[1] == (
            "FRESHNESS_UNMET"
        )
        assert not waiting.done()
        assert write(reading) == token
        assert waiting.result(timeout=20).tiers[0].token == token


def test_a_wait_in_vain_says_where_the_tier_stands_and_that_it_does_not_move(
    reading: Reading,
) -> None:
    with reading.paused(*REPLICAS):
        token = write(reading)
        reading.wait_lagging(6.0, *REPLICAS)
        code, reason, metadata, field = refused(
            reading, token, consistency_pb2.SOURCE_REPLICA, wait=0.2, all_replicas=True
        )
        assert (code, reason, field) == (
            grpc.StatusCode.UNAVAILABLE,
            "FRESHNESS_UNMET",
            "token",
        )
        for name in REPLICAS:
            assert metadata[name].startswith("lag ")
            assert "no telling when fresh enough" in metadata[name]
            assert f", at {reading.writer.lane}:{reading.writer.epoch}:" in metadata[name]


def test_a_replica_that_hangs_ends_the_wait_in_time(reading: Reading) -> None:
    node = reading.replica("replica-1")
    node.pause()
    try:
        wait_until(
            lambda: not reading.tiers()["replica-1"].available, "it is missed", patience=PATIENCE
        )
        token = write(reading)
        answer = refused(
            reading,
            token,
            consistency_pb2.SOURCE_REPLICA,
            wait=60,
            endpoint="replica-1",
            timeout=1.0,
        )
        assert answer[1] == "FRESHNESS_UNMET"
        assert ", away" in answer[2]["replica-1"]
        # All replicas means all that answer.
        answer = wait_for(reading, token, consistency_pb2.SOURCE_REPLICA, all_replicas=True)
        assert [tier.endpoint for tier in answer.tiers] == ["replica-2"]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(
                wait_for, reading, token, consistency_pb2.SOURCE_REPLICA, endpoint="replica-1"
            )
            node.resume()
            assert waiting.result(timeout=20).tiers[0].position_state == REACHED
    finally:
        node.resume()


def test_what_is_lost_is_told_at_once(reading: Reading) -> None:
    write(reading)
    writer = reading.writer
    lost = SIGNER.seal(ACME, [Position(writer.lane, writer.epoch - 1, writer.sequence)])
    for tier in (consistency_pb2.SOURCE_PRIMARY, consistency_pb2.SOURCE_REPLICA):
        answer = refused(reading, lost, tier, wait=60, timeout=10)
        assert answer[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "POSITION_LOST")


def test_questions_that_make_no_sense_are_refused_by_field(reading: Reading) -> None:
    token = write(reading)
    replica, primary = consistency_pb2.SOURCE_REPLICA, consistency_pb2.SOURCE_PRIMARY
    for tier, fields, field in (
        (consistency_pb2.SOURCE_UNSPECIFIED, {}, "tier"),
        (replica, {"endpoint": "replica-9"}, "endpoint"),
        (replica, {"endpoint": "replica-1", "all_replicas": True}, "all_replicas"),
        (primary, {"all_replicas": True}, "all_replicas"),
    ):
        answer = refused(reading, token, tier, **fields)
        assert (answer[0], answer[3]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert refused(reading, b"", primary)[3] == "token"
    assert refused(reading, token, primary, tenant=GLOBEX)[1] == "TOKEN_WRONG_TENANT"


def test_a_tier_that_is_away_is_said_to_be(reading: Reading) -> None:
    token = write(reading)
    answer = refused(reading, token, consistency_pb2.SOURCE_CACHE, wait=0.3)
    assert answer[:2] == (grpc.StatusCode.UNAVAILABLE, "FRESHNESS_UNMET")
    assert ", away" in answer[2]["hotcache"]
    answer = refused(reading, token, consistency_pb2.SOURCE_WAREHOUSE, wait=0.3)
    assert answer[:2] == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


def agrees(reading: Reading, consistency: consistency_pb2.Consistency) -> pb.ExplainRouteResponse:
    """What is explained is what a read then does."""
    explained = explain(reading, consistency, kind=pb.READ_KIND_LATEST_ALL)

    def read() -> consistency_pb2.ReadMetadata:
        scope = pb.ATTRIBUTE_SCOPE_ALL
        return reading.get("pump-1", consistency=consistency, scope=scope).metadata

    if explained.action == pb.ROUTE_ACTION_READ:
        proof = read()
        assert (explained.source, explained.endpoint) == (proof.source, proof.endpoint)
    else:
        with pytest.raises(grpc.RpcError) as raised:
            read()
        assert refusal(raised.value)[1] in {"FRESHNESS_UNMET", "POSITION_LOST"}
    return explained


def verdicts(explained: pb.ExplainRouteResponse) -> dict[str, str]:
    return {each.tier.endpoint: each.verdict for each in explained.candidates}


def test_a_route_is_explained_as_it_is_then_taken(reading: Reading) -> None:
    token = write(reading)
    reading.stack.postgres.wait_caught_up()
    assert verdicts(agrees(reading, STRONG))["primary"] == "chosen"
    with reading.paused("replica-1"):
        newer = write(reading)
        wait_for(reading, newer, consistency_pb2.SOURCE_REPLICA, endpoint="replica-2")
        reading.wait_lagging(1.0, "replica-1")
        found = agrees(reading, eventual(1.0))
        assert found.endpoint == "replica-2"
        assert "is over 1.0 s" in verdicts(found)["replica-1"]
        found = agrees(reading, at_least(newer))
        assert found.endpoint == "replica-2"
        by_name = {each.tier.endpoint: each.tier for each in found.candidates}
        assert by_name["replica-1"].position_state == PENDING
        assert by_name["replica-2"].position_state == REACHED
        assert "does not hold the token's positions" in verdicts(found)["replica-1"]
        agrees(reading, at_least(token))


def test_what_on_unmet_would_do_is_explained_as_it_is_then_done(reading: Reading) -> None:
    with reading.paused(*REPLICAS):
        token = write(reading)
        reading.wait_lagging(1.0, *REPLICAS)
        found = agrees(reading, eventual(1.0, on_unmet=PRIMARY))
        assert (found.endpoint, found.on_unmet) == ("primary", PRIMARY)
        assert "at most 4 such reads" in found.when_unmet
        found = agrees(reading, at_least(token, on_unmet=FAIL))
        assert (found.action, found.endpoint) == (pb.ROUTE_ACTION_FAIL, "")
        assert found.when_unmet == "fail at once with FRESHNESS_UNMET"
        found = agrees(reading, at_least(token, on_unmet=WAIT, wait_timeout=0.2))
        assert found.action == pb.ROUTE_ACTION_WAIT
        assert found.when_unmet == "wait up to 0.2 s, then fail with FRESHNESS_UNMET"
    writer = reading.writer
    lost = SIGNER.seal(ACME, [Position(writer.lane, writer.epoch - 1, writer.sequence)])
    found = agrees(reading, at_least(lost))
    assert found.action == pb.ROUTE_ACTION_FAIL
    assert "lost" in found.reason


def test_the_primary_stands_in_the_error_of_a_read_that_fails(reading: Reading) -> None:
    writer = reading.writer
    to_come = SIGNER.seal(ACME, [Position(writer.lane, writer.epoch, writer.sequence + 1000)])
    with pytest.raises(grpc.RpcError) as raised:
        reading.get("pump-1", consistency=at_least(to_come))
    metadata = refusal(raised.value)[2]
    assert {"primary", *REPLICAS} <= set(metadata)
    assert ", at " in metadata["primary"]
