"""QueuedWrite to the domain: the bytes of a message become a tenant's key and a batch."""

from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_common.errors import ServiceError
from atlas_common.tenant import check_tenant_key
from atlas_ingest import convert
from atlas_ingest.doors.requests import check_write
from atlas_ingest.points import Ack
from atlas_ingest.sources.message import PoisonError
from atlas_ingest.write import Write

MESSAGE_BYTES_MAX = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Queued:
    """A message that reads as a write."""

    tenant_key: str
    write: Write


def decode(raw: bytes, sent_us: int) -> Queued:
    """The write in the message; `sent_us` stands in for event times that are not given.

    Whatever the message says of ack, validate_only and partial_success: a queue has nobody who
    waits for an answer, so what is good is stored, durably. Raises PoisonError.
    """
    if len(raw) > MESSAGE_BYTES_MAX:
        raise PoisonError(
            "BATCH_TOO_LARGE",
            f"the message has {len(raw)} bytes, at most {MESSAGE_BYTES_MAX} are read: split it",
        )
    try:
        message = pb.QueuedWrite.FromString(raw)
    except DecodeError:
        raise PoisonError(
            "INVALID_FIELD", "the message is not an atlas.ingest.v1.QueuedWrite"
        ) from None
    tenant_key = ""
    try:
        tenant_key = check_tenant_key(message.tenant)
        check_write(message.write)
    except ServiceError as error:
        raise PoisonError(error.reason, error.message, tenant_key=tenant_key) from None
    write = convert.write_of(message.write, Ack.DURABLE, sent_us)
    return Queued(tenant_key, replace(write, partial_success=True, validate_only=False))


def encode(tenant_key: str, request: pb.WriteRequest) -> bytes:
    """The message that `decode` reads."""
    return pb.QueuedWrite(tenant=tenant_key, write=request).SerializeToString()
