"""Messages of WriteArrow to domain and back. The one place where the two meet."""

import hashlib
from dataclasses import dataclass

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_common import errors
from atlas_ingest import convert
from atlas_ingest.arrow import Defaults
from atlas_ingest.doors.arrow_totals import Totals
from atlas_ingest.doors.requests import check_default_entity_key, check_request_id
from atlas_ingest.points import Ack

# Callers' ids have no control characters, so no id of a part is a caller's.
_PART = "\x1f"


@dataclass(frozen=True, slots=True)
class Start:
    """What holds for a whole stream. `prefix`: what is hashed of it with each message."""

    request_id: str
    ack: Ack
    partial_success: bool
    validate_only: bool
    default_entity_key: str
    default_event_time_us: int | None
    prefix: bytes

    def defaults(self, now_us: int) -> Defaults:
        """What rows of a message that came now leave out."""
        given = self.default_event_time_us
        return Defaults(self.default_entity_key, now_us if given is None else given)

    def part_id(self, number: int) -> str:
        """The request id of a message, by its number from 1 on; empty if it is not repeatable."""
        return f"{self.request_id}{_PART}{number}" if self.request_id else ""

    def body_hash(self, ipc_stream: bytes) -> bytes:
        """The hash of all that decides what is stored of a message."""
        if not self.request_id:
            return b""
        return hashlib.sha256(self.prefix + ipc_stream).digest()


def start_of(request: pb.WriteArrowRequest | None) -> Start:
    """The start, checked; None: the stream was empty. Raises ServiceError INVALID_ARGUMENT.

    Consumes the request: its `ack` is cleared.
    """
    if request is None or request.WhichOneof("kind") != "start":
        raise errors.invalid_argument(
            "INVALID_FIELD", "the first message has to be a start", field="start"
        )
    start = request.start
    ack = convert.ack_of(start.ack)
    if ack is None:
        raise errors.invalid_argument(
            "INVALID_FIELD", f"ack {start.ack} is no level known here", field="start.ack"
        )
    check_request_id(start)
    check_default_entity_key(start)
    start.ClearField("ack")
    given = start.HasField("default_event_time_us")
    return Start(
        request_id=start.request_id,
        ack=ack,
        partial_success=start.partial_success,
        validate_only=start.validate_only,
        default_entity_key=start.default_entity_key,
        default_event_time_us=start.default_event_time_us if given else None,
        prefix=hashlib.sha256(start.SerializeToString(deterministic=True)).digest(),
    )


def ipc_stream_of(request: pb.WriteArrowRequest) -> bytes:
    """The bytes of a later message. Raises ServiceError INVALID_ARGUMENT."""
    if request.WhichOneof("kind") != "ipc_stream":
        raise errors.invalid_argument(
            "INVALID_FIELD",
            "a message behind the start has to be an ipc_stream",
            field="ipc_stream",
        )
    return request.ipc_stream


def response_of(totals: Totals, *, token: bytes, ack: Ack) -> pb.WriteArrowResponse:
    """What the caller is told of the whole stream."""
    response = pb.WriteArrowResponse(
        token=token,
        accepted_count=totals.accepted,
        rejected_count=totals.rejections.count,
        ack=convert.ack_level(ack),
        duplicate_messages=totals.duplicate_messages,
    )
    response.errors.extend(map(convert.error_message, totals.rejections.errors))
    return response
