"""Both sides' rows of the catalog's tables: what the primary holds, and what DuckDB holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from atlas_cdc_reconciler.digest import Digest, Engine
from atlas_cdc_reconciler.keyed_digest import (
    Placeholders,
    key_bucket_digests_sql,
    keyed_rows_sql,
)
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.tables import Table
from atlas_common.db import Database, tenant_transaction
from atlas_common.tenant import Tenant

_POSTGRES = Placeholders(
    "%(tenant_id)s", "%(digits)s::int", "bucket = ANY (%(buckets)s)", "%(rows_max)s"
)
_DUCKDB = Placeholders(
    "$tenant_id", "$digits::INTEGER", "list_contains($buckets, bucket)", "$rows_max"
)


class SourceCatalog:
    """The primary, within the tenant's own rows. Raises ServiceError or psycopg.Error."""

    def __init__(self, database: Database, statement_timeout_seconds: float) -> None:
        self._database = database
        self._timeout_ms = round(statement_timeout_seconds * 1000)

    async def digests(self, tenant: Tenant, table: Table, digits: int) -> Mapping[str, Digest]:
        """As CatalogSide.digests."""
        sql = key_bucket_digests_sql(Engine.POSTGRES, table, _POSTGRES)
        return _digests(await self._rows(tenant, sql, {"digits": digits}))

    async def rows(
        self, tenant: Tenant, table: Table, digits: int, buckets: Sequence[str], rows_max: int
    ) -> Mapping[str, str]:
        """As CatalogSide.rows."""
        sql = keyed_rows_sql(Engine.POSTGRES, table, _POSTGRES)
        given = {"digits": digits, "buckets": list(buckets), "rows_max": rows_max}
        return dict(await self._rows(tenant, sql, given))

    async def _rows(self, tenant: Tenant, sql: str, given: dict[str, Any]) -> list[Any]:
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            await connection.execute(f"SET LOCAL statement_timeout = {self._timeout_ms}".encode())
            cursor = await connection.execute(sql.encode(), {"tenant_id": tenant.id, **given})
            return await cursor.fetchall()


class WarehouseCatalog:
    """The warehouse. Raises ServiceError when too many read it already."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        self._warehouse = warehouse

    async def digests(self, tenant: Tenant, table: Table, digits: int) -> Mapping[str, Digest]:
        """As CatalogSide.digests."""
        sql = key_bucket_digests_sql(Engine.DUCKDB, table, _DUCKDB)
        return _digests(await self._rows(tenant, sql, {"digits": digits}))

    async def rows(
        self, tenant: Tenant, table: Table, digits: int, buckets: Sequence[str], rows_max: int
    ) -> Mapping[str, str]:
        """As CatalogSide.rows."""
        sql = keyed_rows_sql(Engine.DUCKDB, table, _DUCKDB)
        given = {"digits": digits, "buckets": list(buckets), "rows_max": rows_max}
        return dict(await self._rows(tenant, sql, given))

    async def _rows(self, tenant: Tenant, sql: str, given: dict[str, Any]) -> list[Any]:
        async with self._warehouse.reader() as reader:
            return await reader.all(sql, {"tenant_id": tenant.id, **given})


def _digests(rows: Sequence[tuple[str, int, Any, Any]]) -> dict[str, Digest]:
    return {bucket: Digest(count, int(high), int(low)) for bucket, count, high, low in rows}
