"""What database errors mean to callers."""

import grpc
import psycopg
import pytest
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from atlas_common import sqlstate


def raised(code: str) -> psycopg.Error:
    try:
        error = psycopg.errors.lookup(code)("row (secret)")
    except KeyError:
        error = psycopg.DatabaseError("row (secret)")
        error.sqlstate = code
    return error


@pytest.mark.parametrize(
    ("code", "status", "reason", "retryable"),
    [
        ("40001", "ABORTED", "OVERLOADED", True),
        ("40P01", "ABORTED", "OVERLOADED", True),
        ("40003", "UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", False),
        ("55P03", "ABORTED", "OVERLOADED", True),
        ("57014", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", True),
        ("57P01", "UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", True),
        ("57P02", "UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", True),
        ("57P03", "UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", True),
        ("53100", "RESOURCE_EXHAUSTED", "OVERLOADED", True),
        ("53300", "RESOURCE_EXHAUSTED", "OVERLOADED", True),
        ("08006", "UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", True),
        ("25006", "UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", True),
        ("42501", "PERMISSION_DENIED", "PERMISSION_DENIED", False),
        ("42P01", "INTERNAL", "INTERNAL", False),
        ("23505", "ALREADY_EXISTS", "INVALID_FIELD", False),
        ("23514", "FAILED_PRECONDITION", "INVALID_FIELD", False),
        ("22003", "INVALID_ARGUMENT", "VALUE_OUT_OF_RANGE", False),
        ("22021", "INVALID_ARGUMENT", "TEXT_HAS_NUL", False),
        ("AT001", "UNAVAILABLE", "FRESHNESS_UNMET", True),
        ("AT002", "FAILED_PRECONDITION", "POSITION_LOST", False),
        ("XX000", "INTERNAL", "INTERNAL", False),
    ],
)
def test_the_table(code: str, status: str, reason: str, retryable: bool) -> None:
    error = sqlstate.to_service_error(raised(code))
    assert error is not None
    assert (error.code.name, error.reason) == (status, reason)
    assert sqlstate.lookup(code).retryable is retryable
    assert error.metadata["sqlstate"] == code
    assert "secret" not in error.message  # The server's text may hold another's values.


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (psycopg.OperationalError("connection refused"), grpc.StatusCode.UNAVAILABLE),
        (psycopg.InterfaceError("cursor closed"), grpc.StatusCode.INTERNAL),
        (psycopg.DataError("cannot contain NUL"), grpc.StatusCode.INVALID_ARGUMENT),
        (PoolTimeout("30 s"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (TooManyRequests("256 waiting"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (PoolClosed("closed"), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_errors_without_a_sqlstate(error: Exception, status: grpc.StatusCode) -> None:
    translated = sqlstate.to_service_error(error)
    assert translated is not None
    assert translated.code is status


def test_other_errors_are_not_the_databases() -> None:
    assert sqlstate.to_service_error(ValueError("x")) is None
