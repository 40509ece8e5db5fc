"""Between messages and indexes; the only place that knows both."""

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common.limits import check_bytes
from atlas_common.values import datetime_to_us, us_to_timestamp
from atlas_hotcache.indexing.store import AttributeIndex, Estimate, IndexState

_STATES = {
    IndexState.BUILDING: pb.ATTRIBUTE_INDEX_STATE_BUILDING,
    IndexState.READY: pb.ATTRIBUTE_INDEX_STATE_READY,
    IndexState.DROPPING: pb.ATTRIBUTE_INDEX_STATE_DROPPING,
    IndexState.FAILED: pb.ATTRIBUTE_INDEX_STATE_FAILED,
}


def attribute_name(
    request: pb.IndexAttributeRequest | pb.DropAttributeIndexRequest | pb.GetAttributeIndexRequest,
) -> str:
    """The name asked for. Raises ServiceError INVALID_ARGUMENT naming the field."""
    check_bytes(request, "attribute")
    return request.attribute


def index_message(index: AttributeIndex, attribute: str) -> pb.AttributeIndex:
    """An index of the attribute of this name."""
    return pb.AttributeIndex(
        attribute=attribute,
        state=_STATES[index.state],
        partition_count=index.partitions_total,
        partitions_done=index.partitions_done,
        byte_count=index.byte_count,
        message=index.message,
        create_time=us_to_timestamp(datetime_to_us(index.created_at)),
        update_time=us_to_timestamp(datetime_to_us(index.updated_at)),
    )


def estimate_message(estimate: Estimate, attribute: str) -> pb.AttributeIndex:
    """What a dry run answers."""
    return pb.AttributeIndex(
        attribute=attribute,
        partition_count=estimate.partition_count,
        scanned_point_estimate=estimate.scanned_points,
        indexed_point_estimate=estimate.indexed_points,
    )
