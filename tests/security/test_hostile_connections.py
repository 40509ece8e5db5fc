"""Connections made to exhaust a service: bombs, slow and half-open ones, thousands that are idle.

ATLAS_IDLE_STREAMS (2,000) is how many of those there are.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb
from atlas.query.v1 import query_service_pb2 as query_pb
from atlas.type.v1 import value_pb2

from .fortress import METHODS, path
from .siege import ATTACKER, Siege, check_refusal

_STREAMS = int(os.environ.get("ATLAS_IDLE_STREAMS", "2000"))
_CHANNELS = 20
_STREAM_BYTES_MAX = 64 * 2**10
"""What an idle stream may take of the service's memory."""

_GROWTH_BYTES_MAX = 200 * 2**20
"""What one hostile message may, of 16 MiB at most: its bytes, its copy, what it becomes."""

_AS_ATTACKER = (("x-atlas-tenant", ATTACKER),)
_WRITE = "/atlas.ingest.v1.IngestService/Write"
_SERVICES = sorted({service for service, _ in METHODS})


def _refusal(call: Callable[[], object]) -> Any:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    check_refusal(refused.value, "here")
    return refused.value


@pytest.mark.parametrize("service", _SERVICES)
def test_compression_bombs_stay_small(besieged: Siege, service: str) -> None:
    """256 MiB of zeros are a quarter of one on the wire."""
    bomb = bytes(256 * 2**20)
    before = besieged.memory(service, "VmHWM")
    method = next(each for name, each in METHODS if name == service)
    call: Any = besieged.channels[service].unary_unary(path(method))
    with besieged.others_going_on():
        error = _refusal(
            lambda: call(bomb, metadata=_AS_ATTACKER, compression=grpc.Compression.Gzip, timeout=60)
        )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert besieged.memory(service, "VmHWM") - before < _GROWTH_BYTES_MAX


def test_a_message_beyond_the_bound_is_refused(besieged: Siege) -> None:
    call: Any = besieged.channels["ingest"].unary_unary(_WRITE)
    with besieged.others_going_on():
        error = _refusal(lambda: call(bytes(17 * 2**20), metadata=_AS_ATTACKER, timeout=60))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_messages_that_grow_when_they_are_parsed_are_refused(besieged: Siege) -> None:
    """Eight million points in 16 MiB, which would be 800."""
    number = ingest_pb.WriteRequest.DESCRIPTOR.fields_by_name["points"].number
    points = bytes([number << 3 | 2, 0]) * (8 * 2**20 - 8)
    before = besieged.memory("ingest", "VmHWM")
    call: Any = besieged.channels["ingest"].unary_unary(_WRITE)
    with besieged.others_going_on():
        error = _refusal(lambda: call(points, metadata=_AS_ATTACKER, timeout=60))
    assert "fields" in error.details()
    assert besieged.memory("ingest", "VmHWM") - before < _GROWTH_BYTES_MAX


def test_filters_without_end_are_refused(besieged: Siege) -> None:
    filter_ = query_pb.Filter(exists=query_pb.Exists(attribute="rpm"))
    for _ in range(40):
        outer = query_pb.Filter()
        getattr(outer, "not").CopyFrom(filter_)
        filter_ = outer
    request = query_pb.FindEntitiesRequest(filter=filter_)
    call: Any = besieged.channels["query"].unary_unary("/atlas.query.v1.QueryService/FindEntities")
    error = _refusal(lambda: call(request.SerializeToString(), metadata=_AS_ATTACKER, timeout=60))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(.*a){20}$", "([a-z]+)*!"])
def test_patterns_that_backtrack_do_not(besieged: Siege, pattern: str) -> None:
    """What takes others for ever takes RE2 a moment: an answer comes at all."""
    attribute = catalog_pb.Attribute(
        name=f"note {pattern}", data_type=value_pb2.DATA_TYPE_TEXT, validation_regex=pattern
    )
    channel: Any = besieged.channels["ingest"]
    define = channel.unary_unary("/atlas.catalog.v1.CatalogService/BatchUpsertAttributes")
    made = catalog_pb.BatchUpsertAttributesRequest(attributes=[attribute])
    define(made.SerializeToString(), metadata=_AS_ATTACKER, timeout=60)
    text = "a" * 50_000 + "?"
    point = value_pb2.Point(entity_key="pump-1", attribute=attribute.name, text_value=text)
    write = ingest_pb.WriteRequest(points=[point]).SerializeToString()
    with besieged.others_going_on():
        error = _refusal(
            lambda: channel.unary_unary(_WRITE)(write, metadata=_AS_ATTACKER, timeout=60)
        )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("service", _SERVICES)
def test_half_open_connections_hold_nobody_up(besieged: Siege, service: str) -> None:
    """Some say nothing, some begin a greeting, some send what is no HTTP/2 at all."""
    host, port = besieged.stack.services[service].target.rsplit(":", 1)
    greetings = (b"", b"PRI * HTTP/2", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", os.urandom(64))
    before = besieged.memory(service)
    with ExitStack() as open_, besieged.others_going_on():
        for number in range(200):
            held = open_.enter_context(socket.create_connection((host, int(port)), timeout=60))
            held.sendall(greetings[number % len(greetings)])
        besieged.check_well()
        assert besieged.memory(service) - before < 200 * 256 * 2**10


@pytest.mark.parametrize("service", _SERVICES)
async def test_idle_streams_take_little_memory(besieged: Siege, service: str) -> None:
    """Calls that were begun and never say a word, more than are ever let in."""
    method = next(m for name, m in METHODS if name == service and not m.client_streaming)
    target = besieged.stack.services[service].target
    before = besieged.memory(service)
    async with AsyncExitStack() as open_:
        # A pool each: channels to one address would share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await open_.enter_async_context(grpc.aio.insecure_channel(target, options))
            for _ in range(_CHANNELS)
        ]
        calls: list[Any] = []
        while len(calls) < _STREAMS:
            for channel in channels:
                calls += [
                    channel.stream_unary(path(method))(metadata=_AS_ATTACKER) for _ in range(10)
                ]
            for channel in channels:  # What was begun before has arrived when this is answered.
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        ended = [(await call.code()).name for call in calls if call.done()]
        # A flood has gRPC turn some away before anything of ours is asked.
        assert set(ended) <= {"CANCELLED"}
        assert len(ended) < _STREAMS / 5
        await asyncio.to_thread(besieged.check_well)
        grown = besieged.memory(service) - before
        for call in calls:
            call.cancel()
    print(f"{service}: {grown / _STREAMS / 1024:.1f} KiB a stream")  # noqa: T201 - with -s.
    assert grown < _STREAMS * _STREAM_BYTES_MAX
    await asyncio.to_thread(besieged.check_well)
