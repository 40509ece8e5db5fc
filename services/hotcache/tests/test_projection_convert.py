"""Requests for jobs: what is refused before the database is asked."""

import pytest

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common.errors import ServiceError
from atlas_hotcache.projection import convert


@pytest.mark.parametrize("request_type", [pb.RebuildProjectionRequest, pb.VerifyProjectionRequest])
def test_keys_that_no_entity_can_have_are_refused(
    request_type: type[pb.RebuildProjectionRequest] | type[pb.VerifyProjectionRequest],
) -> None:
    with pytest.raises(ServiceError) as refused:
        convert.entity_keys(request_type(entity_keys=["pump", "a\0b"]))
    assert (refused.value.reason, refused.value.field) == ("ENTITY_KEY_INVALID", "entity_keys[1]")
    assert convert.entity_keys(request_type(entity_keys=["pump", "pump"])) == ("pump",)
    assert convert.entity_keys(request_type()) is None
