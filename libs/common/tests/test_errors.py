"""ServiceError -> google.rpc.Status and back."""

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from atlas.type.v1 import error_pb2
from atlas_common import errors, sqlstate
from atlas_common.errors import STATUS_DETAILS_KEY, ServiceError


def as_raised_by_grpc(error: ServiceError) -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata((STATUS_DETAILS_KEY, error.to_status().SerializeToString()))
    return grpc.aio.AioRpcError(error.code, grpc.aio.Metadata(), trailers, error.message)


def test_a_status_carries_reason_field_delay_and_metadata() -> None:
    error = errors.invalid_argument(
        "TYPE_MISMATCH",
        "not an int",
        field="points[3].value",
        retry_after=1.5,
        attribute="rpm",
        n=3,
    )
    status = error.to_status()
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    for detail, message in zip(status.details, (info, bad, retry), strict=True):
        assert detail.Unpack(message)
    assert (info.reason, info.domain) == ("TYPE_MISMATCH", "atlas")
    assert dict(info.metadata) == {"attribute": "rpm", "n": "3"}
    assert bad.field_violations[0].field == "points[3].value"
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_details_that_do_not_apply_are_left_out() -> None:
    assert len(errors.not_found("ENTITY_UNKNOWN", "no such entity").to_status().details) == 1


def test_an_error_survives_the_way_through_a_peer() -> None:
    error = errors.resource_exhausted(
        "OVERLOADED", "full", field="points", retry_after=0.25, backlog=7
    )
    relayed = errors.from_rpc_error(as_raised_by_grpc(error))
    assert (relayed.code, relayed.reason, relayed.message) == (error.code, "OVERLOADED", "full")
    assert (relayed.field, relayed.retry_after) == ("points", 0.25)
    assert relayed.metadata == {"backlog": "7"}


@pytest.mark.parametrize("details", [None, b"\xff\xff\xff"], ids=["none", "garbage"])
def test_a_status_made_by_grpc_gets_the_reason_of_its_code(details: bytes | None) -> None:
    trailers = grpc.aio.Metadata(*([(STATUS_DETAILS_KEY, details)] if details else []))
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers, "connection refused"
    )
    assert errors.from_rpc_error(error).reason == "DEPENDENCY_UNAVAILABLE"


@pytest.mark.parametrize(
    ("make", "retryable"),
    [
        (errors.unavailable, True),
        (errors.resource_exhausted, True),
        (errors.aborted, True),
        (errors.invalid_argument, False),
        (errors.internal, False),
        (errors.deadline_exceeded, False),
    ],
)
def test_which_errors_a_retry_may_cure(make: errors.Constructor, retryable: bool) -> None:
    assert make("INTERNAL", "x").retryable is retryable


def test_long_texts_are_cut_before_they_burst_the_trailers() -> None:
    error = errors.internal("INTERNAL", "m" * 100_000, value="v" * 100_000)
    assert len(error.to_status().SerializeToString()) < 4096


def test_every_reason_of_the_tables_is_in_the_contract() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name in list(error_pb2.ErrorReason.keys())}
    used = {sqlstate.lookup(code).reason for code in sqlstate.known()}
    used |= set(errors.default_reasons().values())
    assert used <= known
