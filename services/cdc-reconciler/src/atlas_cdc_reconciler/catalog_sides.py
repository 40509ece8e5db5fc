"""Both sides' rows of the catalog's tables: what the primary holds, and what DuckDB holds."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from atlas_cdc_reconciler.digest import Digest, Engine, digests_of
from atlas_cdc_reconciler.keyed_digest import (
    Placeholders,
    key_bucket_digests_sql,
    keyed_rows_sql,
)
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.tables import Table
from atlas_cdc_reconciler.tenant_reads import TenantReads
from atlas_common.db import Database
from atlas_common.tenant import Tenant

_POSTGRES = Placeholders(
    "%(tenant_id)s", "%(digits)s::int", "bucket = ANY (%(buckets)s)", "%(rows_max)s"
)
_DUCKDB = Placeholders(
    "$tenant_id", "$digits::INTEGER", "list_contains($buckets, bucket)", "$rows_max"
)
_Ask: TypeAlias = Callable[[Tenant, str, Mapping[str, Any]], Awaitable[list[Any]]]


class EngineCatalog:
    """As CatalogSide, of whichever engine answers `ask`."""

    def __init__(self, engine: Engine, placeholders: Placeholders, ask: _Ask) -> None:
        self._engine = engine
        self._placeholders = placeholders
        self._ask = ask

    async def digests(self, tenant: Tenant, table: Table, digits: int) -> Mapping[str, Digest]:
        """As CatalogSide.digests."""
        sql = key_bucket_digests_sql(self._engine, table, self._placeholders)
        return digests_of(await self._ask(tenant, sql, {"tenant_id": tenant.id, "digits": digits}))

    async def rows(
        self, tenant: Tenant, table: Table, digits: int, buckets: Sequence[str], rows_max: int
    ) -> Mapping[str, str]:
        """As CatalogSide.rows."""
        sql = keyed_rows_sql(self._engine, table, self._placeholders)
        given = {
            "tenant_id": tenant.id,
            "digits": digits,
            "buckets": list(buckets),
            "rows_max": rows_max,
        }
        return dict(await self._ask(tenant, sql, given))


def source_catalog(database: Database, statement_timeout_seconds: float) -> EngineCatalog:
    """The primary's, within the tenant's own rows. Raises ServiceError or psycopg.Error."""
    reads = TenantReads(database, statement_timeout_seconds)

    async def ask(tenant: Tenant, sql: str, given: Mapping[str, Any]) -> list[Any]:
        return await reads.all(tenant, sql.encode(), given)

    return EngineCatalog(Engine.POSTGRES, _POSTGRES, ask)


def warehouse_catalog(warehouse: DuckDbWarehouse) -> EngineCatalog:
    """The warehouse's. Raises ServiceError when too many read it already."""

    async def ask(_: Tenant, sql: str, given: Mapping[str, Any]) -> list[Any]:
        async with warehouse.reader() as reader:
            return await reader.all(sql, given)

    return EngineCatalog(Engine.DUCKDB, _DUCKDB, ask)
