"""The store of the warehouse's side of the comparison: digests and rows of what DuckDB holds."""

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
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.windows import Span
from atlas_common.tenant import Tenant

_RANGE = Range("$tenant_id", "make_timestamptz($start)", "make_timestamptz($stop)")
_WINDOWS = window_digests_sql(
    Engine.DUCKDB, (_RANGE.tenant_id, _RANGE.start, _RANGE.stop, "$width_us::BIGINT")
)
_BUCKETS = bucket_digests_sql(Engine.DUCKDB, _RANGE, "$digits::INTEGER")
_ROWS = rows_sql(
    Engine.DUCKDB, _RANGE, "$digits::INTEGER", "list_contains($buckets, bucket)", "$rows_max"
)


class WarehouseDigests:
    """Reads the warehouse. Raises ServiceError when too many read it already."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        self._warehouse = warehouse

    async def occupied(self, tenant: Tenant, span: Span, piece_us: int) -> set[int]:
        """Numbers since 1970 of the span's pieces that have rows."""
        rows = await self._rows(tenant, span, Q["occupied"], {"piece_us": piece_us})
        return {row[0] for row in rows}

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
        self, tenant: Tenant, span: Span, sql: str, parameters: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        bounds = {"tenant_id": tenant.id, "start": span.start_us, "stop": span.stop_us}
        async with self._warehouse.reader() as reader:
            return await reader.all(sql, {**bounds, **parameters})
