"""Messages to domain and back, for telemetry. The one place where the two meet."""

import hashlib
from typing import Any

from google.protobuf import duration_pb2

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import error_pb2, value_pb2
from atlas_common.values import DataType, datetime_to_us, us_to_timestamp
from atlas_ingest import wire
from atlas_ingest.arrow import Defaults
from atlas_ingest.columns import Columns
from atlas_ingest.points import Ack, Answer, PointError
from atlas_ingest.row_points import RowPoints
from atlas_ingest.status import LaneStatus, StagingStatus
from atlas_ingest.write import Write

_TYPES: dict[str | None, DataType | None] = {
    None: None,
    **{f"{data_type}_value": data_type for data_type in DataType},
}
_ACKS: dict[int, Ack] = {
    pb.ACK_LEVEL_UNSPECIFIED: Ack.DURABLE,
    pb.ACK_LEVEL_STAGED: Ack.STAGED,
    pb.ACK_LEVEL_COMMITTED: Ack.COMMITTED,
    pb.ACK_LEVEL_DURABLE: Ack.DURABLE,
}
_ACK_LEVELS = {
    Ack.STAGED: pb.ACK_LEVEL_STAGED,
    Ack.COMMITTED: pb.ACK_LEVEL_COMMITTED,
    Ack.DURABLE: pb.ACK_LEVEL_DURABLE,
}
_REASON_PREFIX = "ERROR_REASON_"


def ack_of(level: int) -> Ack | None:
    """The level asked for; None for one of a newer contract."""
    return _ACKS.get(level)


def ack_level(ack: Ack) -> pb.AckLevel.ValueType:
    """The level that is answered."""
    return _ACK_LEVELS[ack]


def write_of(request: pb.WriteRequest, ack: Ack, now_us: int) -> Write:
    """The batch in columns. `now_us` stands in for event times that are not given.

    Consumes the request: its `ack` is cleared.
    """
    body = _body(request) if request.request_id else b""
    return Write(
        columns=columns_of(request, now_us, message=body),
        request_id=request.request_id,
        body_hash=hashlib.sha256(body).digest() if body else b"",
        size_bytes=request.ByteSize(),
        partial_success=request.partial_success,
        validate_only=request.validate_only,
        ack=ack,
    )


def write_response(answer: Answer, *, token: bytes, ack: Ack, duplicate: bool) -> pb.WriteResponse:
    """What the caller is told."""
    response = pb.WriteResponse(
        token=token,
        accepted_count=answer.accepted_count,
        rejected_count=answer.rejected_count,
        ack=ack_level(ack),
        duplicate=duplicate,
    )
    response.errors.extend(map(error_message, answer.errors))
    return response


def encode_answer(answer: Answer) -> bytes:
    """The answer as the ledger keeps it."""
    kept = pb.WriteResponse(
        accepted_count=answer.accepted_count, rejected_count=answer.rejected_count
    )
    kept.errors.extend(map(error_message, answer.errors))
    return kept.SerializeToString()


def decode_answer(kept: bytes) -> Answer:
    """An answer that the ledger kept."""
    response = pb.WriteResponse.FromString(kept)
    return Answer(
        accepted_count=response.accepted_count,
        rejected_count=response.rejected_count,
        errors=tuple(map(_point_error, response.errors)),
    )


def columns_of(
    request: pb.WriteRequest | pb.WriteStreamBatch,
    now_us: int,
    default_key: str = "",
    *,
    message: bytes = b"",
) -> Columns:
    """The points in columns, with what they leave out filled in.

    `message`: the request serialized, if that has been done already.
    """
    if len(request.points) >= wire.POINTS_MIN:
        message = message or request.SerializeToString()
        columns = wire.read(message, _defaults(request, now_us, default_key))
        if columns is not None:
            return columns
    return row_points(request, now_us, default_key)


def row_points(
    request: pb.WriteRequest | pb.WriteStreamBatch, now_us: int, default_key: str = ""
) -> RowPoints:
    """The same one by one, whatever there is in the points.

    One pass over them: these fields are all that is ever read of them.
    """
    defaults = _defaults(request, now_us, default_key)
    default_key, default_time_us = defaults.entity_key, defaults.event_time_us
    columns = RowPoints.empty()
    add_key, add_attribute = columns.entity_keys.append, columns.attributes.append
    add_time, add_quality = columns.event_times_us.append, columns.qualities.append
    add_type, add_value = columns.types.append, columns.values.append
    for point in request.points:
        add_key(point.entity_key or default_key)
        add_attribute(point.attribute)
        time_us = point.event_time_us
        # An unset time reads as 0, so only a 0 has to be asked whether it is one.
        add_time(time_us if time_us or point.HasField("event_time_us") else default_time_us)
        add_quality(point.quality)
        kind = point.WhichOneof("value")
        data_type = _TYPES[kind]
        add_type(data_type)
        add_value(_value(point, kind, data_type))
    return columns


def _defaults(
    request: pb.WriteRequest | pb.WriteStreamBatch, now_us: int, default_key: str
) -> Defaults:
    given = request.HasField("default_event_time_us")
    return Defaults(
        entity_key=request.default_entity_key or default_key,
        event_time_us=request.default_event_time_us if given else now_us,
    )


def _value(point: value_pb2.Point, kind: str | None, data_type: DataType | None) -> Any:
    if kind is None:
        return None
    if data_type is DataType.TIME:
        return point.time_value.seconds, point.time_value.nanos
    return getattr(point, kind)


def _body(request: pb.WriteRequest) -> bytes:
    """All that decides what is stored, to be hashed: the level of the answer does not.

    An unset default_event_time_us stays unset in it, so a repeated request has the same hash
    although "now" has moved on.
    """
    request.ClearField("ack")
    return request.SerializeToString(deterministic=True)


def error_message(error: PointError) -> pb.PointError:
    return pb.PointError(
        index=error.index,
        reason=error_pb2.ErrorReason.Value(_REASON_PREFIX + error.reason),
        field=error.field,
        message=error.message,
    )


def _point_error(message: pb.PointError) -> PointError:
    name = error_pb2.ErrorReason.Name(message.reason)
    return PointError(
        message.index, name.removeprefix(_REASON_PREFIX), message.field, message.message
    )


def staging_response(status: StagingStatus) -> pb.GetStagingStatusResponse:
    """What waits in staging."""
    return pb.GetStagingStatusResponse(
        lanes=map(_lane_message, status.lanes),
        pending_points=status.pending_points,
        pending_points_max=status.pending_points_max,
        flushed_points_total=status.flushed_points,
        rejected_points_total=status.rejected_points,
        last_flush_duration=_duration(status.last_flush_seconds),
    )


def _lane_message(lane: LaneStatus) -> pb.LaneStatus:
    row = lane.row
    return pb.LaneStatus(
        lane=row.lane,
        owned=lane.is_ours,
        epoch=row.epoch,
        sequence=row.sequence,
        flush_time=us_to_timestamp(datetime_to_us(row.flushed_at)),
        staged_points=row.staged_points,
        staged_bytes=row.staged_bytes,
        oldest_age=_duration(lane.oldest_age_seconds),
        reason=lane.reason,
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    whole, nanoseconds = divmod(max(0, round(seconds * 1e9)), 1_000_000_000)
    return duration_pb2.Duration(seconds=whole, nanos=nanoseconds)
