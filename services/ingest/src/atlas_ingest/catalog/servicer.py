"""CatalogService over gRPC: tenants, entities, attributes."""

from collections.abc import Sequence
from typing import Any

import grpc.aio
from typing_extensions import override

from atlas.catalog.v1 import catalog_service_pb2 as pb
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas_common import errors
from atlas_common.db import PostgresTenants
from atlas_common.errors import ServiceError
from atlas_common.limits import check_bytes, check_items
from atlas_common.metering import QuotaMeters, exceeded_count
from atlas_common.tenant import check_tenant_key, current_tenant
from atlas_common.token import TokenSigner
from atlas_ingest.catalog import convert
from atlas_ingest.catalog.acts import ActReader
from atlas_ingest.catalog.definitions import AttributeDraft
from atlas_ingest.catalog.resolver import Resolver
from atlas_ingest.catalog.tenants import FIELDS, TenantDraft
from atlas_ingest.rules import clip
from atlas_ingest.store import (
    AttributeConflictError,
    RetentionClassUnknownError,
    Store,
    TenantRow,
)
from atlas_ingest.validate import entity_key_problem

Context = grpc.aio.ServicerContext[Any, Any]
_PAGE_SIZE_DEFAULT = 1_000
_TENANTS_PAGE_MAX = 1_000
_ACTS_PAGE_MAX = 1_000
_PAGE_MAX = 10_000
_MESSAGES = ("late_data_window", "quotas")  # Fields of a tenant that are messages.
_NO_TENANT = 0  # In page tokens of lists that belong to no tenant.


class CatalogServicer(catalog_service_pb2_grpc.CatalogServiceServicer):
    """Keeps the catalog."""

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        tenants: PostgresTenants,
        signer: TokenSigner,
        *,
        meters: QuotaMeters,
        acts: ActReader,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._tenants = tenants
        self._pages = _Pages(signer)
        self._meters = meters
        self._acts = acts

    @override
    async def CreateTenant(
        self, request: pb.CreateTenantRequest, context: Context
    ) -> pb.CreateTenantResponse:
        """Make a tenant, or answer the one that is there."""
        _check_key(request.key, "key")
        draft = _tenant_draft(request, "")
        try:
            row, created = await self._store.create_tenant(request.key, draft)
        except RetentionClassUnknownError as error:
            raise _class_unknown(draft, error, "") from None
        if not created:
            _check_same(request, draft, row)
        self._tenants.forget(request.key)
        return pb.CreateTenantResponse(tenant=convert.tenant_message(row), created=created)

    @override
    async def UpdateTenant(
        self, request: pb.UpdateTenantRequest, context: Context
    ) -> pb.UpdateTenantResponse:
        """Change the fields of a tenant that the mask names."""
        fields = _masked_fields(request.update_mask.paths)
        _check_key(request.tenant.key, "tenant.key")
        draft = _tenant_draft(_masked(request.tenant, fields), "tenant.")
        try:
            row = await self._store.update_tenant(request.tenant.key, draft, fields)
        except RetentionClassUnknownError as error:
            raise _class_unknown(draft, error, "tenant.") from None
        if row is None:
            raise errors.not_found(
                "TENANT_UNKNOWN",
                f"there is no tenant {request.tenant.key!r}: make it with CreateTenant",
                tenant=request.tenant.key,
            )
        self._resolver.forget_tenant(row.tenant_id)
        self._tenants.forget(row.key)
        return pb.UpdateTenantResponse(tenant=convert.tenant_message(row))

    @override
    async def ListTenants(
        self, request: pb.ListTenantsRequest, context: Context
    ) -> pb.ListTenantsResponse:
        """A page of all tenants."""
        size = _page_size(request.page_size, _TENANTS_PAGE_MAX)
        after = self._pages.open(request.page_token, _NO_TENANT, "tenants")
        rows = await self._store.list_tenants(after, size + 1)
        ids = [row.tenant_id for row in rows]
        return pb.ListTenantsResponse(
            tenants=map(convert.tenant_message, rows[:size]),
            next_page_token=self._pages.next(ids, size, _NO_TENANT, "tenants"),
        )

    @override
    async def BatchCreateEntities(
        self, request: pb.BatchCreateEntitiesRequest, context: Context
    ) -> pb.BatchCreateEntitiesResponse:
        """Make the entities that are missing."""
        check_items(request, "keys")
        for index, key in enumerate(request.keys):
            problem = entity_key_problem(key)
            if problem is not None:
                raise errors.invalid_argument(
                    "ENTITY_KEY_INVALID",
                    f"keys[{index}] {problem}",
                    field=f"keys[{index}]",
                    index=index,
                )
        if not request.keys:
            return pb.BatchCreateEntitiesResponse()
        tenant = current_tenant()
        wanted = list(dict.fromkeys(request.keys))
        entities_max = self._meters.entities(tenant)
        entities = await self._store.create_entities(tenant, wanted, entities_max)
        self._resolver.remember_entities(tenant, entities)
        if len(entities.keys) < len(wanted):
            raise exceeded_count(tenant, "entities", entities_max)
        by_key = convert.entity_messages(entities)
        return pb.BatchCreateEntitiesResponse(
            entities=[by_key[key] for key in request.keys], created_count=entities.created_count
        )

    @override
    async def ListEntities(
        self, request: pb.ListEntitiesRequest, context: Context
    ) -> pb.ListEntitiesResponse:
        """A page of the tenant's entities."""
        tenant = current_tenant()
        size = _page_size(request.page_size, _PAGE_MAX)
        after = self._pages.open(request.page_token, tenant.id, "entities")
        rows = await self._store.list_entities(tenant, after, size + 1)
        ids = [row.entity_id for row in rows]
        return pb.ListEntitiesResponse(
            entities=map(convert.entity_message, rows[:size]),
            next_page_token=self._pages.next(ids, size, tenant.id, "entities"),
        )

    @override
    async def BatchUpsertAttributes(
        self, request: pb.BatchUpsertAttributesRequest, context: Context
    ) -> pb.BatchUpsertAttributesResponse:
        """Make or change attributes, all or none."""
        check_items(request, "attributes")
        drafts = _drafts(request)
        if not drafts:
            return pb.BatchUpsertAttributesResponse()
        tenant = current_tenant()
        try:
            rows = await self._store.upsert_attributes(
                tenant, drafts, self._meters.attributes(tenant)
            )
        except AttributeConflictError as error:
            raise _conflict(drafts, error) from None
        self._resolver.remember_attributes(tenant, rows)
        by_name = {row.name: convert.attribute_message(row) for row in rows}
        return pb.BatchUpsertAttributesResponse(
            attributes=[by_name[draft.name] for draft in drafts],
            created_count=sum(row.created for row in rows),
        )

    @override
    async def ListAttributes(
        self, request: pb.ListAttributesRequest, context: Context
    ) -> pb.ListAttributesResponse:
        """A page of the tenant's attributes."""
        tenant = current_tenant()
        size = _page_size(request.page_size, _PAGE_MAX)
        after = self._pages.open(request.page_token, tenant.id, "attributes")
        rows = await self._store.list_attributes(tenant, after, size + 1)
        ids = [row.attribute_id for row in rows]
        return pb.ListAttributesResponse(
            attributes=map(convert.attribute_message, rows[:size]),
            next_page_token=self._pages.next(ids, size, tenant.id, "attributes"),
        )

    @override
    async def ListAdministrativeActs(
        self, request: pb.ListAdministrativeActsRequest, context: Context
    ) -> pb.ListAdministrativeActsResponse:
        """A page of the tenant's audit log."""
        tenant = current_tenant()
        size = _page_size(request.page_size, _ACTS_PAGE_MAX)
        before = self._pages.open(request.page_token, tenant.id, "acts")
        rows = await self._acts.of_tenant(tenant, before, size + 1)
        ids = [row.act_id for row in rows]
        return pb.ListAdministrativeActsResponse(
            acts=map(convert.act_message, rows[:size]),
            next_page_token=self._pages.next(ids, size, tenant.id, "acts"),
        )

    @override
    async def ListPlatformActs(
        self, request: pb.ListPlatformActsRequest, context: Context
    ) -> pb.ListPlatformActsResponse:
        """A page of the platform's own."""
        size = _page_size(request.page_size, _ACTS_PAGE_MAX)
        before = self._pages.open(request.page_token, _NO_TENANT, "acts")
        rows = await self._acts.of_platform(before, size + 1)
        ids = [row.act_id for row in rows]
        return pb.ListPlatformActsResponse(
            acts=map(convert.act_message, rows[:size]),
            next_page_token=self._pages.next(ids, size, _NO_TENANT, "acts"),
        )


class _Pages:
    """Page tokens of lists in the order of an id: the cursor is the last id of the page before."""

    def __init__(self, signer: TokenSigner) -> None:
        self._signer = signer

    def open(self, token: str, tenant_id: int, name: str) -> int:
        cursor = self._signer.open_page(token, tenant_id, name.encode())
        return int(cursor) if cursor else 0

    def next(self, ids: Sequence[int], size: int, tenant_id: int, name: str) -> str:
        """The token of the page after; "" when the row beyond this page was not found."""
        if len(ids) <= size:
            return ""
        return self._signer.seal_page(tenant_id, name.encode(), str(ids[size - 1]).encode())


def _page_size(asked: int, most: int) -> int:
    if asked < 0:
        raise errors.invalid_argument(
            "INVALID_FIELD", f"page_size {asked} is negative", field="page_size"
        )
    return min(asked or _PAGE_SIZE_DEFAULT, most)


def _check_key(key: str, field: str) -> None:
    try:
        check_tenant_key(key)
    except ServiceError as error:
        raise errors.invalid_argument(error.reason, error.message, field=field) from None


def _tenant_draft(request: pb.CreateTenantRequest, prefix: str) -> TenantDraft:
    """The fields, checked. `prefix`: of their names in errors."""
    try:
        for field in ("display_name", "retention_class"):
            check_bytes(request, field)
            if "\0" in getattr(request, field):
                raise errors.invalid_argument(
                    "TEXT_HAS_NUL", f"{field} holds U+0000: remove it", field=field
                )
        return convert.tenant_draft(request)
    except ServiceError as error:
        error.field = f"{prefix}{error.field}"
        raise


def _class_unknown(
    draft: TenantDraft, error: RetentionClassUnknownError, prefix: str
) -> ServiceError:
    return errors.invalid_argument(
        "INVALID_FIELD",
        f"retention_class {clip(draft.retention_class)} does not exist: choose one of"
        f" {', '.join(error.known)}",
        field=f"{prefix}retention_class",
    )


def _masked_fields(paths: Sequence[str]) -> list[str]:
    fields = list(dict.fromkeys(paths))
    unknown = [path for path in fields if path not in FIELDS]
    if unknown or not fields:
        problem = f"names {clip(unknown[0])}" if unknown else "is empty"
        raise errors.invalid_argument(
            "INVALID_FIELD",
            f"update_mask {problem}: name at least one of {', '.join(FIELDS)}, and nothing else",
            field="update_mask",
        )
    return fields


def _masked(tenant: pb.Tenant, fields: Sequence[str]) -> pb.CreateTenantRequest:
    """The fields that the mask names; the others are not looked at."""
    wanted = pb.CreateTenantRequest(key=tenant.key)
    for field in fields:
        if field not in _MESSAGES:
            setattr(wanted, field, getattr(tenant, field))
        elif tenant.HasField(field):  # type: ignore[arg-type]  # One of them.
            getattr(wanted, field).CopyFrom(getattr(tenant, field))
    return wanted


def _check_same(request: pb.CreateTenantRequest, draft: TenantDraft, row: TenantRow) -> None:
    """What the caller asked for expressly must be what is there; what it left open may be any."""
    asked = {
        "display_name": bool(request.display_name),
        "unknown_attribute_policy": bool(request.unknown_attribute_policy),
        "retention_class": bool(request.retention_class),
        "late_data_window": request.HasField("late_data_window"),
        "quotas": request.HasField("quotas"),
    }
    for field, is_asked in asked.items():
        if is_asked and getattr(draft, field) != getattr(row, field):
            raise errors.already_exists(
                "INVALID_FIELD",
                f"the tenant {row.key!r} exists with another {field}: leave it out, choose another"
                " key, or change it with UpdateTenant",
                field=field,
                tenant=row.key,
            )


def _drafts(request: pb.BatchUpsertAttributesRequest) -> list[AttributeDraft]:
    drafts: list[AttributeDraft] = []
    seen: dict[str, int] = {}
    for index, attribute in enumerate(request.attributes):
        draft = convert.attribute_draft(index, attribute)
        if draft.name in seen:
            raise errors.invalid_argument(
                "INVALID_FIELD",
                f"attributes[{index}]: name {draft.name!r} is that of"
                f" attributes[{seen[draft.name]}] already",
                field=f"attributes[{index}].name",
                index=index,
            )
        seen[draft.name] = index
        drafts.append(draft)
    return drafts


def _conflict(drafts: Sequence[AttributeDraft], error: AttributeConflictError) -> ServiceError:
    existing = {row.name: row for row in error.existing}
    for index, draft in enumerate(drafts):
        row = existing.get(draft.name)
        if row is None:
            continue
        if row.data_type != draft.data_type:
            field, was, asked = "data_type", row.data_type.upper(), draft.data_type.upper()
            way_out = "choose another name"
        else:
            field, was, asked = "hot", str(row.is_hot).lower(), str(draft.is_hot).lower()
            call = "DemoteAttribute" if row.is_hot else "PromoteAttribute"
            way_out = f"leave hot at {was}, or call {call} of atlas.hotcache.v1.ProjectionService"
        return errors.failed_precondition(
            "ATTRIBUTE_CONFLICT",
            f"attributes[{index}]: {draft.name!r} exists with {field} {was} and cannot become"
            f" {asked} by this call: {way_out}; nothing was changed",
            field=f"attributes[{index}].{field}",
            index=index,
            attribute=draft.name[:64],
        )
    return errors.aborted(
        "ATTRIBUTE_CONFLICT", "an attribute was defined by another call just now", retry_after=0.1
    )
