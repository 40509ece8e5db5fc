"""How a call fails: with a `ServiceError`, which the chain turns into google.rpc.Status."""

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

REASONS_DOMAIN = "atlas"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

_MESSAGE_CHARS_MAX = 1024  # Statuses travel in HTTP/2 trailers, which peers cap at 8 KiB in total.
_METADATA_CHARS_MAX = 256
_RETRYABLE = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED}
)
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class FatalError(Exception):
    """This process must not go on: wrong rights, wrong schema. Never retried; ends `serve()`."""


class ServiceError(Exception):
    """A call's failure as its caller shall see it.

    `reason` is a name of `atlas.type.v1.ErrorReason` without its prefix, `field` the request field
    at fault, `retry_after` is in seconds, `metadata` becomes ErrorInfo.metadata, as text.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        **metadata: str | int | float,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message[:_MESSAGE_CHARS_MAX]
        self.field = field
        self.retry_after = retry_after
        self.metadata = {key: str(value)[:_METADATA_CHARS_MAX] for key, value in metadata.items()}

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason}: {self.message}"

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed when it is made again later."""
        return self.code in _RETRYABLE

    def to_status(self) -> status_pb2.Status:
        """The status with ErrorInfo and, where they apply, BadRequest and RetryInfo."""
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=REASONS_DOMAIN, metadata=self.metadata
        )
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.append(_packed(info))
        if self.field is not None:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message, reason=self.reason
            )
            status.details.append(
                _packed(error_details_pb2.BadRequest(field_violations=[violation]))
            )
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self.retry_after * 1e9))
            status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        return status


def from_rpc_error(error: grpc.aio.AioRpcError) -> ServiceError:
    """A peer's error with the reason, field, delay and metadata that its status carries.

    A status without our ErrorInfo (made by gRPC itself: no connection, deadline) gets the reason
    that its code stands for.
    """
    code, message = error.code(), error.details() or ""
    status = _status_of(error)
    if status is None:
        return ServiceError(code, _DEFAULT_REASONS.get(code, "INTERNAL"), message)
    reason, metadata = _DEFAULT_REASONS.get(code, "INTERNAL"), dict[str, str]()
    field: str | None = None
    retry_after: float | None = None
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == REASONS_DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    relayed = ServiceError(code, reason, message, field=field, retry_after=retry_after)
    relayed.metadata = metadata  # Not as keywords: a peer may use names that are ours.
    return relayed


def status_code(number: int) -> grpc.StatusCode:
    """The gRPC code with this number; UNKNOWN for a number that is none."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


_DEFAULT_REASONS = {
    grpc.StatusCode.UNAVAILABLE: "DEPENDENCY_UNAVAILABLE",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "OVERLOADED",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_FIELD",
    grpc.StatusCode.PERMISSION_DENIED: "PERMISSION_DENIED",
}


def default_reasons() -> dict[grpc.StatusCode, str]:
    """The reason that a code without our ErrorInfo stands for."""
    return dict(_DEFAULT_REASONS)


def _packed(message: error_details_pb2.ErrorInfo | object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)  # type: ignore[arg-type]
    return packed


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


class Constructor:
    """Makes errors of one code; `errors.not_found("ENTITY_UNKNOWN", "no entity 'x'")`."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def __call__(
        self,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        **metadata: str | int | float,
    ) -> ServiceError:
        return ServiceError(
            self._code, reason, message, field=field, retry_after=retry_after, **metadata
        )


invalid_argument = Constructor(grpc.StatusCode.INVALID_ARGUMENT)
not_found = Constructor(grpc.StatusCode.NOT_FOUND)
already_exists = Constructor(grpc.StatusCode.ALREADY_EXISTS)
failed_precondition = Constructor(grpc.StatusCode.FAILED_PRECONDITION)
permission_denied = Constructor(grpc.StatusCode.PERMISSION_DENIED)
unauthenticated = Constructor(grpc.StatusCode.UNAUTHENTICATED)
resource_exhausted = Constructor(grpc.StatusCode.RESOURCE_EXHAUSTED)
unavailable = Constructor(grpc.StatusCode.UNAVAILABLE)
aborted = Constructor(grpc.StatusCode.ABORTED)
deadline_exceeded = Constructor(grpc.StatusCode.DEADLINE_EXCEEDED)
out_of_range = Constructor(grpc.StatusCode.OUT_OF_RANGE)
unimplemented = Constructor(grpc.StatusCode.UNIMPLEMENTED)
internal = Constructor(grpc.StatusCode.INTERNAL)
