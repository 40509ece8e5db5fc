"""The store of the pipeline's life cycle: whether it is paused, who did what to it."""

from dataclasses import dataclass

from atlas_cdc_reconciler.scope import Scope
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse, Parameters
from atlas_cdc_reconciler.sink.queries import Q


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused the pipeline, why and since when (microseconds since 1970)."""

    actor: str
    reason: str
    paused_at_us: int


class LifecycleStore:
    """Keeps it in the warehouse, so that it is true of this copy wherever its file goes."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        self._warehouse = warehouse

    async def pause(self) -> Pause | None:
        """The pause in force."""
        async with self._warehouse.reader() as reader:
            rows = await reader.all(Q["pause"])
        return Pause(*rows[0]) if rows else None

    async def set_paused(self, actor: str, reason: str, request_id: str, *, paused: bool) -> None:
        """Pause or resume, and keep who did."""
        change: tuple[str, Parameters] = (
            (Q["set_pause"], {"actor": actor, "reason": reason}) if paused else (Q["end_pause"], {})
        )
        action = "pause" if paused else "resume"
        await self._warehouse.write([change, _audit(actor, action, request_id, reason)])

    async def begin_recovery(self, actor: str, reason: str, request_id: str) -> None:
        """From now on the warehouse may be neither the old state nor the new one."""
        await self._warehouse.write(
            [
                (Q["begin_levelling"], {"reason": reason}),
                _audit(actor, "recover", request_id, reason),
            ]
        )

    async def recent_recoveries(self, actor: str) -> int:
        """Recoveries of an actor within an hour."""
        async with self._warehouse.reader() as reader:
            ((count,),) = await reader.all(Q["recent_recoveries"], {"actor": actor})
        return int(count)

    async def audit_backfill(self, actor: str, request_id: str, scope: Scope, detail: str) -> None:
        """Keep who had which part copied."""
        tenants = scope.tenant_ids or ()
        tenant_id = tenants[0] if len(tenants) == 1 else None
        await self._warehouse.write([_audit(actor, "backfill", request_id, detail, tenant_id)])


def _audit(
    actor: str, action: str, request_id: str, detail: str, tenant_id: int | None = None
) -> tuple[str, Parameters]:
    return (
        Q["audit"],
        {
            "actor": actor,
            "action": action,
            "tenant_id": tenant_id,
            "request_id": request_id,
            "detail": detail,
        },
    )
