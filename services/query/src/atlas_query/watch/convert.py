"""Between the messages of WatchEntities and the domain."""

from collections.abc import Iterable, Iterator

from atlas.query.v1 import query_service_pb2 as pb
from atlas_common import errors
from atlas_common.token import TokenSigner
from atlas_common.values import datetime_to_us, us_to_timestamp
from atlas_query import convert
from atlas_query.store import PointRow, point_reading
from atlas_query.watch import resume
from atlas_query.watch.change import Change
from atlas_query.watch.watcher import Batch, Moment
from atlas_query.watch.watches import Watched

HEARTBEAT_SECONDS = 5.0
HEARTBEAT_SECONDS_MIN, HEARTBEAT_SECONDS_MAX = 0.1, 60.0


def heartbeat_seconds(request: pb.WatchEntitiesRequest) -> float:
    """How long a watch may be silent. Raises INVALID_ARGUMENT / INVALID_FIELD."""
    if not request.HasField("heartbeat_interval"):
        return HEARTBEAT_SECONDS
    seconds = convert.seconds(request.heartbeat_interval, "heartbeat_interval")
    if not HEARTBEAT_SECONDS_MIN <= seconds <= HEARTBEAT_SECONDS_MAX:
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"a heartbeat comes every {HEARTBEAT_SECONDS_MIN:g} to {HEARTBEAT_SECONDS_MAX:g} s,"
            f" not every {seconds:g} s",
            field="heartbeat_interval",
        )
    return seconds


def messages(
    batch: Batch, watched: Watched, tenant_id: int, signer: TokenSigner
) -> Iterator[pb.WatchEntitiesResponse]:
    """The messages of a batch: the last one has what to go on from."""
    message = pb.WatchEntitiesResponse(
        snapshot=batch.is_snapshot,
        snapshot_reason=batch.reason,
        coalesced_count=batch.left_out,
    )
    chunks = _chunks(batch.changes, watched)
    for chunk in chunks:
        if message.entities:
            yield message
            message = pb.WatchEntitiesResponse(snapshot=batch.is_snapshot)
        message.entities.extend(chunk)
    _close(message, batch.moment, tenant_id, signer)
    yield message


def _close(
    message: pb.WatchEntitiesResponse, moment: Moment, tenant_id: int, signer: TokenSigner
) -> None:
    message.token = signer.seal(tenant_id, moment.positions)
    if moment.floor is not None:
        message.resume_token = resume.seal(signer, tenant_id, moment.positions, moment.floor)
    if moment.as_of is not None:
        message.as_of.CopyFrom(us_to_timestamp(datetime_to_us(moment.as_of)))


def _chunks(changes: Iterable[Change], watched: Watched) -> Iterator[list[pb.EntityState]]:
    """Entities with their readings, as many as fit into a message: by number and by size."""
    chunk: dict[int, pb.EntityState] = {}
    count = size = 0
    for change in changes:
        entity_id, attribute_id = change.pair
        row = PointRow(entity_id, attribute_id, change.rank.event_us, change.quality, change.values)
        reading = convert.reading(point_reading(row, watched.attributes[attribute_id]))
        reading_size = reading.ByteSize()
        if count >= convert.MESSAGE_READINGS_MAX or (
            count and size + reading_size > convert.MESSAGE_BYTES_MAX
        ):
            yield list(chunk.values())
            chunk, count, size = {}, 0, 0
        state = chunk.get(entity_id)
        if state is None:
            state = pb.EntityState(entity_key=watched.keys[entity_id], entity_id=entity_id)
            chunk[entity_id] = state
        state.readings.append(reading)
        count, size = count + 1, size + reading_size
    if chunk:
        yield list(chunk.values())
