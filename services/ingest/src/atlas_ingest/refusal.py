"""The status of a batch that is refused as a whole."""

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from atlas_common.errors import ServiceError
from atlas_ingest.points import Rejections

# A status travels in an HTTP/2 trailer, in base64; peers cap all trailers at 8 KiB.
_VIOLATIONS_BYTES_MAX = 3_500


class BatchRefusedError(ServiceError):
    """INVALID_ARGUMENT: the first error in words and metadata, as many as fit as violations."""

    def __init__(
        self,
        rejections: Rejections,
        entity_key: str,
        attribute: str,
        *,
        of: str = "points",
        outcome: str = "nothing was stored",
    ) -> None:
        first = rejections.errors[0]
        more = f" (and {rejections.count - 1} more {of})" if rejections.count > 1 else ""
        super().__init__(
            grpc.StatusCode.INVALID_ARGUMENT,
            first.reason,
            f"{of}[{first.index}]: {first.message}{more}; {outcome}",
            field=f"{of}[{first.index}].{first.field}",
            index=first.index,
            entity_key=entity_key[:64],
            attribute=attribute[:64],
            rejected_count=rejections.count,
        )
        self.rejections = rejections
        self._of = of

    def to_status(self) -> status_pb2.Status:
        """As ServiceError, with the violations of all reported points in BadRequest."""
        status = super().to_status()
        bad_request = error_details_pb2.BadRequest()
        for error in self.rejections.errors:
            bad_request.field_violations.add(
                field=f"{self._of}[{error.index}].{error.field}",
                description=error.message,
                reason=error.reason,
            )
            if bad_request.ByteSize() > _VIOLATIONS_BYTES_MAX:
                del bad_request.field_violations[-1]
                break
        for detail in status.details:
            if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR) and bad_request.field_violations:
                packed = any_pb2.Any()
                packed.Pack(bad_request)
                detail.CopyFrom(packed)
        return status
