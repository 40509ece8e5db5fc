"""Long reads of the primary, within one tenant's own rows and a time of their own."""

from collections.abc import Mapping
from typing import Any

from atlas_common.db import Database, tenant_transaction
from atlas_common.tenant import Tenant


class TenantReads:
    """Runs statements; see `all`."""

    def __init__(self, database: Database, statement_timeout_seconds: float) -> None:
        self._database = database
        self._timeout_ms = round(statement_timeout_seconds * 1000)

    async def all(self, tenant: Tenant, sql: bytes, given: Mapping[str, Any]) -> list[Any]:
        """All rows of a statement. Raises ServiceError or psycopg.Error."""
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            await connection.execute(f"SET LOCAL statement_timeout = {self._timeout_ms}".encode())
            # Not prepared: a plan for any values would neither prune partitions nor go parallel.
            cursor = await connection.execute(sql, given, prepare=False)
            return await cursor.fetchall()
