"""The store of the source's side of the comparison: digests and rows of what the primary holds."""

from collections.abc import Sequence
from typing import Any

from atlas_cdc_reconciler.canonical import StoredRow
from atlas_cdc_reconciler.digest import (
    Digest,
    Engine,
    Range,
    bucket_digests_sql,
    rows_sql,
    window_digests_sql,
)
from atlas_cdc_reconciler.retention import retention_floor_us
from atlas_cdc_reconciler.windows import Span
from atlas_common.db import Database, load_queries, tenant_transaction
from atlas_common.tenant import Tenant
from atlas_common.values import us_to_datetime

Q = load_queries("atlas_cdc_reconciler")
_RANGE = Range("%(tenant_id)s", "%(start)s", "%(stop)s")
_WINDOWS = window_digests_sql(
    Engine.POSTGRES, (_RANGE.tenant_id, _RANGE.start, _RANGE.stop, "%(width_us)s::bigint")
).encode()
_BUCKETS = bucket_digests_sql(Engine.POSTGRES, _RANGE, "%(digits)s::int").encode()
_ROWS = rows_sql(
    Engine.POSTGRES, _RANGE, "%(digits)s::int", "bucket = ANY (%(buckets)s)", "%(rows_max)s"
).encode()


class SourceDigests:
    """Reads the primary, within the tenant's own rows. Raises ServiceError or psycopg.Error."""

    def __init__(self, database: Database, statement_timeout_seconds: float) -> None:
        self._database = database
        self._timeout_ms = round(statement_timeout_seconds * 1000)

    async def tenants(self) -> list[Tenant]:
        """All tenants."""
        async with self._database.transaction(read_only=True) as connection:
            cursor = await connection.execute(Q["list_tenants"], {})
            return [Tenant(tenant_id, key) for tenant_id, key in await cursor.fetchall()]

    async def has_rows(self, tenant: Tenant, span: Span) -> bool:
        """Whether there is any row. Without rows only the pages of the span are read."""
        ((found,),) = await self._rows(tenant, span, Q["has_rows"], {})
        return bool(found)

    async def retention_floor_us(self) -> int:
        """See retention.py."""
        return await retention_floor_us(self._database)

    async def digests(self, tenant: Tenant, span: Span, width_us: int) -> dict[int, Digest]:
        """Digests of the span's windows that have rows, by the window's number since 1970."""
        rows = await self._rows(tenant, span, _WINDOWS, {"width_us": width_us})
        return {number: Digest(count, int(high), int(low)) for number, count, high, low in rows}

    async def buckets(self, tenant: Tenant, span: Span, digits: int) -> dict[str, Digest]:
        """Digests of the span's rows by the first digits of their hashes."""
        rows = await self._rows(tenant, span, _BUCKETS, {"digits": digits})
        return {bucket: Digest(count, int(high), int(low)) for bucket, count, high, low in rows}

    async def rows(
        self, tenant: Tenant, span: Span, digits: int, buckets: Sequence[str], rows_max: int
    ) -> list[StoredRow]:
        """The span's rows of some buckets. With 0 digits the one bucket is ""."""
        parameters = {"digits": digits, "buckets": list(buckets), "rows_max": rows_max}
        rows = await self._rows(tenant, span, _ROWS, parameters)
        return [StoredRow.of(*row) for row in rows]

    async def _rows(
        self, tenant: Tenant, span: Span, sql: bytes, parameters: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        bounds = {
            "tenant_id": tenant.id,
            "start": us_to_datetime(span.start_us),
            "stop": us_to_datetime(span.stop_us),
        }
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            await connection.execute(f"SET LOCAL statement_timeout = {self._timeout_ms}".encode())
            # Not prepared: a plan for any span would neither prune partitions nor go parallel.
            cursor = await connection.execute(sql, {**bounds, **parameters}, prepare=False)
            return await cursor.fetchall()
