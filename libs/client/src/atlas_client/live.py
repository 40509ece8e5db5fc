"""Messages of downsampled histories, watches, waits and routes, to records and back."""

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta

import grpc.aio

from atlas.query.v1 import query_service_pb2 as query_pb2
from atlas.type.v1 import consistency_pb2
from atlas_client import convert, records
from atlas_client.call import Caller
from atlas_client.consistency import OnUnmet
from atlas_client.values import from_proto, from_us

BUCKET_FUNCTIONS = {
    records.BucketFunction.MIN: query_pb2.BUCKET_FUNCTION_MIN,
    records.BucketFunction.MAX: query_pb2.BUCKET_FUNCTION_MAX,
    records.BucketFunction.AVG: query_pb2.BUCKET_FUNCTION_AVG,
    records.BucketFunction.LAST: query_pb2.BUCKET_FUNCTION_LAST,
    records.BucketFunction.FIRST: query_pb2.BUCKET_FUNCTION_FIRST,
    records.BucketFunction.COUNT: query_pb2.BUCKET_FUNCTION_COUNT,
}
READ_KINDS = {
    records.ReadKind.LATEST_HOT: query_pb2.READ_KIND_LATEST_HOT,
    records.ReadKind.LATEST_ALL: query_pb2.READ_KIND_LATEST_ALL,
    records.ReadKind.FIND: query_pb2.READ_KIND_FIND,
    records.ReadKind.HISTORY: query_pb2.READ_KIND_HISTORY,
    records.ReadKind.AGGREGATE: query_pb2.READ_KIND_AGGREGATE,
}
_STATES = {
    query_pb2.POSITION_STATE_REACHED: records.PositionState.REACHED,
    query_pb2.POSITION_STATE_PENDING: records.PositionState.PENDING,
    query_pb2.POSITION_STATE_LOST: records.PositionState.LOST,
}
_ACTIONS = {
    query_pb2.ROUTE_ACTION_READ: records.RouteAction.READ,
    query_pb2.ROUTE_ACTION_WAIT: records.RouteAction.WAIT,
    query_pb2.ROUTE_ACTION_FAIL: records.RouteAction.FAIL,
}
_ON_UNMET = {
    consistency_pb2.ON_UNMET_WAIT: OnUnmet.WAIT,
    consistency_pb2.ON_UNMET_PRIMARY: OnUnmet.PRIMARY,
    consistency_pb2.ON_UNMET_FAIL: OnUnmet.FAIL,
}


def history_request(
    entity: str,
    bucket: timedelta,
    functions: Sequence[records.BucketFunction],
    attributes: Sequence[str],
) -> query_pb2.GetHistoryRequest:
    request = query_pb2.GetHistoryRequest(entity_key=entity, attributes=attributes)
    request.downsample.bucket.FromTimedelta(bucket)
    request.downsample.functions.extend(BUCKET_FUNCTIONS[each] for each in functions)
    return request


async def buckets(
    caller: Caller,
    method: grpc.aio.UnaryStreamMultiCallable[
        query_pb2.GetHistoryRequest, query_pb2.GetHistoryResponse
    ],
    request: query_pb2.GetHistoryRequest,
    functions: tuple[records.BucketFunction, ...],
    timeout: float | None,
) -> AsyncGenerator[records.Bucket | records.ReadMetadata, None]:
    """Without a limit, to the end, in as many calls as it takes."""
    while True:
        more = False
        async for answer in caller.stream(method, request, timeout=timeout):
            if answer.HasField("metadata"):
                yield convert.read_metadata(answer.metadata)
            for each in answer.buckets:
                yield bucket_record(each, functions)
            if answer.HasField("next_start_time"):
                more = True
                request.start_time.CopyFrom(answer.next_start_time)
        if request.limit or not more:
            return


def bucket_record(
    message: query_pb2.Bucket, functions: tuple[records.BucketFunction, ...]
) -> records.Bucket:
    results = (from_proto(each) for each in message.results)
    return records.Bucket(
        message.attribute,
        from_us(message.bucket_time_us),
        dict(zip(functions, results, strict=True)),
    )


def watch_event(message: query_pb2.WatchEntitiesResponse) -> records.WatchEvent:
    return records.WatchEvent(
        entities=tuple(convert.entity_state(each) for each in message.entities),
        snapshot=message.snapshot,
        snapshot_reason=message.snapshot_reason,
        resume_token=message.resume_token,
        token=message.token,
        as_of=convert.moment(message, "as_of"),
        coalesced_count=message.coalesced_count,
    )


def wait_request(
    token: bytes, tier: records.Source, endpoint: str, *, all_replicas: bool
) -> query_pb2.WaitForRequest:
    return query_pb2.WaitForRequest(
        token=token, tier=convert.SOURCES[tier], endpoint=endpoint, all_replicas=all_replicas
    )


def wait_result(message: query_pb2.WaitForResponse) -> records.WaitResult:
    waited = convert.span(message, "waited") or timedelta()
    return records.WaitResult(tuple(tier_state(each) for each in message.tiers), waited)


def tier_state(message: query_pb2.TierState) -> records.TierState:
    return records.TierState(
        source=convert.source(message.source),
        endpoint=message.endpoint,
        available=message.available,
        breaker=message.breaker,
        lag=convert.span(message, "lag"),
        position=_STATES.get(message.position_state),
        token=message.token,
        fresh_in=convert.span(message, "fresh_in"),
        reads_running=message.reads_running,
    )


def explanation(message: query_pb2.ExplainRouteResponse) -> records.RouteExplanation:
    return records.RouteExplanation(
        action=_ACTIONS.get(message.action),
        source=convert.source(message.source),
        endpoint=message.endpoint,
        reason=message.reason,
        on_unmet=_ON_UNMET.get(message.on_unmet),
        when_unmet=message.when_unmet,
        candidates=tuple(
            records.RouteCandidate(tier_state(each.tier), each.verdict)
            for each in message.candidates
        ),
    )
