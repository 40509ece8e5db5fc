"""Messages to domain and back, for streams and their producers."""

from collections.abc import Sequence
from dataclasses import dataclass

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import error_pb2
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.limits import check_bytes, check_items
from atlas_common.values import datetime_to_us, us_to_timestamp
from atlas_ingest import convert
from atlas_ingest.columns import Columns
from atlas_ingest.doors.window import Credit
from atlas_ingest.points import Ack, PointError, ProducerSequence
from atlas_ingest.row_points import RowPoints
from atlas_ingest.store import ProducerRow
from atlas_ingest.validate import entity_key_problem
from atlas_ingest.write import Write


@dataclass(frozen=True, slots=True)
class StreamStart:
    """What a stream is opened with; `producer_id` is empty where batches are not repeatable."""

    producer_id: str
    ack: Ack
    partial_success: bool
    default_entity_key: str


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of a batch; `refused` as a whole, then `errors` say why."""

    sequence: int
    accepted_count: int = 0
    rejected_count: int = 0
    errors: Sequence[PointError] = ()
    duplicate: bool = False
    refused: ServiceError | None = None


def start_of(request: pb.WriteStreamRequest) -> StreamStart:
    """The first message of a stream. Raises ServiceError INVALID_ARGUMENT."""
    if request.WhichOneof("kind") != "start":
        raise errors.invalid_argument(
            "INVALID_FIELD", "the first message of a stream is its start", field="start"
        )
    start = request.start
    check_producer_id(start)
    ack = convert.ack_of(start.ack)
    if ack is None:
        raise errors.invalid_argument(
            "INVALID_FIELD", f"ack {start.ack} is no level known here", field="start.ack"
        )
    _check_key(start.default_entity_key, "start.default_entity_key")
    return StreamStart(start.producer_id, ack, start.partial_success, start.default_entity_key)


def check_producer_id(
    message: pb.WriteStreamStart | pb.GetProducerPositionRequest, *, required: bool = False
) -> None:
    """Raises ServiceError INVALID_ARGUMENT / INVALID_FIELD."""
    check_bytes(message, "producer_id", required=required)
    if not message.producer_id.isprintable():
        raise errors.invalid_argument(
            "INVALID_FIELD", "producer_id has control characters", field="producer_id"
        )


def batch_of(request: pb.WriteStreamRequest) -> pb.WriteStreamBatch:
    """Any other message of a stream. Raises ServiceError INVALID_ARGUMENT."""
    if request.WhichOneof("kind") != "batch":
        raise errors.invalid_argument(
            "INVALID_FIELD", "after its start a stream has batches alone", field="batch"
        )
    return request.batch


def batch_problem(batch: pb.WriteStreamBatch) -> ServiceError | None:
    """Why the batch cannot even be looked at; None if it can."""
    try:
        check_items(batch, "points")
        _check_key(batch.default_entity_key, "batch.default_entity_key")
    except ServiceError as error:
        return error
    return None


def write_of(
    batch: pb.WriteStreamBatch, start: StreamStart, now_us: int, *, size_bytes: int, empty: bool
) -> Write:
    """The batch in columns; `empty`: it is refused, and only uses up its sequence."""
    columns: Columns = (
        RowPoints.empty() if empty else convert.columns_of(batch, now_us, start.default_entity_key)
    )
    return Write(
        columns=columns,
        size_bytes=size_bytes,
        partial_success=start.partial_success,
        ack=start.ack,
        producer=ProducerSequence(start.producer_id, batch.sequence) if start.producer_id else None,
    )


def started(position: int, token: bytes, credit: Credit) -> pb.WriteStreamResponse:
    """The answer to a start."""
    return pb.WriteStreamResponse(
        started=pb.WriteStreamStarted(position=position), token=token, credit=_credit(credit)
    )


def acknowledged(
    outcomes: Sequence[BatchOutcome], token: bytes, credit: Credit | None
) -> pb.WriteStreamResponse:
    """Acknowledgements, all under one token; the credit if it has changed."""
    return pb.WriteStreamResponse(
        acks=map(_ack, outcomes), token=token, credit=None if credit is None else _credit(credit)
    )


def position_response(row: ProducerRow | None, token: bytes) -> pb.GetProducerPositionResponse:
    """How far a producer is stored."""
    if row is None:
        return pb.GetProducerPositionResponse()
    return pb.GetProducerPositionResponse(
        position=row.sequence,
        store_time=us_to_timestamp(datetime_to_us(row.stored_at)),
        token=token,
    )


def _credit(credit: Credit) -> pb.WriteStreamCredit:
    return pb.WriteStreamCredit(batches=credit.batches, points=credit.points)


def _ack(outcome: BatchOutcome) -> pb.BatchAck:
    ack = pb.BatchAck(
        sequence=outcome.sequence,
        accepted_count=outcome.accepted_count,
        rejected_count=outcome.rejected_count,
        errors=map(convert.error_message, outcome.errors),
        duplicate=outcome.duplicate,
    )
    if outcome.refused is not None:
        ack.refused = error_pb2.ErrorReason.Value(f"ERROR_REASON_{outcome.refused.reason}")
        ack.message = outcome.refused.message
    return ack


def _check_key(key: str, field: str) -> None:
    problem = entity_key_problem(key) if key else None
    if problem is not None:
        raise errors.invalid_argument("ENTITY_KEY_INVALID", f"{field} {problem}", field=field)
