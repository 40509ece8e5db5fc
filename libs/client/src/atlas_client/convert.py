"""Messages of the contracts to records and back."""

from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime, timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atlas.hotcache.v1 import hotcache_service_pb2 as hotcache_pb2
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb2
from atlas.query.v1 import query_service_pb2 as query_pb2
from atlas.reconciler.v1 import reconciler_service_pb2 as reconciler_pb2
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_client import records
from atlas_client.consistency import Level
from atlas_client.errors import reason_name
from atlas_client.values import DataType, from_proto, from_timestamp, from_us, set_value, to_us

ACK_LEVELS = {
    records.AckLevel.STAGED: ingest_pb2.ACK_LEVEL_STAGED,
    records.AckLevel.COMMITTED: ingest_pb2.ACK_LEVEL_COMMITTED,
    records.AckLevel.DURABLE: ingest_pb2.ACK_LEVEL_DURABLE,
}
FUNCTIONS = {
    records.AggregateFunction.COUNT: query_pb2.AGGREGATE_FUNCTION_COUNT,
    records.AggregateFunction.SUM: query_pb2.AGGREGATE_FUNCTION_SUM,
    records.AggregateFunction.AVG: query_pb2.AGGREGATE_FUNCTION_AVG,
    records.AggregateFunction.MIN: query_pb2.AGGREGATE_FUNCTION_MIN,
    records.AggregateFunction.MAX: query_pb2.AGGREGATE_FUNCTION_MAX,
    records.AggregateFunction.FIRST: query_pb2.AGGREGATE_FUNCTION_FIRST,
    records.AggregateFunction.LAST: query_pb2.AGGREGATE_FUNCTION_LAST,
}
_DIFFERENCES = {
    reconciler_pb2.DIFFERENCE_KIND_MISSING: records.DifferenceKind.MISSING,
    reconciler_pb2.DIFFERENCE_KIND_EXTRA: records.DifferenceKind.EXTRA,
    reconciler_pb2.DIFFERENCE_KIND_DIFFERENT: records.DifferenceKind.DIFFERENT,
}
_DATA_TYPES = frozenset(data_type.to_proto() for data_type in DataType)
SOURCES = {
    records.Source.PRIMARY: consistency_pb2.SOURCE_PRIMARY,
    records.Source.REPLICA: consistency_pb2.SOURCE_REPLICA,
    records.Source.CACHE: consistency_pb2.SOURCE_CACHE,
    records.Source.WAREHOUSE: consistency_pb2.SOURCE_WAREHOUSE,
}
POLICIES = {
    records.UnknownAttributes.REJECT: catalog_pb2.UNKNOWN_ATTRIBUTE_POLICY_REJECT,
    records.UnknownAttributes.REGISTER: catalog_pb2.UNKNOWN_ATTRIBUTE_POLICY_REGISTER,
}
_SOURCES = {number: source for source, number in SOURCES.items()}
_LEVELS = {
    consistency_pb2.CONSISTENCY_LEVEL_STRONG: Level.STRONG,
    consistency_pb2.CONSISTENCY_LEVEL_EVENTUAL: Level.EVENTUAL,
    consistency_pb2.CONSISTENCY_LEVEL_ANALYTICS: Level.ANALYTICS,
    consistency_pb2.CONSISTENCY_LEVEL_AT_LEAST_AS_FRESH: Level.AT_LEAST_AS_FRESH,
}

Key = TypeVar("Key")


def point(record: records.Point) -> value_pb2.Point:
    """Raises TypeError and ValueError as values.set_value() does."""
    message = value_pb2.Point(
        entity_key=record.entity, attribute=record.attribute, quality=record.quality
    )
    if record.time is not None:
        message.event_time_us = to_us(record.time)
    set_value(message, record.value)
    return message


def write_result(request_id: str, message: ingest_pb2.WriteResponse) -> records.WriteResult:
    acks = {number: level for level, number in ACK_LEVELS.items()}
    return records.WriteResult(
        request_id=request_id,
        token=message.token,
        accepted_count=message.accepted_count,
        rejected_count=message.rejected_count,
        errors=point_errors(message.errors),
        ack=acks.get(message.ack),
        duplicate=message.duplicate,
    )


def arrow_write_result(
    request_id: str, message: ingest_pb2.WriteArrowResponse
) -> records.ArrowWriteResult:
    acks = {number: level for level, number in ACK_LEVELS.items()}
    return records.ArrowWriteResult(
        request_id=request_id,
        token=message.token,
        accepted_count=message.accepted_count,
        rejected_count=message.rejected_count,
        errors=point_errors(message.errors),
        ack=acks.get(message.ack),
        duplicate_messages=message.duplicate_messages,
    )


def point_errors(messages: Iterable[ingest_pb2.PointError]) -> tuple[records.PointError, ...]:
    return tuple(
        records.PointError(each.index, reason_name(each.reason), each.field, each.message)
        for each in messages
    )


def producer_position(
    message: ingest_pb2.GetProducerPositionResponse,
) -> records.ProducerPosition:
    return records.ProducerPosition(
        sequence=message.position, stored_at=moment(message, "store_time"), token=message.token
    )


def quotas_message(quotas: records.Quotas) -> catalog_pb2.Quotas:
    given = {each.name: getattr(quotas, each.name) for each in fields(quotas)}
    return catalog_pb2.Quotas(**given)


def quotas(message: Message) -> records.Quotas:
    names = [each.name for each in fields(records.Quotas)]
    return records.Quotas(
        **{name: getattr(message, name) for name in names if message.HasField(name)}
    )


def tenant(message: catalog_pb2.Tenant) -> records.Tenant:
    registers = message.unknown_attribute_policy == catalog_pb2.UNKNOWN_ATTRIBUTE_POLICY_REGISTER
    policy = records.UnknownAttributes.REGISTER if registers else records.UnknownAttributes.REJECT
    return records.Tenant(
        tenant_id=message.tenant_id,
        key=message.key,
        display_name=message.display_name,
        unknown_attributes=policy,
        retention_class=message.retention_class,
        late_data_window=span(message, "late_data_window"),
        quotas=quotas(message.quotas),
    )


def entity(message: catalog_pb2.Entity) -> records.Entity:
    return records.Entity(message.entity_id, message.key, moment(message, "create_time"))


def attribute(message: catalog_pb2.Attribute) -> records.Attribute:
    return records.Attribute(
        name=message.name,
        data_type=DataType.from_proto(message.data_type),
        hot=message.hot,
        unit=message.unit,
        validation_regex=message.validation_regex,
        min_value=message.min_value,
        max_value=message.max_value,
        allowed_values=tuple(message.allowed_values),
        attribute_id=message.attribute_id,
    )


def attribute_message(record: records.Attribute) -> catalog_pb2.Attribute:
    return catalog_pb2.Attribute(
        name=record.name,
        data_type=record.data_type.to_proto(),
        hot=record.hot,
        unit=record.unit,
        validation_regex=record.validation_regex,
        min_value=record.min_value,
        max_value=record.max_value,
        allowed_values=record.allowed_values,
    )


def reading(message: query_pb2.Reading) -> records.Reading:
    return records.Reading(
        message.attribute,
        from_proto(message.value),
        from_us(message.event_time_us),
        message.quality,
    )


def entity_state(message: query_pb2.EntityState) -> records.EntityState:
    readings = tuple(reading(each) for each in message.readings)
    return records.EntityState(message.entity_key, message.entity_id, readings)


def read_metadata(message: consistency_pb2.ReadMetadata) -> records.ReadMetadata:
    return records.ReadMetadata(
        source=_SOURCES.get(message.source),
        endpoint=message.endpoint,
        consistency=_LEVELS.get(message.consistency),
        lag=span(message, "lag"),
        as_of=moment(message, "as_of"),
        token=message.token,
        verified_through=moment(message, "verified_through"),
        route_reason=message.route_reason,
        warnings=tuple(message.warnings),
    )


def aggregate_row(
    message: query_pb2.AggregateRow,
    functions: tuple[records.AggregateFunction, ...],
    percentiles: tuple[float, ...],
) -> records.AggregateRow:
    count = len(functions)
    return records.AggregateRow(
        attribute=message.attribute,
        results=dict(zip(functions, message.results[:count], strict=True)),
        percentiles=dict(zip(percentiles, message.results[count:], strict=True)),
        quality=message.quality if message.HasField("quality") else None,
        entity=message.entity_key or None,
        bucket_time=moment(message, "bucket_time"),
    )


def source(number: consistency_pb2.Source.ValueType) -> records.Source | None:
    return _SOURCES.get(number)


def tier(message: query_pb2.Tier) -> records.Tier:
    lag = span(message, "lag")
    return records.Tier(
        source(message.source),
        message.endpoint,
        message.available,
        lag,
        message.breaker,
        message.note,
    )


def digest(message: reconciler_pb2.Digest) -> records.Digest:
    return records.Digest(message.row_count, message.checksum)


def window(message: reconciler_pb2.WindowResult) -> records.WindowResult:
    return records.WindowResult(
        start_time=moment(message, "start_time"),
        end_time=moment(message, "end_time"),
        source=digest(message.source),
        warehouse=digest(message.warehouse),
        matched=message.matched,
    )


def reconcile_summary(message: reconciler_pb2.ReconcileSummary) -> records.ReconcileSummary:
    return records.ReconcileSummary(
        windows_compared=message.windows_compared,
        windows_mismatched=message.windows_mismatched,
        source=digest(message.source),
        warehouse=digest(message.warehouse),
        verified_through=moment(message, "verified_through"),
        report_id=message.report_id,
        tables_mismatched=message.tables_mismatched,
    )


def table_result(message: reconciler_pb2.TableResult) -> records.TableResult:
    return records.TableResult(
        table=message.table,
        source=digest(message.source),
        warehouse=digest(message.warehouse),
        matched=message.matched,
        rows=tuple(_key_difference(row) for row in message.rows),
        complete=message.complete,
    )


def _key_difference(message: reconciler_pb2.KeyDifference) -> records.KeyDifference:
    return records.KeyDifference(
        kind=_DIFFERENCES.get(message.kind, records.DifferenceKind.UNKNOWN),
        key=message.key,
        columns=tuple(
            records.ColumnDifference(
                column.name,
                column.source if column.HasField("source") else None,
                column.warehouse if column.HasField("warehouse") else None,
            )
            for column in message.columns
        ),
    )


def window_differences(
    message: reconciler_pb2.WindowDifferences,
) -> records.WindowDifferences:
    return records.WindowDifferences(
        start_time=moment(message, "start_time"),
        end_time=moment(message, "end_time"),
        rows=tuple(row_difference(row) for row in message.rows),
        complete=message.complete,
    )


def row_difference(message: reconciler_pb2.RowDifference) -> records.RowDifference:
    return records.RowDifference(
        kind=_DIFFERENCES.get(message.kind, records.DifferenceKind.UNKNOWN),
        entity_id=message.entity_id,
        attribute_id=message.attribute_id,
        event_time=moment(message, "event_time"),
        ingest_time=moment(message, "ingest_time"),
        source=_row_version(message.source) if message.HasField("source") else None,
        warehouse=_row_version(message.warehouse) if message.HasField("warehouse") else None,
        copies=message.copies,
    )


def _row_version(message: reconciler_pb2.RowVersion) -> records.RowVersion:
    known = message.data_type in _DATA_TYPES
    data_type = DataType.from_proto(message.data_type) if known else None
    return records.RowVersion(message.quality, data_type, message.value)


def reconciliation_report(
    message: reconciler_pb2.ReconciliationReport,
) -> records.ReconciliationReport:
    return records.ReconciliationReport(
        report_id=message.report_id,
        cause=message.cause,
        create_time=moment(message, "create_time"),
        through_time=moment(message, "through_time"),
        windows_compared=message.windows_compared,
        windows_mismatched=message.windows_mismatched,
        difference_count=message.difference_count,
        complete=message.complete,
        tables=tuple(map(table_result, message.tables)),
    )


def window_repair(message: reconciler_pb2.WindowRepair) -> records.WindowRepair:
    return records.WindowRepair(
        window_differences(message.differences),
        message.rows_deleted,
        message.rows_inserted,
        message.matched,
    )


def repair_summary(message: reconciler_pb2.RepairSummary) -> records.RepairSummary:
    return records.RepairSummary(
        message.windows_compared,
        message.windows_mismatched,
        message.windows_repaired,
        moment(message, "verified_through"),
    )


def verification(message: reconciler_pb2.GetVerificationResponse) -> records.Verification:
    return records.Verification(
        verified_through=moment(message, "verified_through"),
        check_time=moment(message, "check_time"),
        windows_mismatched=message.windows_mismatched,
    )


def verifications(message: reconciler_pb2.ListVerificationsResponse) -> records.Verifications:
    return records.Verifications(
        tenants=tuple(
            records.TenantVerification(
                tenant=one.tenant,
                verified_through=moment(one, "verified_through"),
                check_time=moment(one, "check_time"),
                windows_mismatched=one.windows_mismatched,
                report_id=one.report_id,
                report_time=moment(one, "report_time"),
                report_differences=one.report_differences,
            )
            for one in message.verifications
        ),
        tenant_count=message.tenant_count,
        freshness_budget=span(message, "freshness_budget"),
    )


def staging_status(message: ingest_pb2.GetStagingStatusResponse) -> records.StagingStatus:
    return records.StagingStatus(
        pending_points=message.pending_points,
        pending_points_max=message.pending_points_max,
        flushed_points_total=message.flushed_points_total,
        rejected_points_total=message.rejected_points_total,
        lanes=tuple(
            records.Lane(
                lane=each.lane,
                owned=each.owned,
                sequence=each.sequence,
                staged_points=each.staged_points,
                staged_bytes=each.staged_bytes,
                oldest_age=span(each, "oldest_age"),
                reason=each.reason,
            )
            for each in message.lanes
        ),
    )


def cache_status(message: hotcache_pb2.GetCacheStatusResponse) -> records.CacheStatus:
    return records.CacheStatus(
        connected=message.connected,
        hits_total=message.hits_total,
        misses_total=message.misses_total,
        invalidations_total=message.invalidations_total,
        fills_refused_total=message.fills_refused_total,
        generations_total=message.generations_total,
        lag=span(message, "lag"),
    )


def pipeline_status(message: reconciler_pb2.GetPipelineStatusResponse) -> records.PipelineStatus:
    return records.PipelineStatus(
        phase=message.phase,
        applied_lsn=message.applied_lsn,
        lag=span(message, "lag"),
        read_total=message.read_total,
        applied_total=message.applied_total,
        dead_lettered_total=message.dead_lettered_total,
        skipped_total=message.skipped_total,
        warehouse_rows=message.warehouse_rows,
        slot_retained_bytes=message.slot_retained_bytes,
        as_of=moment(message, "as_of"),
        reason=message.reason,
        held_tables=tuple(
            records.HeldTable(each.table, each.reason, each.dead_letters)
            for each in message.held_tables
        ),
        dead_letters_open=message.dead_letters_open,
        conserved=message.conserved,
        slot=slot_status(message.slot) if message.HasField("slot") else None,
        copy=copy_progress(message.copy) if message.HasField("copy") else None,
        instance=message.instance,
        leader=message.leader,
    )


def slot_status(message: reconciler_pb2.SlotStatus) -> records.SlotStatus:
    return records.SlotStatus(
        name=message.name,
        wal_status=message.wal_status,
        active=message.active,
        safe_bytes=message.safe_bytes if message.HasField("safe_bytes") else None,
        used_share=message.used_share,
        failover=message.failover,
        invalidation_reason=message.invalidation_reason,
    )


def copy_progress(message: reconciler_pb2.CopyProgress) -> records.CopyProgress:
    return records.CopyProgress(
        tables_done=message.tables_done,
        tables_total=message.tables_total,
        tenants_done=message.tenants_done,
        tenants_total=message.tenants_total,
        percent=message.percent,
        rows_compared=message.rows_compared,
        rows_differing=message.rows_differing,
        rows_copied=message.rows_copied,
        rows_rejected=message.rows_rejected,
        spans_copied=message.spans_copied,
    )


def moment(message: Message, field: str) -> datetime | None:
    """Return a Timestamp field's UTC datetime; None when it is unset."""
    if not message.HasField(field):
        return None
    timestamp = getattr(message, field)
    assert isinstance(timestamp, Timestamp)
    return from_timestamp(timestamp)


def span(message: Message, field: str) -> timedelta | None:
    """Return a Duration field's timedelta; None when it is unset."""
    if not message.HasField(field):
        return None
    duration = getattr(message, field)
    assert isinstance(duration, Duration)
    return duration.ToTimedelta()
