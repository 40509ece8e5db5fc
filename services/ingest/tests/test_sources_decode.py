"""Bytes of a message become a write, or the reason why they never will."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_ingest.points import Ack, PointError, Rejections
from atlas_ingest.sources import decode as decoding
from atlas_ingest.sources.decode import decode, encode
from atlas_ingest.sources.message import PoisonError, Refusal, partly_refused


def request(**fields: object) -> pb.WriteRequest:
    write = pb.WriteRequest(**fields)  # type: ignore[arg-type]
    write.points.add(entity_key="pump-1", attribute="ratio", double_value=1.5)
    return write


def refused(raw: bytes) -> PoisonError:
    with pytest.raises(PoisonError) as error:
        decode(raw, 0)
    return error.value


def test_a_message_is_stored_as_far_as_it_is_good_whatever_it_asks_for() -> None:
    write = request(
        request_id="r1", validate_only=True, partial_success=False, ack=pb.ACK_LEVEL_STAGED
    )
    queued = decode(encode("acme", write), 7)
    assert queued.tenant_key == "acme"
    assert queued.write.ack is Ack.DURABLE
    assert queued.write.partial_success
    assert not queued.write.validate_only
    assert queued.write.request_id == "r1"
    assert queued.write.body_hash


def test_the_time_of_sending_stands_in_for_times_not_given() -> None:
    write = request()
    write.points.add(entity_key="pump-1", attribute="ratio", double_value=1, event_time_us=5)
    columns = decode(encode("acme", write), 7).write.columns
    assert columns.event_times_us == [7, 5]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("raw", "reason", "tenant_key", "said"),
    [
        (b"\xff\xff", "INVALID_FIELD", "", "not an atlas.ingest.v1.QueuedWrite"),
        (b"", "INVALID_FIELD", "", "a tenant's key is"),
        (encode("Not A Key", request()), "INVALID_FIELD", "", "a tenant's key is"),
        (encode("acme", pb.WriteRequest()), "INVALID_FIELD", "acme", "points is empty"),
        (encode("acme", request(request_id="a\x1fb")), "INVALID_FIELD", "acme", "control"),
        (encode("acme", request(request_id="x" * 65)), "INVALID_FIELD", "acme", "65 bytes"),
    ],
)
def test_what_is_no_write_is_told(raw: bytes, reason: str, tenant_key: str, said: str) -> None:
    error = refused(raw)
    assert (error.refusal.reason, error.tenant_key) == (reason, tenant_key)
    assert said in error.refusal.message


def test_too_many_points_and_too_many_bytes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    many = pb.WriteRequest(points=[value_pb2.Point(attribute="a")] * 10_001)
    assert refused(encode("acme", many)).refusal.reason == "BATCH_TOO_LARGE"
    monkeypatch.setattr(decoding, "MESSAGE_BYTES_MAX", 10)
    assert refused(b"x" * 11).refusal.reason == "BATCH_TOO_LARGE"


@given(st.binary(max_size=200))
def test_no_bytes_break_it(raw: bytes) -> None:
    with suppress(PoisonError):
        assert len(decode(raw, 0).write.columns) > 0


def test_a_refusal_can_be_stored_as_text() -> None:
    assert Refusal("INVALID_FIELD", "a\x00b").message == "a\\x00b"
    assert len(Refusal("INVALID_FIELD", "x" * 10_000).message) == 2_000


def test_refused_points_are_named_and_counted() -> None:
    rejections = Rejections()
    for index in range(1, 8):
        rejections.add(PointError(index, "TYPE_MISMATCH", "value", f"no {index}"))
    refusal = partly_refused(rejections, 9)
    assert refusal.reason == "TYPE_MISMATCH"
    assert refusal.message == (
        "7 of 9 points are refused: points[1]: no 1; points[2]: no 2; points[3]: no 3;"
        " points[4]: no 4; points[5]: no 5; and 2 more"
    )
