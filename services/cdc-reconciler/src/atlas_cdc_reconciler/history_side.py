"""What both sides of the comparison of histories have in common: the questions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from atlas_cdc_reconciler.canonical import StoredRow
from atlas_cdc_reconciler.digest import (
    Digest,
    Engine,
    Range,
    bucket_digests_sql,
    digests_of,
    rows_sql,
    window_digests_sql,
)
from atlas_cdc_reconciler.windows import Span
from atlas_common.tenant import Tenant


class HistorySide(ABC):
    """Digests and rows of a tenant's history on one engine."""

    def __init__(
        self,
        engine: Engine,
        spans: Range,
        *,
        width: str,
        digits: str,
        is_wanted: str,
        rows_max: str,
    ) -> None:
        """Take the engine's placeholders; see `digest`."""
        bounds = (spans.tenant_id, spans.start, spans.stop, width)
        self._windows_sql = window_digests_sql(engine, bounds)
        self._buckets_sql = bucket_digests_sql(engine, spans, digits)
        self._rows_sql = rows_sql(engine, spans, digits, is_wanted, rows_max)

    async def digests(self, tenant: Tenant, span: Span, width_us: int) -> dict[int, Digest]:
        """Digests of the span's windows that have rows, by the window's number since 1970."""
        return digests_of(await self._ask(tenant, span, self._windows_sql, {"width_us": width_us}))

    async def buckets(self, tenant: Tenant, span: Span, digits: int) -> dict[str, Digest]:
        """Digests of the span's rows by the first digits of their hashes."""
        return digests_of(await self._ask(tenant, span, self._buckets_sql, {"digits": digits}))

    async def rows(
        self, tenant: Tenant, span: Span, digits: int, buckets: Sequence[str], rows_max: int
    ) -> list[StoredRow]:
        """The span's rows of some buckets. With 0 digits the one bucket is ""."""
        given = {"digits": digits, "buckets": list(buckets), "rows_max": rows_max}
        rows = await self._ask(tenant, span, self._rows_sql, given)
        return [StoredRow.of(*row) for row in rows]

    @abstractmethod
    async def _ask(
        self, tenant: Tenant, span: Span, sql: str, given: Mapping[str, Any]
    ) -> list[Any]:
        """All rows of a statement about a tenant's span."""
