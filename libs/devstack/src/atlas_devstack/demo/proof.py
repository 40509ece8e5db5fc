"""What was acknowledged against what is there: counted and checksummed on both sides."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from atlas_client import AtlasClient, AtlasError, ReconcileSummary

T = TypeVar("T")

_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.5
_RECONCILE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TenantProof:
    """One tenant's rows of this run."""

    acknowledged: int
    primary: int
    """Rows in entity_values_ts."""
    warehouse: int
    checksum_primary: str
    """Of all rows of the tenant, those of earlier runs included."""
    checksum_warehouse: str
    windows_mismatched: int
    verified_through: datetime | None

    @property
    def ok(self) -> bool:
        """Say whether both copies hold exactly what was acknowledged."""
        return (
            self.acknowledged == self.primary == self.warehouse
            and self.checksum_primary == self.checksum_warehouse
            and self.windows_mismatched == 0
        )


async def reconcile_all(clients: Mapping[str, AtlasClient]) -> dict[str, ReconcileSummary]:
    """Reconcile every tenant to its last row. Raises AtlasError when none can answer for long."""
    return {
        tenant: await patiently(lambda client=client: _reconcile(client))  # type: ignore[misc]
        for tenant, client in clients.items()
    }


def prove(
    acknowledged: Mapping[str, int],
    before: Mapping[str, ReconcileSummary],
    after: Mapping[str, ReconcileSummary],
) -> dict[str, TenantProof]:
    """Return what this run added, by tenant."""
    return {
        tenant: TenantProof(
            acknowledged=acknowledged.get(tenant, 0),
            primary=end.source.row_count - before[tenant].source.row_count,
            warehouse=end.warehouse.row_count - before[tenant].warehouse.row_count,
            checksum_primary=end.source.checksum,
            checksum_warehouse=end.warehouse.checksum,
            windows_mismatched=end.windows_mismatched,
            verified_through=end.verified_through,
        )
        for tenant, end in after.items()
    }


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until it is answered: a service may be on its way back. Raises the last AtlasError."""
    began = time.monotonic()
    while True:
        try:
            return await attempt()
        except AtlasError as error:
            is_momentary = error.is_transient or not error.reason or error.reason in _LATER
            if not is_momentary or time.monotonic() - began > _PATIENCE_SECONDS:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)


_LATER = frozenset({"FRESHNESS_UNMET", "DEADLINE_EXCEEDED", "OVERLOADED"})


async def _reconcile(client: AtlasClient) -> ReconcileSummary:
    return await client.reconcile(timeout=_RECONCILE_SECONDS).summary()
