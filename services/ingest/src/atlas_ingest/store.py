"""The catalog's rows and the ledger's: SQL in, values out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.rows import class_row

from atlas_common import errors
from atlas_common.catalog import AttributeDef
from atlas_common.db import Database, WriteConnection, load_queries, tenant_transaction
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_common.values import DataType
from atlas_ingest.definitions import HOT_BYTES_MAX, AttributeDraft, hot_bytes

Q = load_queries("atlas_ingest")


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant."""

    tenant_id: int
    key: str
    display_name: str
    unknown_attribute_policy: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EntityRow:
    """An entity."""

    entity_id: int
    key: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AttributeRow:
    """An attribute; `created`: by the statement that returned it."""

    attribute_id: int
    name: str
    data_type: str
    is_hot: bool
    unit: str
    validation_regex: str
    min_value: Decimal | None
    max_value: Decimal | None
    allowed_values: list[str]
    created_at: datetime
    created: bool

    def definition(self) -> AttributeDef:
        """The part that validation needs."""
        return AttributeDef(
            attribute_id=self.attribute_id,
            name=self.name,
            data_type=DataType(self.data_type),
            is_hot=self.is_hot,
            unit=self.unit,
            validation_regex=self.validation_regex,
            min_value=self.min_value,
            max_value=self.max_value,
            allowed_values=tuple(self.allowed_values),
        )


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What the ledger knows of a request_id."""

    position: Position
    body_hash: bytes
    answer: bytes


class AttributeConflictError(Exception):
    """Attributes exist with another type or heat; nothing was changed."""

    def __init__(self, existing: Sequence[AttributeRow]) -> None:
        super().__init__(f"{len(existing)} attributes exist with another definition")
        self.existing = tuple(existing)


class Store:
    """The catalog and the ledger in the primary."""

    def __init__(self, primary: Database) -> None:
        self._primary = primary

    async def create_tenant(
        self, key: str, display_name: str, policy: str
    ) -> tuple[TenantRow, bool]:
        """The tenant of this key, and whether this call made it."""
        values = {"key": key, "display_name": display_name, "policy": policy}
        async with self._primary.transaction() as connection:
            cursor = connection.cursor(row_factory=class_row(TenantRow))
            made = await (await cursor.execute(Q["create_tenant"], values)).fetchone()
            if made is not None:
                return made, True
            # A statement of its own: it sees the row that the conflict was with.
            found = await (await cursor.execute(Q["tenant_by_key"], {"key": key})).fetchone()
            assert found is not None  # Tenants are never deleted.
            return found, False

    async def list_tenants(self, after: int, limit: int) -> list[TenantRow]:
        """Tenants with greater ids."""
        async with self._primary.transaction(read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(TenantRow))
            await cursor.execute(Q["list_tenants"], {"after": after, "row_limit": limit})
            return await cursor.fetchall()

    async def registers_unknown_attributes(self, tenant: Tenant) -> bool:
        """Whether points may bring attributes into the tenant's catalog."""
        async with self._primary.transaction(read_only=True) as connection:
            cursor = await connection.execute(
                Q["unknown_attribute_policy"], {"tenant_id": tenant.id}
            )
            row = await cursor.fetchone()
        return row is not None and row[0] == "register"

    async def create_entities(
        self, tenant: Tenant, keys: Sequence[str]
    ) -> tuple[list[EntityRow], int]:
        """All entities of these keys, missing ones made; and how many were made."""
        values = {"tenant_id": tenant.id, "keys": list(keys)}
        async with tenant_transaction(self._primary, tenant) as connection:
            cursor = connection.cursor(row_factory=class_row(EntityRow))
            # Looked up first: a conflict would use up a number of the identity sequence.
            found = await (await cursor.execute(Q["entities_by_key"], values)).fetchall()
            values["keys"] = _missing(keys, found)
            if not values["keys"]:
                return found, 0
            made = await (await cursor.execute(Q["create_entities"], values)).fetchall()
            values["keys"] = _missing(keys, [*found, *made])
            if values["keys"]:
                # Another call made them since: DO NOTHING waited for its commit, and a new
                # statement sees what was committed.
                found += await (await cursor.execute(Q["entities_by_key"], values)).fetchall()
        return [*found, *made], len(made)

    async def list_entities(self, tenant: Tenant, after: int, limit: int) -> list[EntityRow]:
        """The tenant's entities with greater ids."""
        values = {"tenant_id": tenant.id, "after": after, "row_limit": limit}
        async with tenant_transaction(self._primary, tenant, read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(EntityRow))
            return await (await cursor.execute(Q["list_entities"], values)).fetchall()

    async def register_attributes(
        self, tenant: Tenant, types: dict[str, DataType], attributes_max: int
    ) -> list[AttributeRow]:
        """All attributes of these names, missing ones made cold.

        Names beyond the bound of `attributes_max` per tenant are not made and not in the answer.
        """
        async with tenant_transaction(self._primary, tenant) as connection:
            room = attributes_max - await _count_attributes(connection, tenant)
            names = list(types)[: max(0, room)]
            values = {
                "tenant_id": tenant.id,
                "names": names,
                "data_types": [types[name].value for name in names],
            }
            if names:
                await connection.execute(Q["register_attributes"], values)
            return await _attributes(connection, tenant, list(types))

    async def upsert_attributes(
        self, tenant: Tenant, drafts: Sequence[AttributeDraft], attributes_max: int
    ) -> list[AttributeRow]:
        """The attributes as they are now, in any order.

        Raises AttributeConflictError; ServiceError FAILED_PRECONDITION / BATCH_TOO_LARGE when the
        tenant would have more than `attributes_max`.
        """
        values = {"tenant_id": tenant.id, "definitions": json.dumps(list(map(_record, drafts)))}
        async with tenant_transaction(self._primary, tenant) as connection:
            cursor = connection.cursor(row_factory=class_row(AttributeRow))
            rows = await (await cursor.execute(Q["upsert_attributes"], values)).fetchall()
            changed = {row.name for row in rows}
            refused = [draft.name for draft in drafts if draft.name not in changed]
            if refused:
                raise AttributeConflictError(await _attributes(connection, tenant, refused))
            if any(row.created for row in rows):
                await _check_room(connection, tenant, attributes_max)
        return rows

    async def list_attributes(self, tenant: Tenant, after: int, limit: int) -> list[AttributeRow]:
        """The tenant's attributes with greater ids."""
        values = {"tenant_id": tenant.id, "after": after, "row_limit": limit}
        async with tenant_transaction(self._primary, tenant, read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(AttributeRow))
            return await (await cursor.execute(Q["list_attributes"], values)).fetchall()

    async def stored_request(self, tenant: Tenant, request_id: str) -> StoredRequest | None:
        """What the ledger knows of the request; None if it was never stored."""
        values = {"tenant_id": tenant.id, "request_id": request_id}
        async with tenant_transaction(self._primary, tenant, read_only=True) as connection:
            row = await (await connection.execute(Q["stored_request"], values)).fetchone()
        if row is None:
            return None
        lane, epoch, sequence, body_hash, answer = row
        return StoredRequest(Position(lane, epoch, sequence), body_hash, answer)


async def _count_attributes(connection: WriteConnection, tenant: Tenant) -> int:
    cursor = await connection.execute(Q["count_attributes"], {"tenant_id": tenant.id})
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


async def _check_room(connection: WriteConnection, tenant: Tenant, attributes_max: int) -> None:
    count = await _count_attributes(connection, tenant)
    if count > attributes_max:
        raise errors.failed_precondition(
            "BATCH_TOO_LARGE",
            f"the tenant would have {count} attributes, at most {attributes_max} are allowed:"
            " nothing was changed",
            field="attributes",
            attributes_max=attributes_max,
        )
    cursor = await connection.execute(Q["count_hot_attributes"], {"tenant_id": tenant.id})
    counts = {DataType(data_type): number for data_type, number in await cursor.fetchall()}
    size = hot_bytes(counts)
    if size > HOT_BYTES_MAX:
        raise errors.failed_precondition(
            "BATCH_TOO_LARGE",
            f"the hot values of one entity could take {size} bytes, at most {HOT_BYTES_MAX} fit:"
            " define fewer hot JSON and TEXT attributes; nothing was changed",
            field="attributes",
            hot_bytes_max=HOT_BYTES_MAX,
        )


async def _attributes(
    connection: WriteConnection, tenant: Tenant, names: Sequence[str]
) -> list[AttributeRow]:
    cursor = connection.cursor(row_factory=class_row(AttributeRow))
    values = {"tenant_id": tenant.id, "names": list(names)}
    return await (await cursor.execute(Q["attributes_by_name"], values)).fetchall()


def _missing(keys: Sequence[str], found: Sequence[EntityRow]) -> list[str]:
    known = {row.key for row in found}
    return [key for key in dict.fromkeys(keys) if key not in known]


def _record(draft: AttributeDraft) -> dict[str, Any]:
    """As jsonb_to_recordset takes it; numbers as text, so that no digit is lost on the way."""
    return {
        "name": draft.name,
        "data_type": draft.data_type.value,
        "unit": draft.unit,
        "validation_regex": draft.validation_regex,
        "min_value": None if draft.min_value is None else str(draft.min_value),
        "max_value": None if draft.max_value is None else str(draft.max_value),
        "allowed_values": list(draft.allowed_values),
        "is_hot": draft.is_hot,
    }
