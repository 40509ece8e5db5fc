"""Messages to domain and back, for the catalog."""

from datetime import timedelta

from google.protobuf import duration_pb2
from google.protobuf.message import Message

from atlas.catalog.v1 import catalog_service_pb2 as pb
from atlas_common import errors
from atlas_common.quotas import NO_QUOTAS, QUOTAS, Quotas
from atlas_common.values import (
    DataType,
    data_type_from_proto,
    data_type_to_proto,
    datetime_to_us,
    decimal_text,
    us_to_timestamp,
)
from atlas_ingest.catalog import definitions
from atlas_ingest.catalog.acts import ActRow
from atlas_ingest.catalog.definitions import AttributeDraft
from atlas_ingest.catalog.tenants import LATE_DATA_WINDOW_MAX, RETENTION_CLASS_DEFAULT, TenantDraft
from atlas_ingest.store import AttributeRow, EntityColumns, EntityRow, TenantRow

_RATE_MIN, _QUOTA_MAX = 0.001, 1e12
_COUNTS_MAX = {"attributes": 100_000, "concurrent_streams": 1_000_000}
_POLICIES = {
    pb.UNKNOWN_ATTRIBUTE_POLICY_UNSPECIFIED: "reject",
    pb.UNKNOWN_ATTRIBUTE_POLICY_REJECT: "reject",
    pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER: "register",
}
_POLICY_MESSAGES = {
    "reject": pb.UNKNOWN_ATTRIBUTE_POLICY_REJECT,
    "register": pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER,
}


def tenant_draft(request: pb.CreateTenantRequest) -> TenantDraft:
    """The fields of a tenant. Raises ServiceError INVALID_FIELD."""
    policy = _POLICIES.get(request.unknown_attribute_policy)
    if policy is None:
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"unknown_attribute_policy {request.unknown_attribute_policy} is not known here",
            field="unknown_attribute_policy",
        )
    given = request.HasField("late_data_window")
    return TenantDraft(
        display_name=request.display_name,
        unknown_attribute_policy=policy,
        retention_class=request.retention_class or RETENTION_CLASS_DEFAULT,
        late_data_window=_late_data_window(request.late_data_window) if given else None,
        quotas=_quotas(request.quotas),
    )


def _late_data_window(window: duration_pb2.Duration) -> timedelta:
    # From its numbers: ToTimedelta() raises for what is no duration.
    microseconds = window.seconds * 1_000_000 + window.nanos // 1_000
    most = LATE_DATA_WINDOW_MAX // timedelta(microseconds=1)
    if not 0 < microseconds <= most or not abs(window.nanos) < 1_000_000_000:
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"late_data_window of {window.seconds} s is not between 1 us and"
            f" {LATE_DATA_WINDOW_MAX.days} days: leave it out for the platform's",
            field="late_data_window",
        )
    return timedelta(microseconds=microseconds)


def _quotas(message: Message) -> Quotas:
    for name in QUOTAS:
        value = getattr(message, name)
        is_count = isinstance(value, int)
        low, most = (0, _COUNTS_MAX.get(name, _QUOTA_MAX)) if is_count else (_RATE_MIN, _QUOTA_MAX)
        if message.HasField(name) and not low <= value <= most:
            raise errors.invalid_argument(
                "INVALID_FIELD",
                f"quotas.{name} of {value} is not between {low:g} and {most:g}: leave it out for"
                " the platform's",
                field=f"quotas.{name}",
            )
    return Quotas.of({name: getattr(message, name) for name in QUOTAS if message.HasField(name)})


def tenant_message(row: TenantRow) -> pb.Tenant:
    """A tenant."""
    message = pb.Tenant(
        tenant_id=row.tenant_id,
        key=row.key,
        display_name=row.display_name,
        unknown_attribute_policy=_POLICY_MESSAGES[row.unknown_attribute_policy],
        create_time=us_to_timestamp(datetime_to_us(row.created_at)),
        retention_class=row.retention_class,
    )
    if row.late_data_window is not None:
        message.late_data_window.FromTimedelta(row.late_data_window)
    if row.quotas != NO_QUOTAS:
        own = row.quotas.to_stored()
        message.quotas.CopyFrom(pb.Quotas(**own))  # type: ignore[arg-type]  # Counts are whole.
    return message


def entity_messages(entities: EntityColumns) -> dict[str, pb.Entity]:
    """Key -> entity."""
    columns = zip(entities.keys, entities.entity_ids, entities.created_us, strict=True)
    return {
        key: pb.Entity(entity_id=entity_id, key=key, create_time=us_to_timestamp(created_us))
        for key, entity_id, created_us in columns
    }


def entity_message(row: EntityRow) -> pb.Entity:
    """An entity."""
    return pb.Entity(
        entity_id=row.entity_id,
        key=row.key,
        create_time=us_to_timestamp(datetime_to_us(row.created_at)),
    )


def attribute_draft(index: int, attribute: pb.Attribute) -> AttributeDraft:
    """The definition in `attributes[index]`. Raises ServiceError INVALID_FIELD."""
    try:
        return definitions.draft_of(
            name=attribute.name,
            data_type=data_type_from_proto(attribute.data_type),
            is_hot=attribute.hot,
            unit=attribute.unit,
            validation_regex=attribute.validation_regex,
            min_value=attribute.min_value,
            max_value=attribute.max_value,
            allowed_values=tuple(attribute.allowed_values),
        )
    except definitions.DefinitionError as error:
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"attributes[{index}]: {error}",
            field=f"attributes[{index}].{error.field}",
            index=index,
            attribute=attribute.name[:64],
        ) from None


def attribute_message(row: AttributeRow) -> pb.Attribute:
    """An attribute."""
    return pb.Attribute(
        attribute_id=row.attribute_id,
        name=row.name,
        data_type=data_type_to_proto(DataType(row.data_type)),
        unit=row.unit,
        validation_regex=row.validation_regex,
        min_value="" if row.min_value is None else decimal_text(row.min_value),
        max_value="" if row.max_value is None else decimal_text(row.max_value),
        allowed_values=row.allowed_values,
        hot=row.is_hot,
        create_time=us_to_timestamp(datetime_to_us(row.created_at)),
    )


def act_message(row: ActRow) -> pb.AdministrativeAct:
    """An act of the audit log."""
    ended = None if row.ended_at is None else us_to_timestamp(datetime_to_us(row.ended_at))
    return pb.AdministrativeAct(
        act_id=row.act_id,
        begin_time=us_to_timestamp(datetime_to_us(row.begun_at)),
        end_time=ended,
        actor=row.actor,
        actor_tenant=row.actor_tenant,
        method=row.method,
        request_id=row.request_id,
        request=row.request,
        outcome=row.outcome,
    )
