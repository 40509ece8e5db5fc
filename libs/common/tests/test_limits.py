"""Limits come from the schema and refuse what exceeds them, by name."""

import pytest

from atlas.catalog.v1 import catalog_service_pb2
from atlas.ingest.v1 import ingest_service_pb2
from atlas_common import limits
from atlas_common.errors import ServiceError


def test_limits_are_read_from_the_schema() -> None:
    assert limits.limit(ingest_service_pb2.WriteRequest, "points").max_items == 10_000


def test_a_field_that_does_not_exist_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        limits.limit(ingest_service_pb2.WriteRequest, "pionts")


def test_too_many_items_are_refused_with_both_numbers() -> None:
    request = catalog_service_pb2.BatchCreateEntitiesRequest(keys=["a"] * 10_001)
    with pytest.raises(ServiceError, match="split it") as refused:
        limits.check_items(request, "keys")
    assert refused.value.reason == "BATCH_TOO_LARGE"
    assert refused.value.metadata == {"items": "10001", "items_max": "10000"}
    limits.check_items(catalog_service_pb2.BatchCreateEntitiesRequest(keys=["a"] * 10_000), "keys")


def test_bytes_are_counted_not_characters() -> None:
    limits.check_bytes(ingest_service_pb2.WriteRequest(request_id="é" * 32), "request_id")
    with pytest.raises(ServiceError) as refused:
        limits.check_bytes(ingest_service_pb2.WriteRequest(request_id="é" * 33), "request_id")
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "request_id")


def test_an_empty_required_field_is_refused() -> None:
    with pytest.raises(ServiceError, match="is empty"):
        limits.check_bytes(ingest_service_pb2.WriteRequest(), "default_entity_key", required=True)
