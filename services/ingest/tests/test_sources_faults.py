"""Whose fault an error is, as sources judge it."""

from atlas_common import errors
from atlas_common.config import QuotaConfig
from atlas_common.metering import exceeded_count
from atlas_common.tenant import Tenant
from atlas_ingest.sources.faults import refusal_of


def test_what_passes_by_itself_is_tried_again() -> None:
    assert refusal_of(errors.resource_exhausted("OVERLOADED", "full", retry_after=1)) is None
    assert refusal_of(errors.unavailable("DEPENDENCY_UNAVAILABLE", "away")) is None
    assert refusal_of(OSError()) is None


def test_a_message_beyond_its_tenants_quota_does_not_hold_up_the_others() -> None:
    most = QuotaConfig().entities
    refusal = refusal_of(exceeded_count(Tenant(1, "acme"), "entities", most))
    assert refusal is not None
    assert refusal.reason == "QUOTA_EXCEEDED"


def test_what_the_database_refuses_may_be_anothers_fault() -> None:
    assert refusal_of(errors.invalid_argument("INVALID_FIELD", "no", sqlstate="22003")) is None
    assert refusal_of(errors.invalid_argument("INVALID_FIELD", "no")) is not None
