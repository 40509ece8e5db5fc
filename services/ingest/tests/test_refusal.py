"""The status of a refused batch fits into a trailer and names every point it can."""

from google.rpc import error_details_pb2

from atlas_ingest.points import PointError, Rejections
from atlas_ingest.refusal import BatchRefusedError


def refused(count: int) -> BatchRefusedError:
    rejections = Rejections()
    for index in range(count):
        rejections.add(PointError(index, "TYPE_MISMATCH", "double_value", "x" * 200))
    return BatchRefusedError(rejections, "e" * 256, "a" * 128)


def test_violations_name_field_and_reason_of_each_point() -> None:
    status = refused(2).to_status()
    bad_request, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(bad_request)
        detail.Unpack(info)
    assert [violation.field for violation in bad_request.field_violations] == [
        "points[0].double_value",
        "points[1].double_value",
    ]
    assert bad_request.field_violations[1].reason == "TYPE_MISMATCH"
    assert info.reason == "TYPE_MISMATCH"
    assert info.metadata["index"] == "0"
    assert info.metadata["rejected_count"] == "2"


def test_ten_thousand_bad_points_still_fit_into_a_trailer() -> None:
    assert refused(10_000).to_status().ByteSize() * 4 / 3 < 8_000
