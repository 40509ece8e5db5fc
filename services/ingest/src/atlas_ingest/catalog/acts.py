"""The audit log as it is read."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from atlas_common.db import Database, load_queries, tenant_transaction
from atlas_common.tenant import Tenant

_Q = load_queries("atlas_ingest")
_PLATFORM = 0


@dataclass(frozen=True, slots=True)
class ActRow:
    """An act; `ended_at` is None where its end was not entered."""

    act_id: int
    begun_at: datetime
    ended_at: datetime | None
    actor: str
    actor_tenant: str
    method: str
    request_id: str
    request: str
    outcome: str


class ActReader:
    """Reads acts, the newest first."""

    def __init__(self, primary: Database) -> None:
        self._primary = primary

    async def of_tenant(self, tenant: Tenant, before: int, limit: int) -> list[ActRow]:
        """The tenant's acts with lesser ids; `before` 0: from the newest."""
        async with tenant_transaction(self._primary, tenant, read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(ActRow))
            await cursor.execute(_Q["list_acts"], _values(tenant.id, before, limit))
            return await cursor.fetchall()

    async def of_platform(self, before: int, limit: int) -> list[ActRow]:
        """Likewise of acts that are no tenant's."""
        async with self._primary.transaction(read_only=True) as connection:
            cursor = connection.cursor(row_factory=class_row(ActRow))
            await cursor.execute(_Q["list_acts"], _values(_PLATFORM, before, limit))
            return await cursor.fetchall()


def _values(tenant_id: int, before: int, limit: int) -> dict[str, int]:
    return {"tenant_id": tenant_id, "before": before, "row_limit": limit}
