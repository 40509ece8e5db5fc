"""Requests as bytes: what is no message, and what would become too much of one."""

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_common.errors import ServiceError
from atlas_common.rpc.parsing import FIELDS_MAX, parsed_each, parser

parse = parser(pb.WriteRequest.FromString)
parse_batch = parser(pb.WriteStreamRequest.FromString)
_POINTS = pb.WriteRequest.DESCRIPTOR.fields_by_name["points"].number << 3 | 2


def _refusal(data: bytes) -> str:
    with pytest.raises(ServiceError) as refused:
        parse(data)
    return refused.value.reason


def test_messages_are_parsed() -> None:
    request = pb.WriteRequest(points=[value_pb2.Point(entity_key="pump", attribute="rpm")] * 3)
    assert parse(request.SerializeToString()) == request
    assert parser(None)(b"as it is") == b"as it is"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe", b"\x0b" * 200])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    assert _refusal(data) == "INVALID_FIELD"


async def test_a_message_of_a_stream_is_refused_where_it_is_awaited() -> None:
    async def sent() -> AsyncIterator[bytes]:
        for data in (b"", b"\xff"):
            yield data

    messages = parsed_each(sent(), parse)
    assert await anext(messages) == pb.WriteRequest()
    with pytest.raises(ServiceError, match="no valid message"):
        await anext(messages)


@pytest.mark.parametrize("element", [b"", b"\x28\x01"], ids=["empty", "small"])
def test_too_many_elements_are_refused_before_they_are_made(element: bytes) -> None:
    one = bytes([_POINTS, len(element)]) + element
    assert _refusal(one * (FIELDS_MAX + 1)) == "BATCH_TOO_LARGE"
    assert len(parse(one * FIELDS_MAX).points) == FIELDS_MAX


def test_fields_within_messages_count() -> None:
    points = [value_pb2.Point()] * (FIELDS_MAX - 1)
    batch = pb.WriteStreamRequest(batch=pb.WriteStreamBatch(points=points))
    assert parse_batch(batch.SerializeToString()) == batch
    batch.batch.points.add()
    with pytest.raises(ServiceError, match="fields"):
        parse_batch(batch.SerializeToString())


def test_large_messages_of_few_elements_pass() -> None:
    request = pb.WriteRequest(points=[value_pb2.Point(entity_key="x" * 1000)] * 5000)
    assert parse(request.SerializeToString()) == request


def test_nesting_without_end_is_refused() -> None:
    data = bytes(2 * FIELDS_MAX)
    for _ in range(1000):  # A Value of a list of one Value.
        for tag in (b"\x0a", b"\x32"):
            data = tag + _varint(len(data)) + data
    with pytest.raises(ServiceError) as refused:
        parser(struct_pb2.Value.FromString)(data)
    assert refused.value.reason == "INVALID_FIELD"


def _varint(number: int) -> bytes:
    low = bytes([number & 0x7F])
    return low if number < 0x80 else bytes([low[0] | 0x80]) + _varint(number >> 7)


@given(st.binary(min_size=1, max_size=40))
@settings(max_examples=20, derandomize=True, deadline=None)
def test_no_bytes_break_the_count(data: bytes) -> None:
    with suppress(ServiceError):
        parse(data * (2 * FIELDS_MAX // len(data) + 1))
