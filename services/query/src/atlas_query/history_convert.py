"""Between the messages of histories and the domain."""

from collections.abc import Iterator

from atlas.query.v1 import query_service_pb2 as pb
from atlas_common import errors
from atlas_common.limits import check_items
from atlas_common.values import to_proto
from atlas_query.buckets import BucketFunction, BucketReading, Downsampling
from atlas_query.convert import chunks, reading_chunks
from atlas_query.downsampled import BucketPart
from atlas_query.reads import HistoryPart

BUCKET_US_MAX = 100 * 366 * 86_400 * 1_000_000

_FUNCTIONS = {
    pb.BUCKET_FUNCTION_MIN: BucketFunction.MIN,
    pb.BUCKET_FUNCTION_MAX: BucketFunction.MAX,
    pb.BUCKET_FUNCTION_AVG: BucketFunction.AVG,
    pb.BUCKET_FUNCTION_LAST: BucketFunction.LAST,
    pb.BUCKET_FUNCTION_FIRST: BucketFunction.FIRST,
    pb.BUCKET_FUNCTION_COUNT: BucketFunction.COUNT,
}


def downsampling(message: pb.Downsample) -> Downsampling:
    """What to compute of which buckets. Raises INVALID_ARGUMENT: INVALID_FIELD, BATCH_TOO_LARGE."""
    check_items(message, "functions")
    if not message.functions:
        raise _invalid("downsample.functions", "name at least one function")
    for index, function in enumerate(message.functions):
        if function not in _FUNCTIONS:
            raise _invalid(f"downsample.functions[{index}]", f"there is no function {function}")
    bucket_us = message.bucket.seconds * 1_000_000 + message.bucket.nanos // 1_000
    if not 0 < bucket_us <= BUCKET_US_MAX:
        raise _invalid(
            "downsample.bucket", "a bucket is 1 microsecond to 100 years wide: give its width"
        )
    functions = tuple(_FUNCTIONS[function] for function in message.functions)
    return Downsampling(bucket_us, functions)


def history_messages(part: HistoryPart) -> Iterator[pb.GetHistoryResponse]:
    """The points of a part of a history, in messages of a bounded size."""
    for chunk in reading_chunks(part.readings):
        yield pb.GetHistoryResponse(readings=chunk)


def bucket_messages(part: BucketPart) -> Iterator[pb.GetHistoryResponse]:
    """The buckets of a part of a history, in messages of a bounded size."""
    for chunk in chunks(map(_bucket, part.buckets)):
        yield pb.GetHistoryResponse(buckets=chunk)


def _bucket(item: BucketReading) -> pb.Bucket:
    return pb.Bucket(
        attribute=item.attribute,
        bucket_time_us=item.bucket_us,
        results=[to_proto(*result) for result in item.results],
    )


def _invalid(field: str, message: str) -> errors.ServiceError:
    return errors.invalid_argument("INVALID_FIELD", message, field=field)
