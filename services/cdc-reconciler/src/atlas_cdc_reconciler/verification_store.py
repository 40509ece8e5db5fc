"""The store of the warehouse's side: its digests, and what was found by comparing."""

from collections.abc import Sequence
from dataclasses import dataclass

from atlas_cdc_reconciler.digest import Digest, Engine, window_digests_sql
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse, Parameters
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.reading import Reader
from atlas_cdc_reconciler.windows import Span, WindowComparison
from atlas_common.tenant import Tenant

_WINDOW_DIGESTS = window_digests_sql(
    Engine.DUCKDB,
    ("$tenant_id", "make_timestamptz($start)", "make_timestamptz($stop)", "$width_us::BIGINT"),
)


@dataclass(frozen=True, slots=True)
class Verification:
    """What is known of a tenant. Times in microseconds of the primary's clock."""

    compared_through_us: int
    """All before it was compared at least once."""
    checked_at_us: int
    first_mismatch_us: int | None
    mismatched: int

    @property
    def verified_through_us(self) -> int:
        """End of the contiguous run of windows whose digests agree."""
        if self.first_mismatch_us is None:
            return self.compared_through_us
        return self.first_mismatch_us


async def read_verification(reader: Reader, tenant_id: int) -> Verification | None:
    """What this snapshot of the warehouse says of a tenant; None: it was never compared."""
    rows = await reader.all(Q["verification"], {"tenant_id": tenant_id})
    if not rows:
        return None
    return Verification(*rows[0])


class VerificationStore:
    """Remembers, in the warehouse's file, how windows compared."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        self._warehouse = warehouse

    async def use_width(self, width_us: int) -> bool:
        """Begin anew if windows of another width are remembered; says whether that was so."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["window_width"])
        if rows == [(width_us,)]:
            return False
        await self._warehouse.write(
            [
                (Q["forget_windows"], {}),
                (Q["forget_verifications"], {}),
                (Q["forget_window_width"], {}),
                (Q["set_window_width"], {"window_us": width_us}),
            ]
        )
        return bool(rows)

    async def verification(self, tenant: Tenant) -> Verification | None:
        """What is known of a tenant."""
        async with self._warehouse.reader() as reader:
            return await read_verification(reader, tenant.id)

    async def occupied(self, tenant: Tenant, span: Span, piece_us: int) -> set[int]:
        """Numbers since 1970 of the span's pieces that have rows."""
        parameters = {
            "tenant_id": tenant.id,
            "start": span.start_us,
            "stop": span.stop_us,
            "piece_us": piece_us,
        }
        async with self._warehouse.reader() as reader:
            return {row[0] for row in await reader.all(Q["occupied"], parameters)}

    async def digests(self, tenant: Tenant, span: Span, width_us: int) -> dict[int, Digest]:
        """Digests of the span's windows that have rows, by the window's number since 1970."""
        parameters = {
            "tenant_id": tenant.id,
            "start": span.start_us,
            "stop": span.stop_us,
            "width_us": width_us,
        }
        async with self._warehouse.reader() as reader:
            rows = await reader.all(_WINDOW_DIGESTS, parameters)
        return {number: Digest(count, int(high), int(low)) for number, count, high, low in rows}

    async def mismatched_starts(
        self, tenant: Tenant, before_us: int, windows_max: int
    ) -> list[int]:
        """Starts of remembered windows that did not agree, the first ones first."""
        parameters = {"tenant_id": tenant.id, "before": before_us, "windows_max": windows_max}
        async with self._warehouse.reader() as reader:
            return [row[0] for row in await reader.all(Q["mismatched_windows"], parameters)]

    async def totals(self, tenant: Tenant, before_us: int) -> tuple[Digest, Digest]:
        """Sums over the remembered windows that start before: (source, warehouse)."""
        parameters = {"tenant_id": tenant.id, "before": before_us}
        async with self._warehouse.reader() as reader:
            (row,) = await reader.all(Q["window_totals"], parameters)
        numbers = [int(number) for number in row]
        return Digest(*numbers[:3]), Digest(*numbers[3:])

    async def keep(
        self,
        tenant: Tenant,
        span: Span,
        comparisons: Sequence[WindowComparison],
        *,
        compared_through_us: int,
        checked_at_us: int,
    ) -> None:
        """Remember how the span's windows compare, instead of what was known of them."""
        statements: list[tuple[str, Parameters]] = [
            (
                Q["drop_windows"],
                {"tenant_id": tenant.id, "start": span.start_us, "stop": span.stop_us},
            )
        ]
        statements += [
            (Q["keep_window"], _window_row(tenant, comparison, checked_at_us))
            for comparison in comparisons
        ]
        statements.append(
            (
                Q["set_verification"],
                {
                    "tenant_id": tenant.id,
                    "compared_through": compared_through_us,
                    "checked_at": checked_at_us,
                },
            )
        )
        await self._warehouse.write(statements)


def _window_row(tenant: Tenant, comparison: WindowComparison, checked_at_us: int) -> Parameters:
    return {
        "tenant_id": tenant.id,
        "start": comparison.span.start_us,
        "end": comparison.span.stop_us,
        "source_rows": comparison.source.rows,
        "source_high": comparison.source.high,
        "source_low": comparison.source.low,
        "warehouse_rows": comparison.warehouse.rows,
        "warehouse_high": comparison.warehouse.high,
        "warehouse_low": comparison.warehouse.low,
        "is_matched": comparison.is_matched,
        "checked_at": checked_at_us,
    }
