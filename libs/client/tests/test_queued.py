"""What is published is the write that the contract states."""

from datetime import UTC, datetime

import pytest

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_client import Point, queued_write


def test_a_queued_write_names_its_tenant_and_holds_the_points() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    raw = queued_write(
        "acme", [Point("pump-1", "rpm", 5, at), Point("pump-2", "rpm", 6)], request_id="r1"
    )
    message = pb.QueuedWrite.FromString(raw)
    assert (message.tenant, message.write.request_id) == ("acme", "r1")
    assert [(p.entity_key, p.int_value) for p in message.write.points] == [
        ("pump-1", 5),
        ("pump-2", 6),
    ]
    assert message.write.points[0].event_time_us == int(at.timestamp()) * 1_000_000
    assert not message.write.points[1].HasField("event_time_us")


def test_a_value_that_no_attribute_can_have_is_told_before_anything_is_sent() -> None:
    with pytest.raises(TypeError):
        queued_write("acme", [Point("pump-1", "rpm", object())])  # type: ignore[arg-type]
