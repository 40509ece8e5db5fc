"""The catalog's rows and the ledger's: SQL in, values out."""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import class_row

from atlas_common import errors
from atlas_common.catalog import HOT_BYTES_MAX, AttributeDef, hot_bytes
from atlas_common.db import Database, WriteConnection, load_queries, tenant_transaction
from atlas_common.metering import exceeded_count
from atlas_common.quotas import Quotas
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_common.values import DataType
from atlas_ingest.catalog.definitions import DEFINITIONS_BYTES_MAX, AttributeDraft
from atlas_ingest.catalog.room import EntityRoom
from atlas_ingest.catalog.tenants import TenantDraft, TenantSettings

Q = load_queries("atlas_ingest")


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant."""

    tenant_id: int
    key: str
    display_name: str
    unknown_attribute_policy: str
    created_at: datetime
    retention_class: str
    late_data_window: timedelta | None
    stored_quotas: Mapping[str, float]

    @property
    def quotas(self) -> Quotas:
        """Its own."""
        return Quotas.of(self.stored_quotas)


@dataclass(frozen=True, slots=True)
class EntityRow:
    """An entity."""

    entity_id: int
    key: str
    created_at: datetime


@dataclass(slots=True)
class EntityColumns:
    """Entities column by column, in any order; `created_us`: since the epoch."""

    keys: list[str] = field(default_factory=list)
    entity_ids: list[int] = field(default_factory=list)
    created_us: list[int] = field(default_factory=list)
    created_count: int = 0

    def add(self, row: Sequence[Any] | None) -> None:
        """Take in what a statement answered: keys by the line, numbers between commas."""
        if row is None or row[0] is None:
            return
        keys, entity_ids, created_us, created_count = row
        self.keys += keys.split("\n")
        self.entity_ids += map(int, entity_ids.split(","))
        self.created_us += map(int, created_us.split(","))
        self.created_count += created_count


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


@dataclass(frozen=True, slots=True)
class ProducerRow:
    """How far a producer is stored; `position` holds it."""

    sequence: int
    position: Position
    stored_at: datetime


class AttributeConflictError(Exception):
    """Attributes exist with another type or heat; nothing was changed."""

    def __init__(self, existing: Sequence[AttributeRow]) -> None:
        super().__init__(f"{len(existing)} attributes exist with another definition")
        self.existing = tuple(existing)


class RetentionClassUnknownError(Exception):
    """A tenant cannot be of a class that does not exist; `known` are those that do."""

    def __init__(self, known: Sequence[str]) -> None:
        super().__init__(f"there are the retention classes {', '.join(known)}")
        self.known = tuple(known)


class Store:
    """The catalog and the ledger in the primary."""

    def __init__(self, primary: Database) -> None:
        self._primary = primary
        self._room = EntityRoom()

    async def create_tenant(self, key: str, draft: TenantDraft) -> tuple[TenantRow, bool]:
        """The tenant of this key, and whether this call made it.

        Raises RetentionClassUnknownError.
        """
        values = _tenant_values(key, draft)
        async with self._known_class(), self._primary.transaction() as connection:
            cursor = connection.cursor(row_factory=class_row(TenantRow))
            made = await (await cursor.execute(Q["create_tenant"], values)).fetchone()
            if made is not None:
                return made, True
            # A statement of its own: it sees the row that the conflict was with.
            found = await (await cursor.execute(Q["tenant_by_key"], {"key": key})).fetchone()
            assert found is not None  # Tenants are never deleted.
            return found, False

    async def update_tenant(
        self, key: str, draft: TenantDraft, fields: Sequence[str]
    ) -> TenantRow | None:
        """The tenant with these fields changed; None if there is none.

        Raises RetentionClassUnknownError.
        """
        values = {**_tenant_values(key, draft), "fields": list(fields)}
        async with self._known_class(), self._primary.transaction() as connection:
            cursor = connection.cursor(row_factory=class_row(TenantRow))
            row = await (await cursor.execute(Q["update_tenant"], values)).fetchone()
            if row is not None:
                await connection.execute(Q["notify_catalog"], {"tenant_id": row.tenant_id})
        return row

    @asynccontextmanager
    async def _known_class(self) -> AsyncIterator[None]:
        try:
            yield
        except psycopg.errors.ForeignKeyViolation:
            async with self._primary.transaction(read_only=True) as connection:
                rows = await (await connection.execute(Q["retention_classes"])).fetchall()
            raise RetentionClassUnknownError([row[0] for row in rows]) from None

    async def list_tenants(self, after: int, limit: int) -> list[TenantRow]:
        """Tenants with greater ids."""
        async with self._primary.transaction(read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(TenantRow))
            await cursor.execute(Q["list_tenants"], {"after": after, "row_limit": limit})
            return await cursor.fetchall()

    async def tenant_settings(self, tenant_id: int) -> TenantSettings:
        """What of the tenant decides about its writes."""
        async with self._primary.transaction(read_only=True) as connection:
            cursor = await connection.execute(Q["tenant_settings"], {"tenant_id": tenant_id})
            row = await cursor.fetchone()
        if row is None:
            return TenantSettings()
        return TenantSettings(row[0] == "register", row[1])

    async def create_entities(
        self, tenant: Tenant, keys: Sequence[str], entities_max: int
    ) -> EntityColumns:
        """All entities of these keys, missing ones made; fewer where the tenant may have no more.

        `keys`: distinct, valid, at most some thousand. The ids are on the disk when this returns,
        and have to be: a batch that outlives a crash of the database is staged again with them, and
        a number that was lost would be given to another key.
        """
        entities = EntityColumns()
        if not keys:
            return entities
        async with tenant_transaction(self._primary, tenant) as connection:
            room = await self._room.left(
                tenant.id,
                wanted=len(keys),
                most=entities_max,
                count=lambda: _count(connection, "count_entities", tenant),
            )
            entities.add(await _one(connection, "make_entities", tenant, keys, room=room))
            if len(entities.keys) < len(keys):
                missing = set(keys).difference(entities.keys)
                entities.add(await _one(connection, "entities_by_key", tenant, missing))
        self._room.made(tenant.id, entities.created_count)
        return entities

    async def list_entities(self, tenant: Tenant, after: int, limit: int) -> list[EntityRow]:
        """The tenant's entities with greater ids."""
        values = {"tenant_id": tenant.id, "after": after, "row_limit": limit}
        async with tenant_transaction(self._primary, tenant, read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(EntityRow))
            return await (await cursor.execute(Q["list_entities"], values)).fetchall()

    async def register_attributes(
        self, tenant: Tenant, types: Mapping[str, DataType], attributes_max: int
    ) -> list[AttributeRow]:
        """All attributes of these names, missing ones made cold.

        Names beyond the bound of `attributes_max` per tenant are not made and not in the answer.
        """
        async with tenant_transaction(self._primary, tenant) as connection:
            await connection.execute(Q["lock_attributes"], {"tenant_id": tenant.id})
            known = await _attributes(connection, tenant, list(types))
            room = attributes_max - await _count(connection, "count_attributes", tenant)
            names = list(types.keys() - {row.name for row in known})[: max(0, room)]
            if not names:
                return known
            values = {
                "tenant_id": tenant.id,
                "names": names,
                "data_types": [types[name].value for name in names],
            }
            await connection.execute(Q["register_attributes"], values)
            await connection.execute(Q["notify_catalog"], {"tenant_id": tenant.id})
            return await _attributes(connection, tenant, list(types))

    async def upsert_attributes(
        self, tenant: Tenant, drafts: Sequence[AttributeDraft], attributes_max: int
    ) -> list[AttributeRow]:
        """The attributes as they are now, in any order.

        Raises AttributeConflictError; ServiceError RESOURCE_EXHAUSTED / QUOTA_EXCEEDED when the
        tenant would have more than `attributes_max`, FAILED_PRECONDITION / BATCH_TOO_LARGE for
        longer definitions than are allowed.
        """
        values = {"tenant_id": tenant.id, "definitions": json.dumps(list(map(_record, drafts)))}
        async with tenant_transaction(self._primary, tenant) as connection:
            await connection.execute(Q["lock_attributes"], {"tenant_id": tenant.id})
            cursor = connection.cursor(row_factory=class_row(AttributeRow))
            rows = await (await cursor.execute(Q["upsert_attributes"], values)).fetchall()
            changed = {row.name for row in rows}
            refused = [draft.name for draft in drafts if draft.name not in changed]
            if refused:
                raise AttributeConflictError(await _attributes(connection, tenant, refused))
            await _check_room(connection, tenant, attributes_max)
            await connection.execute(Q["notify_catalog"], {"tenant_id": tenant.id})
        return rows

    async def list_attributes(self, tenant: Tenant, after: int, limit: int) -> list[AttributeRow]:
        """The tenant's attributes with greater ids."""
        values = {"tenant_id": tenant.id, "after": after, "row_limit": limit}
        async with tenant_transaction(self._primary, tenant, read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(AttributeRow))
            return await (await cursor.execute(Q["list_attributes"], values)).fetchall()

    async def producer_position(self, tenant: Tenant, producer_id: str) -> ProducerRow | None:
        """How far the producer is stored; None if nothing of it is."""
        values = {"tenant_id": tenant.id, "producer_id": producer_id}
        async with tenant_transaction(self._primary, tenant, read_only=True) as connection:
            row = await (await connection.execute(Q["producer_position"], values)).fetchone()
        if row is None:
            return None
        sequence, lane, epoch, flush_sequence, stored_at = row
        return ProducerRow(sequence, Position(lane, epoch, flush_sequence), stored_at)

    async def stored_request(self, tenant: Tenant, request_id: str) -> StoredRequest | None:
        """What the ledger knows of the request; None if it was never stored."""
        values = {"tenant_id": tenant.id, "request_id": request_id}
        async with tenant_transaction(self._primary, tenant, read_only=True) as connection:
            row = await (await connection.execute(Q["stored_request"], values)).fetchone()
        if row is None:
            return None
        lane, epoch, sequence, body_hash, answer = row
        return StoredRequest(Position(lane, epoch, sequence), body_hash, answer)


async def _count(connection: WriteConnection, query: str, tenant: Tenant) -> int:
    cursor = await connection.execute(Q[query], {"tenant_id": tenant.id})
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


async def _check_room(connection: WriteConnection, tenant: Tenant, attributes_max: int) -> None:
    if await _count(connection, "count_attributes", tenant) > attributes_max:
        raise exceeded_count(tenant, "attributes", attributes_max)
    cursor = await connection.execute(Q["size_attributes"], {"tenant_id": tenant.id})
    row = await cursor.fetchone()
    if row is not None and row[0] > DEFINITIONS_BYTES_MAX:
        raise errors.failed_precondition(
            "BATCH_TOO_LARGE",
            f"the tenant's definitions would have {row[0]} bytes of text, at most"
            f" {DEFINITIONS_BYTES_MAX} are allowed: shorten allowed_values; nothing was changed",
            field="attributes",
            bytes_max=DEFINITIONS_BYTES_MAX,
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


async def _one(
    connection: WriteConnection,
    query: str,
    tenant: Tenant,
    keys: Collection[str],
    *,
    room: int = 0,
) -> tuple[Any, ...] | None:
    text = "\n".join(keys)
    if text.count("\n") != len(keys) - 1:
        raise ValueError("an entity's key has no line break")
    values = {"tenant_id": tenant.id, "keys": text, "room": room}
    cursor = await connection.execute(Q[query], values)
    return await cursor.fetchone()


def _tenant_values(key: str, draft: TenantDraft) -> dict[str, Any]:
    return {
        "key": key,
        "display_name": draft.display_name,
        "policy": draft.unknown_attribute_policy,
        "retention_class": draft.retention_class,
        "late_data_window": draft.late_data_window,
        "quotas": json.dumps(draft.quotas.to_stored()),
    }


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
