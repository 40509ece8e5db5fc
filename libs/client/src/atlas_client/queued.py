"""Writes for a topic or a queue instead of a call: bytes, to be published with any client."""

from collections.abc import Iterable

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_client import convert
from atlas_client.records import Point


def queued_write(tenant: str, points: Iterable[Point], *, request_id: str = "") -> bytes:
    """One message for the topic that ingest reads; in base64 it is the body for its SQS queue.

    At most 10,000 points. The good ones are stored; if there are others, the message is kept as a
    dead letter. With a `request_id` it is stored once, through whichever door it comes; without
    one, once per offset or MessageId. Points without a time get the message's.

    Raises TypeError and ValueError for values that no attribute can have.
    """
    write = pb.WriteRequest(request_id=request_id, points=map(convert.point, points))
    return pb.QueuedWrite(tenant=tenant, write=write).SerializeToString()
