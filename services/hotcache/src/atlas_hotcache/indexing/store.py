"""Indexes of cold attributes in the primary, for whoever asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from atlas_common import errors
from atlas_common.db import Database, load_queries, tenant_transaction
from atlas_common.tenant import Tenant

Q = load_queries("atlas_hotcache.indexing")


class IndexState(StrEnum):
    """How far an index is."""

    BUILDING = "building"
    READY = "ready"
    DROPPING = "dropping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AttributeIndex:
    """An index as it is stored; see AttributeIndex in the contract."""

    attribute_id: int
    state: IndexState
    partitions_total: int
    partitions_done: int
    message: str
    created_at: datetime
    updated_at: datetime
    byte_count: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an index would cost."""

    partition_count: int
    scanned_points: int
    indexed_points: int


class IndexStore:
    """What may be done with indexes. Each function is one short transaction of one tenant."""

    def __init__(self, database: Database, per_tenant_max: int, indexes_max: int) -> None:
        self._database = database
        self._bounds = {"per_tenant_max": per_tenant_max, "indexes_max": indexes_max}

    async def estimate(self, tenant: Tenant, attribute_id: int) -> Estimate:
        """What the database believes of an index that is not there yet."""
        values = {"tenant_id": tenant.id, "attribute_id": attribute_id}
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            row = await (await connection.execute(Q["estimate"], values)).fetchone()
        assert row is not None
        return Estimate(*row)

    async def start(self, tenant: Tenant, attribute_id: int) -> AttributeIndex:
        """Ask for an index, or find it.

        Raises ServiceError FAILED_PRECONDITION / INVALID_FIELD (the attribute is hot),
        BATCH_TOO_LARGE (there are as many as may be).
        """
        values = {"tenant_id": tenant.id, "attribute_id": attribute_id, **self._bounds}
        async with tenant_transaction(self._database, tenant) as connection:
            row = await (await connection.execute(Q["start"], values)).fetchone()
            assert row is not None
            self._check(row[0])
            found = await _indexes(connection, tenant, attribute_id)
        return found[0]

    async def drop(self, tenant: Tenant, attribute_id: int) -> AttributeIndex | None:
        """Ask for it to be dropped; None: there is none."""
        values = {"tenant_id": tenant.id, "attribute_id": attribute_id}
        async with tenant_transaction(self._database, tenant) as connection:
            await connection.execute(Q["drop"], values)
            found = await _indexes(connection, tenant, attribute_id)
        return found[0] if found else None

    async def get(self, tenant: Tenant, attribute_id: int) -> AttributeIndex | None:
        """The index of an attribute; None: there is none."""
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            found = await _indexes(connection, tenant, attribute_id)
        return found[0] if found else None

    async def all(self, tenant: Tenant) -> Sequence[AttributeIndex]:
        """All of the tenant."""
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            return await _indexes(connection, tenant, None)

    def _check(self, outcome: str) -> None:
        match outcome:
            case "hot":
                raise errors.failed_precondition(
                    "INVALID_FIELD",
                    "the attribute is hot, and filters over hot ones need no index of their own:"
                    " demote it first if it shall be cold",
                    field="attribute",
                )
            case "tenant_full":
                raise errors.failed_precondition(
                    "BATCH_TOO_LARGE",
                    f"the tenant has {self._bounds['per_tenant_max']} indexes, no more are allowed,"
                    " for each slows its writing: drop one, or promote the attribute",
                    field="attribute",
                    indexes_max=self._bounds["per_tenant_max"],
                )
            case "full":
                raise errors.failed_precondition(
                    "BATCH_TOO_LARGE",
                    f"all tenants together have {self._bounds['indexes_max']} indexes, no more are"
                    " allowed, for each slows all writing: promote the attribute",
                    field="attribute",
                    indexes_max=self._bounds["indexes_max"],
                )


async def _indexes(
    connection: Any, tenant: Tenant, attribute_id: int | None
) -> list[AttributeIndex]:
    values = {"tenant_id": tenant.id, "attribute_id": attribute_id}
    cursor = await connection.execute(Q["indexes"], values)
    return [AttributeIndex(row[0], IndexState(row[1]), *row[2:]) for row in await cursor.fetchall()]
