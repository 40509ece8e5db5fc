"""Policies between the wire and the store."""

from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from atlas.catalog.v1 import policy_service_pb2 as pb
from atlas_common import errors
from atlas_common.limits import check_bytes, check_items
from atlas_common.values import datetime_to_us, timestamp_to_us, us_to_datetime
from atlas_ingest.policies.store import Draft, PolicyRow, RunRow

_SECONDS_MIN, _SECONDS_MAX = 1.0, 366 * 86_400.0
_FIELDS = ("schedule_interval", "scheduled", "tenants", "next_start_time")
_STATUSES = {
    "running": pb.POLICY_RUN_STATUS_RUNNING,
    "success": pb.POLICY_RUN_STATUS_SUCCESS,
    "unfinished": pb.POLICY_RUN_STATUS_UNFINISHED,
    "failed": pb.POLICY_RUN_STATUS_FAILED,
    "interrupted": pb.POLICY_RUN_STATUS_INTERRUPTED,
}


def added(request: pb.AddPolicyRequest) -> Draft:
    """What is to be added. Raises ServiceError INVALID_ARGUMENT naming the field."""
    check_bytes(request, "job", required=True)
    if "\0" in request.job:
        raise errors.invalid_argument("TEXT_HAS_NUL", "job holds U+0000: remove it", field="job")
    if not request.HasField("schedule_interval"):
        raise errors.invalid_argument(
            "INVALID_FIELD",
            "schedule_interval is missing: say how often",
            field="schedule_interval",
        )
    return Draft(
        sets_interval=True,
        seconds=_seconds(request, "schedule_interval"),
        tenants=_tenants(request, "tenants"),
        next_start=_moment(request, "next_start_time"),
    )


def altered(request: pb.AlterPolicyRequest) -> Draft:
    """What is to be changed. Raises ServiceError INVALID_ARGUMENT naming the field."""
    policy, names = request.policy, set(request.update_mask.paths)
    unknown = sorted(names - set(_FIELDS))
    if unknown or not names:
        what = f"update_mask names {unknown[0][:100]!r}" if unknown else "update_mask is empty"
        raise errors.invalid_argument(
            "INVALID_FIELD", f"{what}: name some of {', '.join(_FIELDS)}", field="update_mask"
        )
    draft_interval = "schedule_interval" in names
    return Draft(
        sets_interval=draft_interval,
        seconds=_seconds(policy, "policy.schedule_interval") if draft_interval else None,
        is_scheduled=policy.scheduled if "scheduled" in names else None,
        tenants=_tenants(policy, "policy.tenants") if "tenants" in names else None,
        next_start=(
            _moment(policy, "policy.next_start_time") if "next_start_time" in names else None
        ),
    )


def policy_message(row: PolicyRow) -> pb.Policy:
    """As it is shown."""
    message = pb.Policy(
        policy_id=row.policy_id,
        job=row.job,
        default=row.is_default,
        tenants=row.tenants,
        interval_from_settings=row.is_setting,
        scheduled=row.is_scheduled,
        requested=row.is_requested,
    )
    if row.interval is not None:
        message.schedule_interval.FromTimedelta(row.interval)
        if row.is_scheduled:
            message.next_start_time.CopyFrom(timestamp(row.next_start))
    if row.last_run is not None:
        message.last_run.CopyFrom(_run(row.last_run))
    if row.last_dry_run is not None:
        message.last_dry_run.CopyFrom(_run(row.last_dry_run))
    return message


def timestamp(moment: datetime) -> Timestamp:
    """On the wire."""
    made = Timestamp()
    made.FromMicroseconds(datetime_to_us(moment.astimezone(UTC)))
    return made


def _run(row: RunRow) -> pb.PolicyRun:
    message = pb.PolicyRun(
        status=_STATUSES[row.status],
        start_time=timestamp(row.started_at),
        summary=row.summary,
        runner=row.runner,
        run_count=row.run_count,
        failure_count=row.failure_count,
    )
    if row.ended_at is not None:
        message.end_time.CopyFrom(timestamp(row.ended_at))
    return message


def _seconds(message: pb.AddPolicyRequest | pb.Policy, field: str) -> float | None:
    if not message.HasField("schedule_interval"):
        return None
    interval = message.schedule_interval
    seconds = interval.seconds + interval.nanos / 1e9
    if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"schedule_interval is {seconds:g} s, want a second to 366 days",
            field=field,
        )
    return seconds


def _tenants(message: pb.AddPolicyRequest | pb.Policy, field: str) -> Sequence[str]:
    check_items(message, "tenants", path=field)
    for key in message.tenants:
        if "\0" in key:
            raise errors.invalid_argument(
                "TEXT_HAS_NUL", "a key of a tenant holds U+0000: remove it", field=field
            )
    return tuple(message.tenants)


def _moment(message: pb.AddPolicyRequest | pb.Policy, field: str) -> datetime | None:
    if not message.HasField("next_start_time"):
        return None
    try:
        return us_to_datetime(timestamp_to_us(message.next_start_time))
    except (ValueError, OverflowError):
        raise errors.invalid_argument(
            "INVALID_FIELD", "next_start_time is no time of the years 1 to 9999", field=field
        ) from None
