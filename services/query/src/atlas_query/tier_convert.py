"""Between the messages about tiers (WaitFor, ExplainRoute) and the domain."""

import math

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2
from atlas_common import errors
from atlas_common.limits import check_bytes
from atlas_common.token import TokenSigner
from atlas_query.consistency import WAIT_TIMEOUT_SECONDS, OnUnmet, Source
from atlas_query.convert import duration, seconds
from atlas_query.explain import Action, Explanation, ReadKind
from atlas_query.tier import PositionState, TierStanding
from atlas_query.waiting import Target, Waited

_SOURCES = {
    consistency_pb2.SOURCE_PRIMARY: Source.PRIMARY,
    consistency_pb2.SOURCE_REPLICA: Source.REPLICA,
    consistency_pb2.SOURCE_CACHE: Source.CACHE,
    consistency_pb2.SOURCE_WAREHOUSE: Source.WAREHOUSE,
}
_SOURCE_MESSAGES = {source: message for message, source in _SOURCES.items()}
_STATES = {
    PositionState.REACHED: pb.POSITION_STATE_REACHED,
    PositionState.PENDING: pb.POSITION_STATE_PENDING,
    PositionState.LOST: pb.POSITION_STATE_LOST,
}
_KINDS = {
    pb.READ_KIND_UNSPECIFIED: ReadKind.LATEST_HOT,
    pb.READ_KIND_LATEST_HOT: ReadKind.LATEST_HOT,
    pb.READ_KIND_LATEST_ALL: ReadKind.LATEST_ALL,
    pb.READ_KIND_FIND: ReadKind.FIND,
    pb.READ_KIND_HISTORY: ReadKind.HISTORY,
    pb.READ_KIND_AGGREGATE: ReadKind.AGGREGATE,
}
_ACTIONS = {
    Action.READ: pb.ROUTE_ACTION_READ,
    Action.WAIT: pb.ROUTE_ACTION_WAIT,
    Action.FAIL: pb.ROUTE_ACTION_FAIL,
}
_ON_UNMET = {
    OnUnmet.WAIT: consistency_pb2.ON_UNMET_WAIT,
    OnUnmet.PRIMARY: consistency_pb2.ON_UNMET_PRIMARY,
    OnUnmet.FAIL: consistency_pb2.ON_UNMET_FAIL,
}


def target(request: pb.WaitForRequest) -> Target:
    """Which tier is waited for. Raises INVALID_ARGUMENT / INVALID_FIELD."""
    check_bytes(request, "token", required=True)
    check_bytes(request, "endpoint")
    if request.tier not in _SOURCES:
        raise _invalid("tier", "say which tier to wait for: PRIMARY, REPLICA, CACHE or WAREHOUSE")
    source = _SOURCES[request.tier]
    if source is not Source.REPLICA and (request.endpoint or request.all_replicas):
        field = "endpoint" if request.endpoint else "all_replicas"
        raise _invalid(field, "this is for the tier REPLICA: there is one of each of the others")
    if request.endpoint and request.all_replicas:
        raise _invalid("all_replicas", "name an endpoint or ask for all replicas, not both")
    return Target(source, request.endpoint, request.all_replicas)


def wait_timeout(request: pb.WaitForRequest) -> float:
    """How long to wait, in seconds."""
    if not request.HasField("wait_timeout"):
        return WAIT_TIMEOUT_SECONDS
    return seconds(request.wait_timeout, "wait_timeout")


def waited(outcome: Waited, tenant_id: int, signer: TokenSigner) -> pb.WaitForResponse:
    """The answer of WaitFor."""
    return pb.WaitForResponse(
        tiers=[tier_state(tier, tenant_id, signer) for tier in outcome.tiers],
        waited=duration(outcome.seconds),
    )


def read_kind(request: pb.ExplainRouteRequest) -> ReadKind:
    """What is read. Raises INVALID_ARGUMENT / INVALID_FIELD."""
    if request.kind not in _KINDS:
        raise _invalid("kind", f"there is no kind of read {request.kind}")
    return _KINDS[request.kind]


def explanation(item: Explanation, tenant_id: int, signer: TokenSigner) -> pb.ExplainRouteResponse:
    """The answer of ExplainRoute."""
    return pb.ExplainRouteResponse(
        action=_ACTIONS[item.action],
        source=(
            consistency_pb2.SOURCE_UNSPECIFIED
            if item.source is None
            else _SOURCE_MESSAGES[item.source]
        ),
        endpoint=item.endpoint,
        reason=item.reason,
        on_unmet=_ON_UNMET[item.on_unmet],
        when_unmet=item.when_unmet,
        candidates=[
            pb.RouteCandidate(
                tier=tier_state(candidate.standing, tenant_id, signer), verdict=candidate.verdict
            )
            for candidate in item.candidates
        ],
    )


def tier_state(item: TierStanding, tenant_id: int, signer: TokenSigner) -> pb.TierState:
    """The message of where a tier stands."""
    message = pb.TierState(
        source=_SOURCE_MESSAGES[item.tier.source],
        endpoint=item.tier.endpoint,
        available=item.tier.is_available,
        breaker=item.tier.breaker,
        position_state=(
            pb.POSITION_STATE_UNSPECIFIED if item.state is None else _STATES[item.state]
        ),
        token=item.token or (signer.seal(tenant_id, item.positions) if item.positions else b""),
        reads_running=item.reads_running,
    )
    if math.isfinite(item.tier.lag_seconds):
        message.lag.CopyFrom(duration(item.tier.lag_seconds))
    if item.fresh_in_seconds is not None:
        message.fresh_in.CopyFrom(duration(item.fresh_in_seconds))
    return message


def _invalid(field: str, message: str) -> errors.ServiceError:
    return errors.invalid_argument("INVALID_FIELD", message, field=field)
