"""Messages to domain and back, for the catalog."""

from atlas.catalog.v1 import catalog_service_pb2 as pb
from atlas_common import errors
from atlas_common.values import (
    DataType,
    data_type_from_proto,
    data_type_to_proto,
    datetime_to_us,
    decimal_text,
    us_to_timestamp,
)
from atlas_ingest import definitions
from atlas_ingest.definitions import AttributeDraft
from atlas_ingest.store import AttributeRow, EntityRow, TenantRow

_POLICIES = {
    pb.UNKNOWN_ATTRIBUTE_POLICY_UNSPECIFIED: "reject",
    pb.UNKNOWN_ATTRIBUTE_POLICY_REJECT: "reject",
    pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER: "register",
}
_POLICY_MESSAGES = {
    "reject": pb.UNKNOWN_ATTRIBUTE_POLICY_REJECT,
    "register": pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER,
}


def policy_of(request: pb.CreateTenantRequest) -> str:
    """The policy's name in the database. Raises ServiceError INVALID_FIELD."""
    policy = _POLICIES.get(request.unknown_attribute_policy)
    if policy is None:
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"unknown_attribute_policy {request.unknown_attribute_policy} is not known here",
            field="unknown_attribute_policy",
        )
    return policy


def tenant_message(row: TenantRow) -> pb.Tenant:
    """A tenant."""
    return pb.Tenant(
        tenant_id=row.tenant_id,
        key=row.key,
        display_name=row.display_name,
        unknown_attribute_policy=_POLICY_MESSAGES[row.unknown_attribute_policy],
        create_time=us_to_timestamp(datetime_to_us(row.created_at)),
    )


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
