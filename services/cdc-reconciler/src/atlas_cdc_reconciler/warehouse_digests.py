"""The store of the warehouse's side of the comparison: digests and rows of what DuckDB holds."""

from collections.abc import Mapping
from typing import Any

from atlas_cdc_reconciler.digest import Engine, Range
from atlas_cdc_reconciler.history_side import HistorySide
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.windows import Span
from atlas_common.tenant import Tenant


class WarehouseDigests(HistorySide):
    """Reads the warehouse. Raises ServiceError when too many read it already."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        super().__init__(
            Engine.DUCKDB,
            Range("$tenant_id", "make_timestamptz($start)", "make_timestamptz($stop)"),
            width="$width_us::BIGINT",
            digits="$digits::INTEGER",
            is_wanted="list_contains($buckets, bucket)",
            rows_max="$rows_max",
        )
        self._warehouse = warehouse

    async def occupied(self, tenant: Tenant, span: Span, piece_us: int) -> set[int]:
        """Numbers since 1970 of the span's pieces that have rows."""
        rows = await self._ask(tenant, span, Q["occupied"], {"piece_us": piece_us})
        return {row[0] for row in rows}

    async def _ask(
        self, tenant: Tenant, span: Span, sql: str, given: Mapping[str, Any]
    ) -> list[Any]:
        bounds = {"tenant_id": tenant.id, "start": span.start_us, "stop": span.stop_us}
        async with self._warehouse.reader() as reader:
            return await reader.all(sql, {**bounds, **given})
