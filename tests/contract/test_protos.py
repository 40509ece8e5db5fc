"""The contracts keep their own rules."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from atlas.catalog.v1 import catalog_service_pb2, policy_service_pb2
from atlas.hotcache.v1 import hotcache_service_pb2, projection_service_pb2
from atlas.ingest.v1 import ingest_service_pb2
from atlas.query.v1 import query_service_pb2
from atlas.reconciler.v1 import (
    dead_letter_service_pb2,
    pipeline_service_pb2,
    reconciler_service_pb2,
)
from atlas.type.v1 import error_pb2, limits_pb2
from atlas_common.rpc import declared_access

ROOT = Path(__file__).parents[2]
SERVICES: list[ServiceDescriptor] = [
    module.DESCRIPTOR.services_by_name[name]
    for module, name in [
        (catalog_service_pb2, "CatalogService"),
        (policy_service_pb2, "PolicyService"),
        (hotcache_service_pb2, "HotCacheService"),
        (projection_service_pb2, "ProjectionService"),
        (ingest_service_pb2, "IngestService"),
        (query_service_pb2, "QueryService"),
        (reconciler_service_pb2, "ReconcilerService"),
        (dead_letter_service_pb2, "DeadLetterService"),
        (pipeline_service_pb2, "PipelineService"),
    ]
]
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
REASONS = [
    value.name.removeprefix("ERROR_REASON_") for value in error_pb2.ErrorReason.DESCRIPTOR.values
]
RAISED = re.compile(
    r"(?:errors\.\w+|ServiceError|PointError|_refused?)\(\s*(?:grpc\.StatusCode\.\w+,\s*)?\"([A-Z][A-Z_]+)\""
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_what_only_reads_says_so(method: MethodDescriptor) -> None:
    level = method.GetOptions().idempotency_level
    if re.match(r"Get|List|Find|Aggregate|Watch|WaitFor|Explain", method.name):
        assert level == MethodOptions.NO_SIDE_EFFECTS
    else:
        assert level != MethodOptions.NO_SIDE_EFFECTS


def test_every_method_says_who_may_call_it() -> None:
    accesses = declared_access(SERVICES)
    assert len(accesses) == len(METHODS)
    for name, access in accesses.items():
        # What is over all tenants is nothing that a tenant's own administrators may do.
        platform = access.scope.startswith("platform.") or name.endswith("/ListTiers")
        assert access.tenantless == platform, name


def test_every_error_reason_has_an_example() -> None:
    source = (ROOT / "protos/atlas/type/v1/error.proto").read_text()
    documented = set(
        re.findall(r"(?:[Ee]xample|No example)[^=]*?\n\s*ERROR_REASON_(\w+) =", source)
    )
    assert set(REASONS) - documented == {"UNSPECIFIED"}


def test_every_reason_that_code_names_is_in_the_contract() -> None:
    raised: dict[str, str] = {}
    for package in (
        "libs/common/src",
        *(f"services/{p.name}/src" for p in (ROOT / "services").iterdir()),
    ):
        for file in (ROOT / package).rglob("*.py"):
            for reason in RAISED.findall(file.read_text()):
                raised.setdefault(reason, str(file.relative_to(ROOT)))
    assert raised, "the pattern finds nothing any more"
    assert {reason: where for reason, where in raised.items() if reason not in REASONS} == {}


def test_repeated_fields_of_requests_are_bounded() -> None:
    unbounded = [
        field.full_name
        for method in METHODS
        for field in method.input_type.fields
        if field.is_repeated
        and field.GetOptions().Extensions[limits_pb2.limits].max_items == 0
        # Ingest's own message about one flush, which is bounded by the flush.
        and method.name != "InvalidateEntities"
    ]
    assert unbounded == []
