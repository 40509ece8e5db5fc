"""Buckets, watches, waits and routes, as a program and the command line see them."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import typer
from typer.testing import CliRunner

from atlas.query.v1 import query_service_pb2 as query_pb2
from atlas.type.v1 import value_pb2
from atlas_client import (
    AtlasClient,
    AtlasError,
    Bucket,
    BucketFunction,
    OnUnmet,
    PositionState,
    ReadKind,
    RouteAction,
    Source,
    at_least_as_fresh,
)
from atlas_client.cli import literals
from atlas_client.cli.root import build

from .client_rig import Platform, Refusal, serving, token

MINUTE = timedelta(minutes=1)


def reading(value: int) -> query_pb2.EntityState:
    return query_pb2.EntityState(
        entity_key="pump-1",
        readings=[query_pb2.Reading(attribute="rpm", value=value_pb2.Value(int_value=value))],
    )


def moment(value: int, resume: bytes, **fields: Any) -> query_pb2.WatchEntitiesResponse:
    return query_pb2.WatchEntitiesResponse(entities=[reading(value)], resume_token=resume, **fields)


async def test_buckets_have_a_result_for_each_function_and_are_followed_over_the_limit_of_a_call(
    client: AtlasClient, platform: Platform
) -> None:
    bucket = query_pb2.Bucket(
        attribute="rpm",
        bucket_time_us=60_000_000,
        results=[value_pb2.Value(double_value=1.5), value_pb2.Value(int_value=2)],
    )
    more = query_pb2.GetHistoryResponse(buckets=[bucket])
    more.next_start_time.FromSeconds(120)
    platform.history = [more]
    functions = [BucketFunction.AVG, BucketFunction.COUNT]
    stream = client.history_buckets("pump-1", MINUTE, functions, attributes=["rpm"])
    first = await anext(stream)
    platform.history = [query_pb2.GetHistoryResponse(buckets=[bucket])]
    assert [first, *[each async for each in stream]] == [
        Bucket(
            "rpm",
            datetime(1970, 1, 1, 0, 1, tzinfo=UTC),
            dict(zip(functions, [1.5, 2], strict=True)),
        ),
    ] * 2
    asked = platform.requests
    assert asked[0].downsample.bucket.ToTimedelta() == MINUTE
    assert list(asked[0].downsample.functions) == [3, 6]
    assert asked[1].start_time.ToSeconds() == 120


async def test_a_watch_goes_on_from_the_last_token_when_its_stream_breaks(
    client: AtlasClient, platform: Platform
) -> None:
    platform.watches = [
        [moment(1, b"one", snapshot=True), moment(2, b"two"), moment(3, b"")],
        [Refusal(grpc.StatusCode.UNAVAILABLE)],
        [moment(3, b"three")],
    ]
    watch = client.watch(["pump-1"], attributes=["rpm"])
    events = [await anext(watch) for _ in range(4)]
    await watch.aclose()
    assert [event.entities[0].values["rpm"] for event in events] == [1, 2, 3, 3]
    assert [event.snapshot for event in events] == [True, False, False, False]
    assert [request.resume_token for request in platform.requests] == [b"", b"two", b"two"]


async def test_a_watch_that_cannot_go_on_says_so(client: AtlasClient, platform: Platform) -> None:
    lost = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "POSITION_LOST")
    platform.watches = [[moment(1, b"one"), lost]]
    watch = client.watch(["pump-1"])
    await anext(watch)
    with pytest.raises(AtlasError) as raised:
        await anext(watch)
    assert raised.value.reason == "POSITION_LOST"


async def test_patience_ends(client: AtlasClient, platform: Platform) -> None:
    platform.watches = [[Refusal(grpc.StatusCode.UNAVAILABLE)] for _ in range(10)]
    with pytest.raises(AtlasError):
        await anext(client.watch(["pump-1"], patience=timedelta(seconds=0.3)))
    assert 2 <= len(platform.requests) < 10


async def test_a_wait_names_its_tier_and_tells_where_it_stands(
    client: AtlasClient, platform: Platform
) -> None:
    result = await client.wait_for(
        b"t", Source.REPLICA, endpoint="replica-1", wait_timeout=timedelta(seconds=9)
    )
    (tier,) = result.tiers
    assert (tier.source, tier.endpoint, tier.position, tier.token) == (
        Source.REPLICA,
        "replica-1",
        PositionState.REACHED,
        b"t",
    )
    assert result.waited == timedelta(seconds=1)
    (request,) = platform.requests
    assert request.wait_timeout.ToTimedelta() == timedelta(seconds=9)


async def test_a_session_waits_for_what_it_has_seen(
    client: AtlasClient, platform: Platform
) -> None:
    session = client.session()
    session.observe(token(l1=7))
    await session.wait_for(Source.WAREHOUSE)
    assert platform.requests[-1].token == token(l1=7)
    platform.history = [query_pb2.GetHistoryResponse()]
    functions = [BucketFunction.COUNT]
    assert [each async for each in session.history_buckets("pump-1", MINUTE, functions)] == []
    assert platform.requests[-1].consistency.at_least_as_fresh == token(l1=7)
    assert session.token != token(l1=7)


async def test_a_route_is_explained(client: AtlasClient, platform: Platform) -> None:
    wanted = at_least_as_fresh(token(l1=7), on_unmet=OnUnmet.WAIT)
    found = await client.explain_route(ReadKind.HISTORY, consistency=wanted)
    assert (found.action, found.source, found.on_unmet) == (RouteAction.WAIT, None, OnUnmet.WAIT)
    (candidate,) = found.candidates
    assert (candidate.tier.position, candidate.tier.lag) == (None, None)
    assert (candidate.tier.fresh_in, candidate.verdict) == (timedelta(seconds=2), "lag 4.0 s")
    (request,) = platform.requests
    assert (request.kind, request.consistency.at_least_as_fresh) == (4, token(l1=7))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m", 60), ("500ms", 0.5), ("90", 90), ("1.5h", 5400), ("1d", 86_400), ("10us", 1e-5)],
)
def test_lengths_of_time_are_read(text: str, seconds: float) -> None:
    assert literals.span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "m", "1x", "-1m", "1m30s"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="500ms, 30s, 1m"):
        literals.span(text)


@pytest.fixture
def target(platform: Platform) -> Iterator[str]:
    """The platform in a thread of its own: a command has an event loop of its own, too."""
    bound, done = threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        async with serving(platform) as port:
            ports.append(port)
            bound.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert bound.wait(10)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        done.set()
        thread.join(10)


def run(target: str, *arguments: str, code: int = 0) -> str:
    options = ["--query", target, "--tenant", "acme"]
    result = CliRunner().invoke(build(), [*arguments, *options])
    assert result.exit_code == code, result.output
    return result.stdout


def test_atlas_history_shows_buckets(platform: Platform, target: str) -> None:
    bucket = query_pb2.Bucket(
        attribute="rpm",
        bucket_time_us=60_000_000,
        results=[value_pb2.Value(double_value=1.5), value_pb2.Value(int_value=2)],
    )
    platform.history = [query_pb2.GetHistoryResponse(buckets=[bucket])]
    asked = ("history", "pump-1", "--bucket", "1m", "--functions", "avg,max")
    assert json.loads(run(target, *asked, "--json")) == {
        "attribute": "rpm",
        "time": "1970-01-01T00:01:00Z",
        "results": {"avg": 1.5, "max": 2},
    }
    assert "1970-01-01T00:01:00Z" in run(target, *asked)
    run(target, *asked[:-1], "avg,mode", code=2)
    run(target, "history", "pump-1", "--functions", "avg", code=2)


def test_atlas_watch_stops_after_so_many_readings(platform: Platform, target: str) -> None:
    stream: list[query_pb2.WatchEntitiesResponse | Refusal]
    stream = [moment(1, b"one", snapshot=True), moment(2, b"two"), moment(3, b"three")]
    platform.watches = [stream, list(stream)]
    lines = run(target, "watch", "pump-1", "--limit", "2", "--json").splitlines()
    assert [json.loads(line)["resume_token"] for line in lines] == ["b25l", "dHdv"]
    shown = run(target, "watch", "pump-1", "--limit", "2").splitlines()
    assert [line[0] for line in shown] == ["=", "+"]


def test_atlas_wait_and_explain(platform: Platform, target: str) -> None:
    told = run(target, "wait", "dA==", "--tier", "replica", "--for", "30s", "--json")
    assert json.loads(told)["tiers"][0]["position"] == "reached"
    assert platform.requests[-1].wait_timeout.seconds == 30
    told = run(target, "explain", "--kind", "history", "--on-unmet", "wait")
    assert "wait: no replica is fresh enough" in told
    assert platform.requests[-1].consistency.on_unmet == 1
