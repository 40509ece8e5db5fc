"""What a database error means to the caller: one table, looked up by SQLSTATE or its class."""

from dataclasses import dataclass

import psycopg
from grpc import StatusCode
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from atlas_common.errors import ServiceError

BEHIND = "AT001"
POSITION_LOST = "AT002"


@dataclass(frozen=True, slots=True)
class Meaning:
    """How an error is reported, and whether the whole transaction may simply be run again."""

    code: StatusCode
    reason: str
    retryable: bool
    message: str
    retry_after_seconds: float | None = None


_AWAY = Meaning(StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE", True, "the database is away", 0.5)
_CONFLICT = Meaning(
    StatusCode.ABORTED, "OVERLOADED", True, "the database gave up on a conflict", 0.05
)
_FULL = Meaning(
    StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", True, "the database is out of resources", 1.0
)
_BUSY = Meaning(
    StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", True, "all database connections are busy", 0.25
)
_BUG = Meaning(StatusCode.INTERNAL, "INTERNAL", False, "internal error")

# The longest match wins: five characters before two. Messages are ours: the server's own text may
# hold another caller's values (constraint details, row images) and stays in the log.
_TABLE = {
    BEHIND: Meaning(
        StatusCode.UNAVAILABLE, "FRESHNESS_UNMET", True, "this copy has not caught up yet", 0.1
    ),
    POSITION_LOST: Meaning(
        StatusCode.FAILED_PRECONDITION,
        "POSITION_LOST",
        False,
        "a failover lost what the token stands for: go on without it, and write again what is"
        " missing",
    ),
    "08": _AWAY,
    "22": Meaning(
        StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", False, "a value the database cannot hold"
    ),
    "22003": Meaning(
        StatusCode.INVALID_ARGUMENT, "VALUE_OUT_OF_RANGE", False, "a number is out of range"
    ),
    "22021": Meaning(
        StatusCode.INVALID_ARGUMENT, "TEXT_HAS_NUL", False, "a text holds a byte it may not"
    ),
    "22P05": Meaning(
        StatusCode.INVALID_ARGUMENT, "TEXT_HAS_NUL", False, "a JSON value holds U+0000"
    ),
    "23": Meaning(
        StatusCode.FAILED_PRECONDITION, "INVALID_FIELD", False, "a constraint refuses the change"
    ),
    "23505": Meaning(StatusCode.ALREADY_EXISTS, "INVALID_FIELD", False, "it exists already"),
    "25006": _AWAY,  # Read only: demoted under us; the next connection finds the new primary.
    "25P03": _AWAY,  # Idle in transaction for too long: the server closed the session.
    "40": _CONFLICT,
    "40001": _CONFLICT,  # Serialization failure; on a replica also a conflict with recovery.
    "40003": Meaning(  # The commit may have happened: only an idempotent caller may go again.
        StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE", False, "the outcome is not known"
    ),
    "40P01": _CONFLICT,
    "42": _BUG,
    "42501": Meaning(
        StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", False, "the service may not do this"
    ),
    "53": _FULL,
    "53300": _BUSY,
    "54": Meaning(StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE", False, "too large a request"),
    "55006": _CONFLICT,  # Object in use.
    "55P03": _CONFLICT,  # lock_timeout.
    "57014": Meaning(  # statement_timeout, or cancelled for us.
        StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", True, "the statement ran too long"
    ),
    "57P01": _AWAY,
    "57P02": _AWAY,
    "57P03": _AWAY,
    "57P04": _BUG,
    "57P05": _AWAY,
    "58": _AWAY,
}


def lookup(sqlstate: str) -> Meaning:
    """The meaning of a five-character SQLSTATE; an unknown one is INTERNAL."""
    return _TABLE.get(sqlstate) or _TABLE.get(sqlstate[:2]) or _BUG


def to_service_error(error: BaseException) -> ServiceError | None:
    """The caller's view of a psycopg or pool error; None if it is neither."""
    meaning = _meaning(error)
    if meaning is None:
        return None
    sqlstate = getattr(error, "sqlstate", None)
    return ServiceError(
        meaning.code,
        meaning.reason,
        meaning.message,
        retry_after=meaning.retry_after_seconds,
        **({"sqlstate": sqlstate} if sqlstate else {}),
    )


def _meaning(error: BaseException) -> Meaning | None:
    if isinstance(error, PoolTimeout | TooManyRequests):
        return _BUSY
    if isinstance(error, PoolClosed):
        return _AWAY
    if not isinstance(error, psycopg.Error):
        return None
    if error.sqlstate:
        return lookup(error.sqlstate)
    if isinstance(error, psycopg.DataError):  # Not even sent: a text with U+0000, for example.
        return lookup("22000")
    # Without a SQLSTATE the server never answered: refused, reset, closed under us.
    return _AWAY if isinstance(error, psycopg.OperationalError) else _BUG


def known() -> tuple[str, ...]:
    """The SQLSTATEs and classes of the table."""
    return tuple(_TABLE)
