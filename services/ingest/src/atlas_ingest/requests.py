"""The bounds of a write request itself; those of each point are checked with it."""

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_common import errors
from atlas_common.limits import check_bytes, check_items
from atlas_ingest.validate import entity_key_problem


def check_write(request: pb.WriteRequest) -> None:
    """Return if the request can be looked at. Raises ServiceError INVALID_ARGUMENT."""
    check_items(request, "points")
    check_bytes(request, "request_id")
    if not request.request_id.isprintable():
        raise errors.invalid_argument(
            "INVALID_FIELD", "request_id has control characters", field="request_id"
        )
    if not request.points:
        raise errors.invalid_argument(
            "INVALID_FIELD", "points is empty: send one at least", field="points"
        )
    if request.default_entity_key:
        problem = entity_key_problem(request.default_entity_key)
        if problem is not None:
            raise errors.invalid_argument(
                "ENTITY_KEY_INVALID",
                f"default_entity_key {problem}",
                field="default_entity_key",
            )
