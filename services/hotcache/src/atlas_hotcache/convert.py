"""Between messages and the domain; the only place that knows both."""

import math
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from atlas.hotcache.v1 import hotcache_service_pb2 as pb
from atlas.type.v1 import consistency_pb2
from atlas_common import errors, values
from atlas_common.catalog import AttributeTable
from atlas_common.limits import check_bytes, check_items
from atlas_common.tenant import TENANT_ID_MAX
from atlas_common.token import MalformedTokenError, Position, TokenSigner
from atlas_hotcache.entry import VERSION_MAX
from atlas_hotcache.lag import Proof
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import Change, HotRow
from atlas_hotcache.reader import Answer, Demand


@dataclass(frozen=True, slots=True)
class EntitiesQuery:
    """A checked GetEntitiesRequest. No attributes means all."""

    entity_ids: tuple[int, ...]
    attributes: tuple[str, ...]
    demand: Demand


def entities_query(
    request: pb.GetEntitiesRequest, signer: TokenSigner, tenant_id: int, default_staleness: float
) -> EntitiesQuery:
    """The request, checked. Raises ServiceError INVALID_ARGUMENT naming the field."""
    check_items(request, "entity_ids")
    check_items(request, "attributes")
    check_bytes(request, "token")
    staleness = default_staleness
    if request.HasField("max_staleness"):
        staleness = request.max_staleness.ToNanoseconds() / 1e9
        if staleness < 0:
            raise errors.invalid_argument(
                "INVALID_FIELD", "max_staleness is negative", field="max_staleness"
            )
    positions = signer.open(request.token, tenant_id)
    return EntitiesQuery(
        tuple(request.entity_ids), tuple(request.attributes), Demand(staleness, positions)
    )


def body(row: HotRow) -> bytes:
    """The values of a row as the cache keeps them: a HotEntity with nothing else set."""
    message = pb.HotEntity()
    for hot_value in row.values:
        message.values.add(
            attribute=hot_value.attribute,
            value=values.to_proto(hot_value.data_type, hot_value.value),
            event_time_us=hot_value.event_time_us,
        )
    return message.SerializeToString()


@dataclass(frozen=True, slots=True)
class Shown:
    """Which attributes an answer has: `only` these, or the table's hot ones.

    What the table does not know is shown, unless it `is_complete`.
    """

    only: frozenset[str] | None = None
    table: AttributeTable | None = None
    is_complete: bool = False

    def shows(self, name: str) -> bool:
        """Whether the attribute of this name is answered."""
        if self.only is not None:
            return name in self.only
        known = None if self.table is None else self.table.by_name.get(name)
        return not self.is_complete if known is None else known.is_hot


def holds(cached: bytes, row: HotRow) -> bool:
    """Whether an entry's body has every value of the row, just as it would be cached now."""
    message = pb.HotEntity()
    try:
        message.ParseFromString(cached)
    except DecodeError:
        return False
    held = {value.attribute: value.SerializeToString() for value in message.values}
    wanted = pb.HotEntity.FromString(body(row)).values
    return all(held.get(value.attribute) == value.SerializeToString() for value in wanted)


def entities_response(answer: Answer, shown: Shown) -> pb.GetEntitiesResponse:
    """The answer with the attributes that are shown."""
    response = pb.GetEntitiesResponse(
        lag=duration(answer.proof.lag_seconds),
        hit_count=answer.hit_count,
        miss_count=answer.miss_count,
        bypass_reason=answer.bypass_reason,
    )
    if answer.entities:
        response.as_of.CopyFrom(values.us_to_timestamp(answer.proof.as_of_us))
    for entity in answer.entities:
        message = response.entities.add()
        message.MergeFromString(entity.body)
        message.entity_id, message.version = entity.entity_id, entity.version
        message.source = (
            consistency_pb2.SOURCE_CACHE if entity.is_cached else consistency_pb2.SOURCE_PRIMARY
        )
    keep(response, shown)
    return response


def unknown_attributes(response: pb.GetEntitiesResponse, shown: Shown) -> frozenset[str]:
    """Attributes in the answer that the table does not know."""
    known = {} if shown.table is None else shown.table.by_name
    return frozenset(
        value.attribute
        for entity in response.entities
        for value in entity.values
        if value.attribute not in known
    )


def invalidation(request: pb.InvalidateEntitiesRequest) -> tuple[Position, list[Change]]:
    """The flush's position and changes. Raises ServiceError INVALID_ARGUMENT naming the field."""
    try:
        position = Position(request.lane, request.epoch, request.sequence)
    except MalformedTokenError as error:
        raise errors.invalid_argument("INVALID_FIELD", str(error), field="lane") from None
    changes: list[Change] = []
    for group in request.changes:
        if len(group.entity_ids) != len(group.versions):
            raise errors.invalid_argument(
                "INVALID_FIELD",
                f"{len(group.entity_ids)} entity_ids and {len(group.versions)} versions",
                field="changes.versions",
            )
        if not 0 < group.tenant_id <= TENANT_ID_MAX:
            raise errors.invalid_argument(
                "INVALID_FIELD", f"{group.tenant_id} is no tenant_id", field="changes.tenant_id"
            )
        if group.versions and min(group.versions) < 0:
            raise errors.invalid_argument(
                "INVALID_FIELD", f"a version is in 0..{VERSION_MAX}", field="changes.versions"
            )
        tenant_id = group.tenant_id
        changes += [
            Change(tenant_id, entity_id, version)
            for entity_id, version in zip(group.entity_ids, group.versions, strict=True)
        ]
    return position, changes


def status_response(
    counts: Counts, *, is_connected: bool, proof: Proof
) -> pb.GetCacheStatusResponse:
    """The counters, and the lag if it is known."""
    response = pb.GetCacheStatusResponse(
        connected=is_connected,
        hits_total=counts.hits,
        misses_total=counts.misses,
        invalidations_total=counts.invalidations,
        fills_refused_total=counts.fills_refused,
        generations_total=counts.generations,
        caught_up_flushes_total=counts.caught_up_flushes,
        checks_total=counts.checks,
        inconsistencies_total=counts.inconsistencies,
    )
    if math.isfinite(proof.lag_seconds):
        response.lag.CopyFrom(duration(proof.lag_seconds))
    return response


def duration(seconds: float) -> Duration:
    """The message of a time span given in seconds."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def keep(response: pb.GetEntitiesResponse, shown: Shown) -> None:
    """Leave out of the answer what is not shown."""
    for message in response.entities:
        kept = [value for value in message.values if shown.shows(value.attribute)]
        if len(kept) != len(message.values):
            copies = [pb.HotValue.FromString(value.SerializeToString()) for value in kept]
            del message.values[:]
            message.values.extend(copies)
