"""Between the wire's messages and the domain's types; with `convert_filter`, all that knows both.

Everything a request can have wrong in itself is refused here, naming the field.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from atlas.hotcache.v1 import hotcache_service_pb2 as hot_pb
from atlas.query.v1 import query_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2 as warehouse_pb
from atlas.type.freshness import Position
from atlas.type.v1 import consistency_pb2
from atlas_common import errors
from atlas_common.limits import check_bytes
from atlas_common.token import TokenSigner
from atlas_common.values import (
    datetime_to_us,
    from_proto,
    timestamp_to_us,
    to_proto,
    us_to_datetime,
    us_to_timestamp,
)
from atlas_query import near
from atlas_query.aggregates import (
    AggregateQuery,
    AggregateRow,
    Function,
    WarehousePart,
    WarehouseProof,
)
from atlas_query.consistency import (
    EVENTUAL_STALENESS_SECONDS,
    WAIT_TIMEOUT_SECONDS,
    Analytics,
    AtLeastAsFresh,
    Consistency,
    Eventual,
    Level,
    OnUnmet,
    Requirement,
    Source,
    Strong,
    WarehouseConsistency,
)
from atlas_query.proof import Proof, budget_warnings
from atlas_query.readings import EntityReadings, Reading
from atlas_query.requests import HistoryRange
from atlas_query.tier import Tier

MESSAGE_READINGS_MAX = 1_000
MESSAGE_BYTES_MAX = 1 << 20  # Texts are long: clients take 4 MiB by default.
PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 100, 1_000
HISTORY_LIMIT_MAX = 100_000
ENTITY_KEY_BYTES_MAX = 256
_SECONDS_MAX = 10 * 366 * 86_400.0  # Longer than any data is kept: more means the same.

_ON_UNMET = {
    consistency_pb2.ON_UNMET_UNSPECIFIED: None,
    consistency_pb2.ON_UNMET_WAIT: OnUnmet.WAIT,
    consistency_pb2.ON_UNMET_PRIMARY: OnUnmet.PRIMARY,
    consistency_pb2.ON_UNMET_FAIL: OnUnmet.FAIL,
}
_SOURCES = {
    Source.PRIMARY: consistency_pb2.SOURCE_PRIMARY,
    Source.REPLICA: consistency_pb2.SOURCE_REPLICA,
    Source.CACHE: consistency_pb2.SOURCE_CACHE,
    Source.WAREHOUSE: consistency_pb2.SOURCE_WAREHOUSE,
}
_LEVELS = {
    Level.STRONG: consistency_pb2.CONSISTENCY_LEVEL_STRONG,
    Level.EVENTUAL: consistency_pb2.CONSISTENCY_LEVEL_EVENTUAL,
    Level.ANALYTICS: consistency_pb2.CONSISTENCY_LEVEL_ANALYTICS,
    Level.AT_LEAST_AS_FRESH: consistency_pb2.CONSISTENCY_LEVEL_AT_LEAST_AS_FRESH,
}

_FUNCTIONS = {
    pb.AGGREGATE_FUNCTION_COUNT: Function.COUNT,
    pb.AGGREGATE_FUNCTION_SUM: Function.SUM,
    pb.AGGREGATE_FUNCTION_AVG: Function.AVG,
    pb.AGGREGATE_FUNCTION_MIN: Function.MIN,
    pb.AGGREGATE_FUNCTION_MAX: Function.MAX,
    pb.AGGREGATE_FUNCTION_FIRST: Function.FIRST,
    pb.AGGREGATE_FUNCTION_LAST: Function.LAST,
}
_AGGREGATIONS = {
    Function.COUNT: warehouse_pb.AGGREGATION_COUNT,
    Function.SUM: warehouse_pb.AGGREGATION_SUM,
    Function.AVG: warehouse_pb.AGGREGATION_AVG,
    Function.MIN: warehouse_pb.AGGREGATION_MIN,
    Function.MAX: warehouse_pb.AGGREGATION_MAX,
    Function.FIRST: warehouse_pb.AGGREGATION_FIRST,
    Function.LAST: warehouse_pb.AGGREGATION_LAST,
}
ItemT = TypeVar("ItemT", pb.Reading, pb.Bucket)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONSISTENCIES_KEPT_MAX = 1_024
_PROOFS_KEPT_MAX = 4_096
_BUCKET_US_MAX = 100 * 366 * 86_400 * 1_000_000


def consistency(
    message: consistency_pb2.Consistency, tenant_id: int, signer: TokenSigner
) -> Consistency:
    """What a read of Postgres must have seen. ANALYTICS is refused: aggregates alone have it.

    Raises ServiceError INVALID_ARGUMENT: INVALID_FIELD, TOKEN_MALFORMED, TOKEN_TAMPERED,
    TOKEN_WRONG_TENANT.
    """
    if message.WhichOneof("requirement") == "analytics":
        raise _invalid(
            "consistency",
            "ANALYTICS is for Aggregate: the warehouse does not answer this call."
            " Ask for STRONG, EVENTUAL or at_least_as_fresh",
        )
    return _consistency(message.SerializeToString(), tenant_id, signer.settled())


@lru_cache(_CONSISTENCIES_KEPT_MAX)  # Callers ask for the same again and again.
def _consistency(encoded: bytes, tenant_id: int, signer: TokenSigner) -> Consistency:
    message = consistency_pb2.Consistency.FromString(encoded)
    return Consistency(
        _requirement(message, tenant_id, signer),
        _on_unmet(message) or OnUnmet.PRIMARY,
        _wait_timeout(message),
    )


def warehouse_consistency(
    message: consistency_pb2.Consistency, tenant_id: int, signer: TokenSigner
) -> WarehouseConsistency:
    """What an aggregate must have seen. Raises as `consistency`."""
    if message.WhichOneof("requirement") not in {None, "analytics"}:
        raise _invalid("consistency", "aggregates are served at ANALYTICS only: ask for it or none")
    on_unmet = _on_unmet(message)
    if on_unmet is OnUnmet.PRIMARY:
        raise _invalid("consistency.on_unmet", "the primary does not answer aggregates")
    wanted = message.analytics
    check_bytes(wanted, "token")
    signer.open(wanted.token, tenant_id)  # Refused here as everywhere, before any work.
    verified = (
        moment(wanted.min_verified_through, "consistency.analytics.min_verified_through")
        if wanted.HasField("min_verified_through")
        else None
    )
    return WarehouseConsistency(
        Analytics(None if verified is None else us_to_datetime(verified), wanted.token),
        0.0 if on_unmet is OnUnmet.FAIL else _wait_timeout(message),
    )


def _requirement(
    message: consistency_pb2.Consistency, tenant_id: int, signer: TokenSigner
) -> Requirement:
    match message.WhichOneof("requirement"):
        case "strong":
            check_bytes(message.strong, "token")
            token = message.strong.token
            return Strong(signer.open(token, tenant_id), token)
        case "eventual":
            wanted = message.eventual
            check_bytes(wanted, "token")
            bound = EVENTUAL_STALENESS_SECONDS
            if wanted.HasField("max_staleness"):
                field = "consistency.eventual.max_staleness"
                bound = seconds(wanted.max_staleness, field)
                if bound == 0:
                    raise _invalid(field, "no copy is 0 s stale: ask for STRONG, or for more")
            return Eventual(bound, signer.open(wanted.token, tenant_id), wanted.token)
        case "at_least_as_fresh":
            check_bytes(message, "at_least_as_fresh")
            token = message.at_least_as_fresh
            return AtLeastAsFresh(signer.open(token, tenant_id), token)
        case _:
            return Eventual()


def _on_unmet(message: consistency_pb2.Consistency) -> OnUnmet | None:
    if message.on_unmet not in _ON_UNMET:
        raise _invalid("consistency.on_unmet", f"there is no on_unmet {message.on_unmet}")
    return _ON_UNMET[message.on_unmet]


def _wait_timeout(message: consistency_pb2.Consistency) -> float:
    if not message.HasField("wait_timeout"):
        return WAIT_TIMEOUT_SECONDS
    return seconds(message.wait_timeout, "consistency.wait_timeout")


def entity_keys(keys: Iterable[str], field: str) -> list[str]:
    """The keys themselves. Raises ENTITY_KEY_INVALID, naming the first bad one."""
    checked = list(keys)
    for index, key in enumerate(checked):
        entity_key(key, f"{field}[{index}]")
    return checked


def entity_key(key: str, field: str) -> str:
    """The key itself, if it can be one."""
    size = len(key.encode())
    if not 1 <= size <= ENTITY_KEY_BYTES_MAX or _CONTROL.search(key):
        raise errors.invalid_argument(
            "ENTITY_KEY_INVALID",
            f"an entity's key has 1 to {ENTITY_KEY_BYTES_MAX} bytes and no control characters;"
            f" this one has {size} bytes",
            field=field,
        )
    return key


def page_query(request: pb.FindEntitiesRequest) -> bytes:
    """What a page token is bound to: the filter and the attributes.

    Not the consistency: for monotonic reads the next page asks for the token of the page before.
    """
    bound = pb.FindEntitiesRequest(filter=request.filter, attributes=request.attributes)
    return bound.SerializeToString(deterministic=True)


def page_size(request: pb.FindEntitiesRequest) -> int:
    """How many entities a page shows; more than the maximum means the maximum."""
    if request.page_size < 0:
        raise _invalid("page_size", "a page has no negative size")
    return min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def cursor_after(cursor: bytes) -> int:
    """The entity id a page begins after; cursors are sealed, so their form needs no check."""
    return int.from_bytes(cursor, "big")


def cursor_of(entity_id: int) -> bytes:
    """The cursor of the page that begins after this entity."""
    return entity_id.to_bytes(8, "big")


def history_range(request: pb.GetHistoryRequest) -> HistoryRange:
    """The range of event time and the limit. Raises INVALID_ARGUMENT / INVALID_FIELD."""
    start = moment(request.start_time, "start_time") if request.HasField("start_time") else None
    end = moment(request.end_time, "end_time") if request.HasField("end_time") else None
    check_range(start, end)
    if not 0 <= request.limit <= HISTORY_LIMIT_MAX:
        raise _invalid("limit", f"a limit is in 0..{HISTORY_LIMIT_MAX}, not {request.limit}")
    return HistoryRange(
        None if start is None else us_to_datetime(start),
        None if end is None else us_to_datetime(end),
        request.limit or HISTORY_LIMIT_MAX,
    )


def check_range(start_us: int | None, end_us: int | None) -> None:
    """Refuse an empty or reversed range."""
    if start_us is not None and end_us is not None and end_us <= start_us:
        raise _invalid("end_time", "end_time is not after start_time: the range is empty")


def moment(message: Timestamp, field: str) -> int:
    """Microseconds since the epoch. Raises INVALID_FIELD beyond the years 1 to 9999."""
    us = timestamp_to_us(message)
    try:
        us_to_datetime(us)
    except OverflowError:
        raise _invalid(field, "the moment is not in the years 1 to 9999") from None
    return us


def seconds(message: Duration, field: str) -> float:
    """Seconds, at most ten years. Raises INVALID_ARGUMENT / INVALID_FIELD if negative."""
    length = message.seconds + message.nanos / 1e9
    if length < 0:
        raise _invalid(field, "a duration here is not negative")
    return min(length, _SECONDS_MAX)


def entity_states(entities: Iterable[EntityReadings]) -> Iterator[pb.EntityState]:
    """The messages of entities."""
    for entity in entities:
        yield pb.EntityState(
            entity_key=entity.key,
            entity_id=entity.entity_id,
            readings=[reading(item) for item in entity.readings],
        )


def encoded_entity(state: pb.EntityState) -> bytes:
    """The encoding of a GetEntitiesResponse that has this entity alone."""
    return pb.GetEntitiesResponse(entities=[state]).SerializeToString()


def reading(item: Reading) -> pb.Reading:
    """The message of one reading."""
    return pb.Reading(
        attribute=item.attribute,
        value=to_proto(item.data_type, item.value),
        event_time_us=item.event_us,
        quality=item.quality,
    )


def reading_chunks(items: Sequence[Reading]) -> Iterator[list[pb.Reading]]:
    """The readings in lists that fit into one message each."""
    return chunks(map(reading, items))


def chunks(messages: Iterable[ItemT]) -> Iterator[list[ItemT]]:
    """Items of a stream in lists that fit into one message each: by number and by size."""
    chunk: list[ItemT] = []
    size = 0
    for message in messages:
        message_size = message.ByteSize()
        if chunk and (
            len(chunk) >= MESSAGE_READINGS_MAX or size + message_size > MESSAGE_BYTES_MAX
        ):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += message_size
    if chunk:
        yield chunk


def moment_of(us: int) -> Timestamp:
    """The message of a moment."""
    return us_to_timestamp(us)


def metadata(proof: Proof, tenant_id: int, signer: TokenSigner) -> consistency_pb2.ReadMetadata:
    """The proof of what was served."""
    message = consistency_pb2.ReadMetadata(
        source=_SOURCES[proof.source],
        endpoint=proof.endpoint,
        consistency=_LEVELS[proof.level],
        token=signer.seal(tenant_id, proof.positions) if proof.positions else b"",
        route_reason=proof.route_reason,
        warnings=proof.warnings,
    )
    if math.isfinite(proof.lag_seconds):  # Unset: unknown.
        message.lag.CopyFrom(duration(proof.lag_seconds))
    if proof.as_of is not None:
        message.as_of.CopyFrom(us_to_timestamp(datetime_to_us(proof.as_of)))
    return message


def near_metadata(proof: Proof, tenant_id: int, signer: TokenSigner) -> bytes:
    """The proof of an answer of the near cache: a GetEntitiesResponse, encoded.

    Encodings put together are merged, and so are those of the metadata in them: what is the same
    each time is encoded once.
    """
    lasting = _lasting_metadata(
        proof.level, proof.positions, proof.as_of, tenant_id, signer.settled()
    )
    passing = consistency_pb2.ReadMetadata(
        lag=duration(proof.lag_seconds), route_reason=proof.route_reason, warnings=proof.warnings
    )
    return lasting + pb.GetEntitiesResponse(metadata=passing).SerializeToString()


@lru_cache(_PROOFS_KEPT_MAX)
def _lasting_metadata(
    level: Level,
    positions: tuple[Position, ...],
    as_of: datetime | None,
    tenant_id: int,
    signer: TokenSigner,
) -> bytes:
    proof = Proof(Source.CACHE, near.ENDPOINT, level, math.inf, as_of, positions, "")
    return pb.GetEntitiesResponse(metadata=metadata(proof, tenant_id, signer)).SerializeToString()


def trailers(proof: Proof) -> tuple[tuple[str, str], ...]:
    """The proof as trailing metadata."""
    return (
        ("x-data-source", proof.source.value),
        ("x-data-lag-seconds", f"{proof.lag_seconds:.3f}"),  # "inf": unknown.
        ("x-consistency", proof.level.value),
    )


def duration(length_seconds: float) -> Duration:
    """The message of a length of time, to the microsecond."""
    message = Duration()
    message.FromMicroseconds(round(length_seconds * 1e6))
    return message


def hot_request(
    entity_ids: Sequence[int], names: Sequence[str], staleness_seconds: float, token: bytes
) -> hot_pb.GetEntitiesRequest:
    """The question to hotcache."""
    return hot_pb.GetEntitiesRequest(
        entity_ids=entity_ids,
        attributes=names,
        max_staleness=duration(staleness_seconds),
        token=token,
    )


def hot_readings(entity: hot_pb.HotEntity) -> list[Reading]:
    """The readings of hotcache's answer."""
    return [
        Reading(value.attribute, *typed, value.event_time_us, 0)
        for value in entity.values
        if (typed := from_proto(value.value)) is not None
    ]


def aggregate_query(request: pb.AggregateRequest) -> AggregateQuery:
    """What an aggregate asks for, but for names. Raises INVALID_ARGUMENT / INVALID_FIELD."""
    start = moment(request.start_time, "start_time") if request.HasField("start_time") else None
    end = moment(request.end_time, "end_time") if request.HasField("end_time") else None
    check_range(start, end)
    if not request.functions and not request.percentiles:
        raise _invalid("functions", "name at least one function or percentile")
    for index, function in enumerate(request.functions):
        if function not in _FUNCTIONS:
            raise _invalid(f"functions[{index}]", f"there is no function {function}")
    for index, percentile in enumerate(request.percentiles):
        if not 0 <= percentile <= 100:
            raise _invalid(f"percentiles[{index}]", f"percentile {percentile:g} is not 0 to 100")
    bucket_us = 0
    if request.HasField("bucket"):
        bucket_us = request.bucket.seconds * 1_000_000 + request.bucket.nanos // 1_000
        if not 0 < bucket_us <= _BUCKET_US_MAX:
            raise _invalid("bucket", "a bucket is 1 microsecond to 100 years wide")
    functions = tuple(_FUNCTIONS[function] for function in request.functions)
    return AggregateQuery(
        functions,
        start,
        end,
        bucket_us,
        request.group_by_entity,
        tuple(request.percentiles),
        request.group_by_quality,
    )


def aggregate_request(
    query: AggregateQuery,
    entity_ids: Sequence[int],
    attribute_ids: Sequence[int],
    wanted: WarehouseConsistency,
) -> warehouse_pb.AggregateRequest:
    """The question to cdc-reconciler."""
    message = warehouse_pb.AggregateRequest(
        entity_ids=entity_ids,
        attribute_ids=attribute_ids,
        start_time_us=query.start_us,
        end_time_us=query.end_us,
        bucket_us=query.bucket_us,
        aggregations=[_AGGREGATIONS[function] for function in query.functions],
        group_by_entity=query.group_by_entity,
        percentiles=query.percentiles,
        group_by_quality=query.group_by_quality,
        token=wanted.requirement.token,
    )
    verified = wanted.requirement.min_verified_through
    if verified is not None:
        message.min_verified_through.CopyFrom(us_to_timestamp(datetime_to_us(verified)))
    if wanted.wait_timeout_seconds > 0:
        message.wait_timeout.CopyFrom(duration(wanted.wait_timeout_seconds))
    return message


def warehouse_part(message: warehouse_pb.AggregateResponse) -> WarehousePart:
    """A part of cdc-reconciler's answer."""
    rows = [
        AggregateRow(
            row.entity_id,
            row.attribute_id,
            row.bucket_time_us if row.HasField("bucket_time_us") else None,
            tuple(row.results),
            row.quality if row.HasField("quality") else None,
        )
        for row in message.rows
    ]
    proof = _warehouse_proof(message.metadata) if message.HasField("metadata") else None
    return WarehousePart(rows, proof)


def _warehouse_proof(message: consistency_pb2.ReadMetadata) -> WarehouseProof:
    lag = seconds(message.lag, "lag") if message.HasField("lag") else math.inf
    warnings = tuple(message.warnings)
    return WarehouseProof(
        Proof(
            Source.WAREHOUSE,
            message.endpoint or "warehouse",
            Level.ANALYTICS,
            lag,
            message.as_of.ToDatetime(UTC) if message.HasField("as_of") else None,
            (),
            message.route_reason or "aggregates are the warehouse's",
            warnings or budget_warnings(Source.WAREHOUSE, lag),
        ),
        message.token,
        message.verified_through.ToDatetime(UTC) if message.HasField("verified_through") else None,
    )


def warehouse_metadata(
    proof: WarehouseProof, tenant_id: int, signer: TokenSigner
) -> consistency_pb2.ReadMetadata:
    """The proof of what the warehouse served."""
    message = metadata(proof.proof, tenant_id, signer)
    message.token = proof.token
    if proof.verified_through is not None:
        message.verified_through.CopyFrom(us_to_timestamp(datetime_to_us(proof.verified_through)))
    return message


def aggregate_row(row: AggregateRow, entity_key: str, attribute: str) -> pb.AggregateRow:
    """The message of a row, by names."""
    message = pb.AggregateRow(
        entity_key=entity_key, attribute=attribute, results=row.results, quality=row.quality
    )
    if row.bucket_us is not None:
        message.bucket_time.CopyFrom(us_to_timestamp(row.bucket_us))
    return message


def tier(item: Tier) -> pb.Tier:
    """The message of a tier."""
    message = pb.Tier(
        source=_SOURCES[item.source],
        endpoint=item.endpoint,
        available=item.is_available,
        breaker=item.breaker,
        note=item.note,
    )
    if math.isfinite(item.lag_seconds):
        message.lag.CopyFrom(duration(item.lag_seconds))
    return message


def _invalid(field: str, message: str) -> errors.ServiceError:
    return errors.invalid_argument("INVALID_FIELD", message, field=field)
