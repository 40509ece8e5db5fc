"""Between protos and the domain, for reconciliation; as `convert` for the rest."""

from google.protobuf.timestamp_pb2 import Timestamp

from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas_cdc_reconciler.bisect import Found
from atlas_cdc_reconciler.canonical import untagged
from atlas_cdc_reconciler.catalog_comparison import TableComparison
from atlas_cdc_reconciler.differences import Difference, DifferenceKind, Version
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.reconcile import Event, Outcome, WindowDifferences
from atlas_cdc_reconciler.repair import RepairOutcome, Request, WindowRepair
from atlas_cdc_reconciler.report_store import Report
from atlas_cdc_reconciler.windows import Span, WindowComparison
from atlas_common import errors
from atlas_common.caller import acting
from atlas_common.limits import check_bytes
from atlas_common.values import data_type_to_proto, timestamp_to_us, us_to_timestamp

_US_MAX = 253_402_300_799_999_999  # The last microsecond that Python's dates know.
_PAGE_DEFAULT, _PAGE_MAX = 100, 1_000
_KINDS = {
    DifferenceKind.MISSING: pb.DIFFERENCE_KIND_MISSING,
    DifferenceKind.EXTRA: pb.DIFFERENCE_KIND_EXTRA,
    DifferenceKind.DIFFERENT: pb.DIFFERENCE_KIND_DIFFERENT,
}


def through_us(request: pb.ReconcileRequest) -> int | None:
    """The moment up to which to compare; None: now. Raises ServiceError INVALID_ARGUMENT."""
    if not request.HasField("through_time"):
        return None
    return _moment_us(request.through_time, "through_time")


def report_page(request: pb.GetReconciliationReportRequest) -> tuple[int, int, int]:
    """(report, rows after this number, rows at most). Raises ServiceError INVALID_ARGUMENT."""
    for field in ("report_id", "page_size", "after_number"):
        if getattr(request, field) < 0:
            raise _invalid(field, f"{field} is negative")
    size = min(request.page_size or _PAGE_DEFAULT, _PAGE_MAX)
    return request.report_id, request.after_number, size


def repair_request(request: pb.RepairRangeRequest) -> Request:
    """What is to be repaired. Raises ServiceError INVALID_ARGUMENT naming the field."""
    for field in ("operator", "request_id"):
        check_bytes(request, field)
    for field in ("start_time", "end_time"):
        if not request.HasField(field):  # type: ignore[arg-type]
            raise _invalid(field, f"{field} is missing: name the range of ingestion to repair")
    start = _moment_us(request.start_time, "start_time")
    stop = _moment_us(request.end_time, "end_time")
    if stop <= start:
        raise _invalid("end_time", "end_time is not behind start_time")
    if not request.operator and not request.dry_run:
        raise _invalid("operator", "say who repairs: it is written into the audit log")
    return Request(Span(start, stop), acting(request.operator), request.request_id, request.dry_run)


def reconcile_response(event: Event) -> pb.ReconcileResponse:
    """One message of a reconciliation."""
    match event:
        case TableComparison():
            return pb.ReconcileResponse(table=_table(event))
        case WindowComparison():
            window = pb.WindowResult(
                start_time=us_to_timestamp(event.span.start_us),
                end_time=us_to_timestamp(event.span.stop_us),
                source=_digest(event.source),
                warehouse=_digest(event.warehouse),
                matched=event.is_matched,
            )
            return pb.ReconcileResponse(window=window)
        case WindowDifferences():
            return pb.ReconcileResponse(differences=_differences(event.span, event.found))
        case Outcome():
            summary = pb.ReconcileSummary(
                windows_compared=event.windows_compared,
                windows_mismatched=event.windows_mismatched,
                source=_digest(event.source),
                warehouse=_digest(event.warehouse),
                verified_through=_timestamp(event.verified_through_us),
                report_id=event.report_id,
                tables_mismatched=event.tables_mismatched,
            )
            return pb.ReconcileResponse(summary=summary)


def _table(comparison: TableComparison) -> pb.TableResult:
    return pb.TableResult(
        table=comparison.table,
        source=_digest(comparison.source),
        warehouse=_digest(comparison.warehouse),
        matched=comparison.is_matched,
        rows=[
            pb.KeyDifference(
                kind=_KINDS[one.kind],
                key=one.key,
                columns=[
                    pb.ColumnDifference(
                        name=column.name, source=column.source, warehouse=column.warehouse
                    )
                    for column in one.columns
                ],
            )
            for one in comparison.differences
        ],
        complete=comparison.is_complete,
    )


def report_response(
    report: Report, rows: list[Difference], after: int
) -> pb.GetReconciliationReportResponse:
    """A page of a report."""
    last = after + len(rows)
    return pb.GetReconciliationReportResponse(
        report=pb.ReconciliationReport(
            report_id=report.report_id,
            cause=report.cause.value,
            create_time=us_to_timestamp(report.made_at_us),
            through_time=us_to_timestamp(report.through_us),
            windows_compared=report.windows_compared,
            windows_mismatched=report.windows_mismatched,
            difference_count=report.difference_count,
            complete=report.is_complete,
            tables=[_table(table) for table in report.tables],
        ),
        rows=[_row(one) for one in rows],
        last_number=last if last < report.difference_count else 0,
    )


def repair_response(event: WindowRepair | RepairOutcome) -> pb.RepairRangeResponse:
    """One message of a repair."""
    if isinstance(event, WindowRepair):
        return pb.RepairRangeResponse(
            window=pb.WindowRepair(
                differences=_differences(event.span, event.found),
                rows_deleted=event.rows_deleted,
                rows_inserted=event.rows_inserted,
                matched=event.is_equal,
            )
        )
    return pb.RepairRangeResponse(
        summary=pb.RepairSummary(
            windows_compared=event.windows_compared,
            windows_mismatched=event.windows_mismatched,
            windows_repaired=event.windows_repaired,
            verified_through=_timestamp(event.verified_through_us),
        )
    )


def _differences(span: Span, found: Found) -> pb.WindowDifferences:
    return pb.WindowDifferences(
        start_time=us_to_timestamp(span.start_us),
        end_time=us_to_timestamp(span.stop_us),
        rows=[_row(one) for one in found.differences],
        complete=found.is_complete,
    )


def _row(one: Difference) -> pb.RowDifference:
    return pb.RowDifference(
        kind=_KINDS[one.kind],
        entity_id=one.entity_id,
        attribute_id=one.attribute_id,
        event_time=us_to_timestamp(one.event_us),
        ingest_time=us_to_timestamp(one.ingested_us),
        source=_version(one.source),
        warehouse=_version(one.warehouse),
        copies=one.copies,
    )


def _version(version: Version | None) -> pb.RowVersion | None:
    if version is None:
        return None
    data_type, value = untagged(version.value)
    return pb.RowVersion(
        quality=version.quality, data_type=data_type_to_proto(data_type), value=value
    )


def _digest(digest: Digest) -> pb.Digest:
    return pb.Digest(row_count=digest.rows, checksum=digest.checksum)


def _timestamp(us: int | None) -> Timestamp | None:
    return None if us is None else us_to_timestamp(us)


def _moment_us(message: Timestamp, field: str) -> int:
    moment = timestamp_to_us(message)
    if not 0 <= moment <= _US_MAX:
        raise _invalid(field, f"{field} is not between 1970 and 9999")
    return moment


def _invalid(field: str, message: str) -> errors.ServiceError:
    return errors.invalid_argument("INVALID_FIELD", message, field=field)
