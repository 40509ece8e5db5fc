"""Requests to columns, answers to the ledger and back."""

from google.protobuf.timestamp_pb2 import Timestamp

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_common.values import DataType
from atlas_ingest import convert
from atlas_ingest.points import Ack, Answer, PointError

NOW_US = 1_800_000_000_000_000


def request(**fields: object) -> pb.WriteRequest:
    points = [value_pb2.Point(entity_key="e", attribute="a", double_value=1.5)]
    return pb.WriteRequest(**{"request_id": "r", "points": points, **fields})  # type: ignore[arg-type]


def test_defaults_fill_what_points_leave_out() -> None:
    points = [
        value_pb2.Point(attribute="a", bool_value=False),
        value_pb2.Point(entity_key="own", attribute="b", event_time_us=0, text_value=""),
        value_pb2.Point(attribute="c", event_time_us=-5),
        value_pb2.Point(attribute="d", time_value=Timestamp(seconds=1, nanos=2), quality=9),
    ]
    request = pb.WriteRequest(points=points, default_entity_key="shared")
    columns = convert.row_points(request, NOW_US)
    assert columns.entity_keys == ["shared", "own", "shared", "shared"]
    assert columns.event_times_us == [NOW_US, 0, -5, NOW_US]
    assert columns.types == [DataType.BOOL, DataType.TEXT, None, DataType.TIME]
    assert columns.values == [False, "", None, (1, 2)]
    assert columns.qualities == [0, 0, 0, 9]


def test_a_given_default_time_is_used_even_if_it_is_zero() -> None:
    assert convert.row_points(request(default_event_time_us=0), NOW_US).event_times_us == [0]


def test_the_hash_is_of_what_decides_what_is_stored() -> None:
    def body_hash(now_us: int = NOW_US, **fields: object) -> bytes:
        return convert.write_of(request(**fields), Ack.DURABLE, now_us).body_hash

    same = body_hash()
    assert body_hash(now_us=NOW_US + 1) == same
    assert body_hash(ack=pb.ACK_LEVEL_COMMITTED) == same
    others: tuple[dict[str, object], ...] = (
        {"default_event_time_us": NOW_US},
        {"default_entity_key": "x"},
        {"partial_success": True},
        {"points": []},
    )
    for other in others:
        assert body_hash(now_us=NOW_US, **other) != same


def test_an_ack_of_a_newer_contract_is_none() -> None:
    assert convert.ack_of(pb.ACK_LEVEL_UNSPECIFIED) is Ack.DURABLE
    assert convert.ack_of(pb.ACK_LEVEL_STAGED) is Ack.STAGED
    assert convert.ack_of(pb.ACK_LEVEL_COMMITTED) is Ack.COMMITTED
    assert convert.ack_of(99) is None


def test_the_ledger_gives_an_answer_back_as_it_was() -> None:
    answer = Answer(3, 1, (PointError(2, "REGEX_MISMATCH", "text_value", "no"),))
    assert convert.decode_answer(convert.encode_answer(answer)) == answer
