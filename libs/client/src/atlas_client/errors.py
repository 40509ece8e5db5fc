"""What a refused call looks like to the caller."""

from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from atlas.type.v1 import error_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class AtlasError(Exception):
    """A call that the platform refused, or could not answer.

    `code` is gRPC's; `reason` is one of atlas.type.v1.ErrorReason without its prefix
    ("TYPE_MISMATCH"), empty when the answer did not come from a service (it is away, for example).
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        """The request's field that is wrong."""
        self.metadata = dict(metadata or {})
        """Particulars; x-request-id and the like."""
        self.retry_after = retry_after
        """Seconds after which a repetition may help, when the service said so."""

    def __str__(self) -> str:
        label = f"{self.code.name}/{self.reason}" if self.reason else self.code.name
        where = f" ({self.field})" if self.field else ""
        return f"{label}{where}: {self.message}"

    @property
    def is_transient(self) -> bool:
        """Say whether the same call may well succeed in a moment."""
        if self.reason in _DECIDED:
            return False
        match self.code:
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.ABORTED:
                return True
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                # gRPC itself says so of a message that is too large, and that will not get better.
                return self.retry_after is not None or self.reason == "OVERLOADED"
            case grpc.StatusCode.CANCELLED:
                # Our own cancellation is asyncio.CancelledError and never gets here: this is a
                # server that was stopped while it worked on the call.
                return not self.reason
        return False

    @classmethod
    def from_rpc(cls, error: grpc.aio.AioRpcError) -> "AtlasError":
        """Decode the google.rpc.Status in an RPC's trailers."""
        status = _status(error)
        reason, field, retry_after = "", None, None
        metadata: dict[str, str] = {}
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            bad = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad) and bad.field_violations:
                field = bad.field_violations[0].field
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        message = status.message or error.details() or "no particulars"
        return cls(
            error.code(), reason, message, field=field, metadata=metadata, retry_after=retry_after
        )


# Refusals whose code would allow another try, but whose reason says that the service has already
# waited as long as the caller allowed, or was told not to.
_DECIDED = frozenset({"FRESHNESS_UNMET"})


def reason_name(reason: error_pb2.ErrorReason.ValueType) -> str:
    """Return a reason's name without its prefix; its number if this client does not know it."""
    try:
        return error_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    except ValueError:
        return str(int(reason))


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    # By hand instead of by rpc_status.from_call(), which raises when a proxy changed the code.
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()
