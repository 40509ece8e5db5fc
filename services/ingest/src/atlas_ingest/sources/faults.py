"""Whose fault an error is: the message's, which is then given up, or the world's, which passes."""

import grpc

from atlas_common.errors import ServiceError
from atlas_ingest.sources.message import Refusal

FAILURES_MAX = 5
"""After so many tries a message that is suspect is given up."""

_FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.OUT_OF_RANGE,
}
_LIBRARIES = {"psycopg", "psycopg_pool", "cimpl", "botocore"}


def refusal_of(error: BaseException) -> Refusal | None:
    """Why the message can never be stored; None: it can, some other time."""
    if not isinstance(error, ServiceError) or _is_of_database(error):
        return None
    # A quota that is used up passes only if somebody raises it, and other tenants' messages wait.
    if error.code in _FAULTS or error.reason == "QUOTA_EXCEEDED":
        return Refusal(error.reason, error.message)
    return None


def is_suspect(error: BaseException) -> bool:
    """Whether it may be the message's fault, yet that of another message as well, or of our code.

    The database refuses a flush as a whole, also for what one message brought.
    """
    if isinstance(error, ServiceError):
        refused = error.code in _FAULTS or error.code is grpc.StatusCode.FAILED_PRECONDITION
        return refused and _is_of_database(error)
    return not isinstance(error, OSError) and not _is_of_library(error)


def given_up(error: BaseException, failures: int) -> Refusal:
    """The refusal of a suspect message after its last try."""
    reason = error.reason if isinstance(error, ServiceError) else "INTERNAL"
    said = error.message if isinstance(error, ServiceError) else type(error).__name__
    return Refusal(reason, f"{failures} tries failed: {said}")


def _is_of_database(error: ServiceError) -> bool:
    return "sqlstate" in error.metadata


def _is_of_library(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _LIBRARIES
