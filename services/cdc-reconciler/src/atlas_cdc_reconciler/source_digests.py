"""The store of the source's side of the comparison: digests and rows of what the primary holds."""

from collections.abc import Mapping
from typing import Any

from atlas_cdc_reconciler.digest import Engine, Range
from atlas_cdc_reconciler.history_side import HistorySide
from atlas_cdc_reconciler.retention import retention_floor_us
from atlas_cdc_reconciler.tenant_reads import TenantReads
from atlas_cdc_reconciler.windows import Span
from atlas_common.db import Database, load_queries
from atlas_common.tenant import Tenant
from atlas_common.values import us_to_datetime

Q = load_queries("atlas_cdc_reconciler")


class SourceDigests(HistorySide):
    """Reads the primary, within the tenant's own rows. Raises ServiceError or psycopg.Error."""

    def __init__(self, database: Database, statement_timeout_seconds: float) -> None:
        super().__init__(
            Engine.POSTGRES,
            Range("%(tenant_id)s", "%(start)s", "%(stop)s"),
            width="%(width_us)s::bigint",
            digits="%(digits)s::int",
            is_wanted="bucket = ANY (%(buckets)s)",
            rows_max="%(rows_max)s",
        )
        self._database = database
        self._reads = TenantReads(database, statement_timeout_seconds)

    async def has_rows(self, tenant: Tenant, span: Span) -> bool:
        """Whether there is any row. Without rows only the pages of the span are read."""
        ((found,),) = await self._ask(tenant, span, Q["has_rows"].decode(), {})
        return bool(found)

    async def retention_floor_us(self) -> int:
        """See retention.py."""
        return await retention_floor_us(self._database)

    async def _ask(
        self, tenant: Tenant, span: Span, sql: str, given: Mapping[str, Any]
    ) -> list[Any]:
        bounds = {
            "tenant_id": tenant.id,
            "start": us_to_datetime(span.start_us),
            "stop": us_to_datetime(span.stop_us),
        }
        return await self._reads.all(tenant, sql.encode(), {**bounds, **given})
