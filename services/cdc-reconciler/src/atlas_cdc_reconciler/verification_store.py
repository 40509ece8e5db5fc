"""The store of what was found by comparing windows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse, Parameters
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.reading import Reader
from atlas_cdc_reconciler.windows import Span, WindowComparison
from atlas_common.tenant import Tenant


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


@dataclass(frozen=True, slots=True)
class TenantVerification:
    """A tenant's standing among all, with its newest report."""

    tenant: str
    """The key."""
    known: Verification | None
    report_id: int
    """0: there is none."""
    report_at_us: int
    report_differences: int


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

    async def all(self, tenants_max: int) -> tuple[list[TenantVerification], int]:
        """Of those tenants that are furthest behind, and how many tenants there are."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["verifications"], {"row_limit": tenants_max})
        return [_standing(row) for row in rows], rows[0][-1] if rows else 0

    async def mismatched(
        self, tenant: Tenant, span: Span, windows_max: int
    ) -> list[WindowComparison]:
        """Remembered windows that did not agree and start within, the first ones first."""
        parameters = {
            "tenant_id": tenant.id,
            "start": span.start_us,
            "stop": span.stop_us,
            "windows_max": windows_max,
        }
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["mismatched_windows"], parameters)
        return [_window(row) for row in rows]

    async def begun(self, tenant: Tenant, start_us: int) -> WindowComparison | None:
        """The remembered window that starts then, if it agrees."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["begun_window"], {"tenant_id": tenant.id, "start": start_us})
        return _window(rows[0]) if rows else None

    async def extend(
        self, tenant: Tenant, begun: WindowComparison, by: WindowComparison, *, checked_at_us: int
    ) -> None:
        """Add to a remembered window what lies behind it and agrees."""
        extension = {
            "tenant_id": tenant.id,
            "start": begun.span.start_us,
            "end": by.span.stop_us,
            "rows": by.source.rows,
            "high": str(by.source.high),
            "low": str(by.source.low),
            "checked_at": checked_at_us,
        }
        compared = _compared(tenant, by.span.stop_us, checked_at_us)
        await self._warehouse.write([(Q["extend_window"], extension), compared])

    async def changes(self, tenant: Tenant, span: Span) -> tuple[int, int]:
        """Other than before after any change of a row in the span's windows, applied or dead.

        While those windows are remembered: the count of doubts, and the newest letter.
        """
        parameters = {"tenant_id": tenant.id, "start": span.start_us, "stop": span.stop_us}
        async with self._warehouse.reader() as reader:
            ((doubts, letter),) = await reader.all(Q["changes"], parameters)
        return int(doubts), int(letter)

    async def totals(self, tenant: Tenant, before_us: int) -> tuple[Digest, Digest]:
        """Sums over the remembered windows that start before: (source, warehouse)."""
        parameters = {"tenant_id": tenant.id, "before": before_us}
        async with self._warehouse.reader() as reader:
            (row,) = await reader.all(Q["window_totals"], parameters)
        return _digest(row[:3]), _digest(row[3:])

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
        if comparisons:
            statements.append((Q["keep_windows"], _windows(tenant, comparisons, checked_at_us)))
        statements.append(_compared(tenant, compared_through_us, checked_at_us))
        await self._warehouse.write(statements)


def _standing(row: Sequence[Any]) -> TenantVerification:
    key, through_us, checked_us, first_us, mismatched, report_id, report_us, differences, _ = row
    known = None
    if through_us is not None:
        known = Verification(through_us, checked_us, first_us, mismatched)
    return TenantVerification(key, known, report_id or 0, report_us or 0, differences)


def _compared(tenant: Tenant, through_us: int, checked_at_us: int) -> tuple[str, Parameters]:
    return Q["set_verification"], {
        "tenant_id": tenant.id,
        "compared_through": through_us,
        "checked_at": checked_at_us,
    }


def _window(row: Sequence[object]) -> WindowComparison:
    start, stop = (int(str(edge)) for edge in row[:2])
    return WindowComparison(Span(start, stop), _digest(row[2:5]), _digest(row[5:8]))


def _windows(
    tenant: Tenant, comparisons: Sequence[WindowComparison], checked_at_us: int
) -> Parameters:
    return {
        "tenant_id": tenant.id,
        "starts": [window.span.start_us for window in comparisons],
        "ends": [window.span.stop_us for window in comparisons],
        "source_rows": [window.source.rows for window in comparisons],
        "source_highs": [str(window.source.high) for window in comparisons],
        "source_lows": [str(window.source.low) for window in comparisons],
        "warehouse_rows": [window.warehouse.rows for window in comparisons],
        "warehouse_highs": [str(window.warehouse.high) for window in comparisons],
        "warehouse_lows": [str(window.warehouse.low) for window in comparisons],
        "matched": [window.is_matched for window in comparisons],
        "checked_at": checked_at_us,
    }


def _digest(numbers: Iterable[object]) -> Digest:
    return Digest(*(int(str(number)) for number in numbers))
