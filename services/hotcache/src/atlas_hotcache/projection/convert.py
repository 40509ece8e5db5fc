"""Between messages and jobs; the only place that knows both."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from google.protobuf.message import DecodeError

from atlas.hotcache.v1 import hotcache_service_pb2
from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common import errors, values
from atlas_common.limits import check_bytes, check_items
from atlas_common.values import datetime_to_us, us_to_timestamp
from atlas_hotcache.projection.cache_check import CachedValue
from atlas_hotcache.projection.jobs import Job, Kind, State
from atlas_hotcache.projection.store import JobDraft

PAGE_DEFAULT, PAGE_MAX = 50, 200
_KINDS = {
    Kind.PROMOTE: pb.PROJECTION_JOB_KIND_PROMOTE,
    Kind.DEMOTE: pb.PROJECTION_JOB_KIND_DEMOTE,
    Kind.REBUILD: pb.PROJECTION_JOB_KIND_REBUILD,
    Kind.VERIFY: pb.PROJECTION_JOB_KIND_VERIFY,
}
_STATES = {
    State.RUNNING: pb.PROJECTION_JOB_STATE_RUNNING,
    State.DONE: pb.PROJECTION_JOB_STATE_DONE,
    State.FAILED: pb.PROJECTION_JOB_STATE_FAILED,
    State.CANCELLED: pb.PROJECTION_JOB_STATE_CANCELLED,
}
_DIFFERENCES = {
    "missing": pb.ProjectionDifference.KIND_MISSING,
    "extra": pb.ProjectionDifference.KIND_EXTRA,
    "older": pb.ProjectionDifference.KIND_OLDER,
    "newer": pb.ProjectionDifference.KIND_NEWER,
    "wrong": pb.ProjectionDifference.KIND_WRONG,
}
_PLACES = {
    "projection": pb.ProjectionDifference.PLACE_PROJECTION,
    "cache": pb.ProjectionDifference.PLACE_CACHE,
}


def attribute_name(
    request: pb.PromoteAttributeRequest | pb.DemoteAttributeRequest | pb.PinAttributeRequest,
) -> str:
    """The name asked for. Raises ServiceError INVALID_ARGUMENT naming the field."""
    check_bytes(request, "attribute")
    return request.attribute


def entity_keys(
    request: pb.RebuildProjectionRequest | pb.VerifyProjectionRequest,
) -> tuple[str, ...] | None:
    """The keys asked for, None for all. Raises ServiceError INVALID_ARGUMENT naming the field."""
    check_items(request, "entity_keys")
    for index, key in enumerate(request.entity_keys):
        if "\0" in key:
            raise errors.invalid_argument(
                "ENTITY_KEY_INVALID",
                "an entity's key has no control characters; this one has U+0000",
                field=f"entity_keys[{index}]",
            )
    return tuple(dict.fromkeys(request.entity_keys)) or None


def rebuild_draft(
    request: pb.RebuildProjectionRequest, entity_ids: tuple[int, ...] | None
) -> JobDraft:
    """The job. Raises ServiceError INVALID_ARGUMENT naming the field."""
    return JobDraft(
        Kind.REBUILD,
        entity_ids=entity_ids,
        dry_run=request.dry_run,
        request_id=_request_id(request),
    )


def verify_draft(
    request: pb.VerifyProjectionRequest, entity_ids: tuple[int, ...] | None
) -> JobDraft:
    """The job. Raises ServiceError INVALID_ARGUMENT naming the field."""
    if not 0 <= request.sample_percent <= 100:
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"sample_percent is {request.sample_percent}, want 1 to 100, or 0 for all",
            field="sample_percent",
        )
    return JobDraft(
        Kind.VERIFY,
        entity_ids=entity_ids,
        sample_percent=request.sample_percent or 100,
        repair=request.repair,
        request_id=_request_id(request),
    )


def page(request: pb.ListProjectionJobsRequest) -> tuple[int, int]:
    """Where the page begins, and its size. Raises ServiceError INVALID_ARGUMENT."""
    for field in ("page_size", "before_job_id"):
        if getattr(request, field) < 0:
            raise errors.invalid_argument("INVALID_FIELD", f"{field} is negative", field=field)
    return request.before_job_id, min(request.page_size or PAGE_DEFAULT, PAGE_MAX)


def job_message(
    job: Job, attributes: Mapping[int, str], keys: Mapping[int, str]
) -> pb.ProjectionJob:
    """A job, with the names of these attributes and the keys of these entities."""
    progress = job.progress
    message = pb.ProjectionJob(
        job_id=job.job_id,
        kind=_KINDS[job.kind],
        state=_STATES[job.state],
        step=job.step.value,
        dry_run=job.dry_run,
        repair=job.repair,
        attribute="" if job.attribute_id is None else attributes.get(job.attribute_id, ""),
        sample_percent=job.sample_percent,
        entities_total=progress.entities_total,
        entities_done=progress.entities_done,
        entities_changed=progress.entities_changed,
        point_count=progress.point_count,
        byte_count=progress.byte_count,
        missing_count=progress.missing_count,
        extra_count=progress.extra_count,
        different_count=progress.different_count,
        cache_count=progress.cache_count,
        repaired_count=progress.repaired_count,
        uncompared_count=progress.uncompared_count,
        message=job.message,
        create_time=_time(job.created_at),
        update_time=_time(job.updated_at),
        finish_time=None if job.finished_at is None else _time(job.finished_at),
    )
    for one in job.differences:
        message.differences.append(_difference(one, attributes, keys))
    return message


def difference_ids(job: Job) -> tuple[int, ...]:
    """The entities that its differences name."""
    return tuple(one["entity_id"] for one in job.differences)


def cached_values(body: bytes) -> dict[str, CachedValue] | None:
    """What an entry's body holds, by attribute; None if these bytes are none."""
    message = hotcache_service_pb2.HotEntity()
    try:
        message.MergeFromString(body)
        return {one.attribute: CachedValue(_text(one), one.event_time_us) for one in message.values}
    except (DecodeError, ArithmeticError):
        return None


def _text(one: hotcache_service_pb2.HotValue) -> str:
    typed = values.from_proto(one.value)
    if typed is None:
        return ""
    value = typed[1]
    if isinstance(value, bool):
        return str(value).lower()
    return values.decimal_text(value) if isinstance(value, Decimal) else str(value)


def _request_id(
    request: pb.RebuildProjectionRequest | pb.VerifyProjectionRequest,
) -> str | None:
    check_bytes(request, "request_id")
    return request.request_id or None


def _difference(
    one: Mapping[str, Any], attributes: Mapping[int, str], keys: Mapping[int, str]
) -> pb.ProjectionDifference:
    name = one.get("attribute")
    message = pb.ProjectionDifference(
        place=_PLACES[one["place"]],
        kind=_DIFFERENCES[one["kind"]],
        entity_id=one["entity_id"],
        entity_key=keys.get(one["entity_id"], ""),
        attribute=attributes.get(one["attribute_id"], "") if name is None else name,
        expected=one["expected"] or "",
        found=one["found"] or "",
    )
    if one["expected_us"] is not None:
        message.expected_time.CopyFrom(us_to_timestamp(one["expected_us"]))
    if one["found_us"] is not None:
        message.found_time.CopyFrom(us_to_timestamp(one["found_us"]))
    return message


def _time(moment: datetime) -> Any:
    return us_to_timestamp(datetime_to_us(moment))
