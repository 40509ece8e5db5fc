"""The bounds of a write request itself; those of each point are checked with it."""

from typing import TypeAlias

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_common import errors
from atlas_common.limits import check_bytes, check_items
from atlas_ingest.validate import entity_key_problem

Repeatable: TypeAlias = pb.WriteRequest | pb.WriteArrowStart


def check_write(request: pb.WriteRequest) -> None:
    """Return if the request can be looked at. Raises ServiceError INVALID_ARGUMENT."""
    check_items(request, "points")
    check_request_id(request)
    if not request.points:
        raise errors.invalid_argument(
            "INVALID_FIELD", "points is empty: send one at least", field="points"
        )
    check_default_entity_key(request)


def check_request_id(request: Repeatable) -> None:
    """Return if the ledger can hold the id. Raises ServiceError INVALID_ARGUMENT."""
    check_bytes(request, "request_id")
    # Those of an Arrow stream's messages are made from it with a control character.
    if not request.request_id.isprintable():
        raise errors.invalid_argument(
            "INVALID_FIELD", "request_id has control characters", field="request_id"
        )


def check_default_entity_key(request: Repeatable) -> None:
    """Return if the key is none, or can be an entity's. Raises ServiceError INVALID_ARGUMENT."""
    if request.default_entity_key:
        problem = entity_key_problem(request.default_entity_key)
        if problem is not None:
            raise errors.invalid_argument(
                "ENTITY_KEY_INVALID",
                f"default_entity_key {problem}",
                field="default_entity_key",
            )
