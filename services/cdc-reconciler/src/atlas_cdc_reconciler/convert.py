"""Between protos and the domain; the only place that does it."""

import math
from collections.abc import Sequence
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.type.v1 import consistency_pb2
from atlas_cdc_reconciler.aggregate import AggregateRow, Demand, Served
from atlas_cdc_reconciler.aggregate_sql import AggregateQuery, Function
from atlas_cdc_reconciler.progress import CopyProgress
from atlas_cdc_reconciler.status import PipelineStatus
from atlas_cdc_reconciler.verification_store import TenantVerification, Verification
from atlas_common import errors
from atlas_common.limits import check_bytes, check_items
from atlas_common.tenant import Tenant
from atlas_common.token import TokenSigner
from atlas_common.values import timestamp_to_us, us_to_timestamp

# Of microseconds that both Python's dates and the warehouse's timestamps can hold.
_US_MIN, _US_MAX = -62_135_596_800_000_000, 253_402_300_799_999_999
_WAIT_SECONDS_MAX = 300.0
_LAG_BUDGET_SECONDS = 300.0
_VERIFICATIONS_DEFAULT, _VERIFICATIONS_MAX = 100, 1_000
_FUNCTIONS = {
    pb.AGGREGATION_COUNT: Function.COUNT,
    pb.AGGREGATION_SUM: Function.SUM,
    pb.AGGREGATION_AVG: Function.AVG,
    pb.AGGREGATION_MIN: Function.MIN,
    pb.AGGREGATION_MAX: Function.MAX,
    pb.AGGREGATION_FIRST: Function.FIRST,
    pb.AGGREGATION_LAST: Function.LAST,
}


def aggregate_query(tenant: Tenant, request: pb.AggregateRequest) -> AggregateQuery:
    """The query asked for. Raises ServiceError INVALID_ARGUMENT naming the field."""
    for field in ("entity_ids", "attribute_ids", "aggregations", "percentiles"):
        check_items(request, field)
    if not request.attribute_ids:
        raise _invalid("attribute_ids", "name at least one attribute")
    if not request.aggregations and not request.percentiles:
        raise _invalid("aggregations", "name at least one aggregation or percentile")
    functions = []
    for aggregation in request.aggregations:
        if aggregation not in _FUNCTIONS:
            raise _invalid("aggregations", f"aggregation {aggregation} is not known here")
        functions.append(_FUNCTIONS[aggregation])
    for index, percentile in enumerate(request.percentiles):
        if not 0 <= percentile <= 100:
            raise _invalid(f"percentiles[{index}]", f"percentile {percentile:g} is not 0 to 100")
    if not 0 <= request.bucket_us <= _US_MAX:
        raise _invalid("bucket_us", "a bucket is at least 1 us wide; 0 is one bucket")
    start = _moment(request, "start_time_us")
    end = _moment(request, "end_time_us")
    if start is not None and end is not None and end < start:
        raise _invalid("end_time_us", "end_time_us is before start_time_us")
    return AggregateQuery(
        tenant.id,
        tuple(request.attribute_ids),
        tuple(request.entity_ids),
        start,
        end,
        request.bucket_us,
        tuple(functions),
        request.group_by_entity,
        tuple(request.percentiles),
        request.group_by_quality,
    )


def demand(tenant: Tenant, request: pb.AggregateRequest, signer: TokenSigner) -> Demand:
    """The freshness asked for. Raises ServiceError INVALID_ARGUMENT naming the field."""
    check_bytes(request, "token")
    wait = 0.0
    if request.HasField("wait_timeout"):
        wait = request.wait_timeout.ToNanoseconds() / 1e9
        if wait < 0:
            raise _invalid("wait_timeout", "wait_timeout is negative")
    verified = None
    if request.HasField("min_verified_through"):
        verified = timestamp_to_us(request.min_verified_through)
    return Demand(signer.open(request.token, tenant.id), verified, min(wait, _WAIT_SECONDS_MAX))


def aggregate_response(rows: list[AggregateRow]) -> pb.AggregateResponse:
    """One message of rows. A group without a number (all NULL) shows as NaN."""
    return pb.AggregateResponse(
        rows=[
            pb.AggregateRow(
                entity_id=entity,
                attribute_id=attribute,
                bucket_time_us=bucket,
                quality=quality,
                results=[math.nan if result is None else result for result in results],
            )
            for entity, attribute, bucket, quality, *results in rows
        ]
    )


def read_metadata(
    tenant: Tenant, served: Served, lag_seconds: float, signer: TokenSigner
) -> consistency_pb2.ReadMetadata:
    """The proof of what was served. An unknown lag is left out, and said so in the warnings."""
    as_of = Timestamp()
    as_of.FromDatetime(served.beat.beaten_at)
    metadata = consistency_pb2.ReadMetadata(
        source=consistency_pb2.SOURCE_WAREHOUSE,
        endpoint="warehouse",
        consistency=consistency_pb2.CONSISTENCY_LEVEL_ANALYTICS,
        lag=duration(lag_seconds),
        as_of=as_of,
        token=signer.seal(tenant.id, served.lanes.flushed.values()),
        route_reason="aggregates are answered by the warehouse",
    )
    if served.verified_through_us is not None:
        metadata.verified_through.CopyFrom(us_to_timestamp(served.verified_through_us))
    if not math.isfinite(lag_seconds):
        metadata.warnings.append("the warehouse's lag is not known: the primary gives no heartbeat")
    elif lag_seconds > _LAG_BUDGET_SECONDS:
        metadata.warnings.append(
            f"warehouse lag {lag_seconds:.1f} s exceeds the budget of {_LAG_BUDGET_SECONDS:.0f} s"
        )
    if served.levelling:
        metadata.warnings.append(
            f"the warehouse is being recovered ({served.levelling}): until then some rows are newer"
            " than as_of and the token say, others are not corrected yet"
        )
    return metadata


def verification_response(found: Verification | None) -> pb.GetVerificationResponse:
    """What is known of a tenant."""
    if found is None:
        return pb.GetVerificationResponse()
    return pb.GetVerificationResponse(
        verified_through=us_to_timestamp(found.verified_through_us),
        check_time=us_to_timestamp(found.checked_at_us),
        windows_mismatched=found.mismatched,
    )


def verifications_max(request: pb.ListVerificationsRequest) -> int:
    """How many are asked for. Raises ServiceError INVALID_ARGUMENT."""
    if request.page_size < 0:
        raise _invalid("page_size", f"page_size {request.page_size} is negative")
    return min(request.page_size or _VERIFICATIONS_DEFAULT, _VERIFICATIONS_MAX)


def verifications_response(
    found: Sequence[TenantVerification], tenant_count: int, budget_seconds: float
) -> pb.ListVerificationsResponse:
    """What is known of all tenants."""
    response = pb.ListVerificationsResponse(
        tenant_count=tenant_count, freshness_budget=duration(budget_seconds)
    )
    for one in found:
        message = response.verifications.add(tenant=one.tenant, report_id=one.report_id)
        if one.known is not None:
            message.verified_through.CopyFrom(us_to_timestamp(one.known.verified_through_us))
            message.check_time.CopyFrom(us_to_timestamp(one.known.checked_at_us))
            message.windows_mismatched = one.known.mismatched
        if one.report_id:
            message.report_time.CopyFrom(us_to_timestamp(one.report_at_us))
            message.report_differences = one.report_differences
    return response


def pipeline_status_response(status: PipelineStatus) -> pb.GetPipelineStatusResponse:
    """How far the warehouse is."""
    standing, counts = status.standing, status.counts
    response = pb.GetPipelineStatusResponse(
        phase=standing.phase.value,
        lag=duration(status.lag_seconds),
        read_total=counts.read,
        applied_total=counts.applied,
        dead_lettered_total=counts.dead_lettered,
        skipped_total=counts.skipped,
        warehouse_rows=status.warehouse_rows,
        slot_retained_bytes=0 if status.slot is None else status.slot.retained_bytes,
        reason=standing.reason,
        slot=_slot(status),
        instance=status.instance,
        leader=status.leader,
        held_tables=[
            pb.HeldTable(
                table=held.table,
                reason=held.reason,
                dead_letters=held.letter_count,
                since_time=us_to_timestamp(held.since_us),
            )
            for held in status.held_tables
        ],
        dead_letters_open=status.open_letters,
        conserved=status.is_conserved,
    )
    if standing.copy is not None:
        response.copy.CopyFrom(copy_progress(standing.copy))
    if standing.sink.position is not None:
        response.applied_lsn = str(standing.sink.position.lsn)
    if standing.sink.beat.beat_id:
        response.as_of.FromDatetime(standing.sink.beat.beaten_at)
    return response


def copy_progress(copy: CopyProgress) -> pb.CopyProgress:
    """How far copying is."""
    return pb.CopyProgress(
        tables_done=copy.tables_done,
        tables_total=copy.tables_total,
        tenants_done=copy.tenants_done,
        tenants_total=copy.tenants_total,
        percent=100 * copy.share,
        rows_compared=copy.rows_compared,
        rows_differing=copy.rows_differing,
        rows_copied=copy.rows_copied,
        rows_rejected=copy.rows_rejected,
        spans_copied=copy.spans_copied,
    )


def _slot(status: PipelineStatus) -> pb.SlotStatus:
    slot = status.slot
    if slot is None:
        return pb.SlotStatus(name=status.slot_name, wal_status="missing")
    return pb.SlotStatus(
        name=status.slot_name,
        wal_status=slot.wal_status,
        active=slot.active,
        safe_bytes=slot.safe_bytes,
        used_share=status.slot_used_share,
        failover=slot.failover,
        invalidation_reason=slot.invalidation_reason,
    )


def duration(seconds: float) -> Duration | None:
    """A Duration; None for an unknown (infinite) one."""
    if not math.isfinite(seconds):
        return None
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def _moment(request: pb.AggregateRequest, field: str) -> int | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    moment: int = getattr(request, field)
    if not _US_MIN <= moment <= _US_MAX:
        raise _invalid(field, f"{field} is not between the years 1 and 9999")
    return moment


def _invalid(field: str, message: str) -> errors.ServiceError:
    return errors.invalid_argument("INVALID_FIELD", message, field=field)
