"""What people order the pipeline to do: pause, resume, recover, copy a part again.

Orders are few and carried out one at a time by the pipeline's own loop, between two batches.
"""

import asyncio
from dataclasses import dataclass, field
from enum import Enum

from atlas_cdc_reconciler.lifecycle_store import LifecycleStore, Pause
from atlas_cdc_reconciler.progress import CopyProgress, Phase, Progress
from atlas_cdc_reconciler.scope import Scope
from atlas_common import errors

AUTOMATIC = "pipeline"
"""The actor of what nobody asked for."""


class OrderKind(Enum):
    """What the pipeline is to do."""

    PAUSE = "pause"
    RESUME = "resume"
    RECOVER = "recover"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who orders something, why, and by which call."""

    name: str
    reason: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class Order:
    """Something to be done; `done` has the outcome."""

    kind: OrderKind
    actor: Actor
    scope: Scope = field(default_factory=Scope)
    dry_run: bool = False
    done: "asyncio.Future[CopyProgress | None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Lifecycle:
    """Takes orders from callers, and hands them to the pipeline."""

    def __init__(self, store: LifecycleStore, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._order: Order | None = None
        self._arrived = asyncio.Event()
        self.pause: Pause | None = None
        """In force; kept over restarts."""

    async def load(self) -> None:
        """Remember what was ordered before the last restart."""
        self.pause = await self._store.pause()

    async def order(
        self, kind: OrderKind, actor: Actor, scope: Scope | None = None, *, dry_run: bool = False
    ) -> CopyProgress | None:
        """Have something done; returns when it is, for RECOVER when it has begun.

        Raises ServiceError: FAILED_PRECONDITION / JOB_CONFLICT while another order is carried out,
        and in a phase that does not allow it.
        """
        self._check(kind)
        order = Order(kind, actor, scope or Scope(), dry_run)
        self._order = order
        self._arrived.set()
        try:
            return await asyncio.shield(order.done)
        except asyncio.CancelledError:
            if kind is OrderKind.BACKFILL:  # Nobody waits for it any more.
                order.done.cancel()
            raise

    def _check(self, kind: OrderKind) -> None:
        if self._order is not None:
            raise errors.failed_precondition(
                "JOB_CONFLICT", f"a {self._order.kind.value} is being carried out: try again later"
            )
        phase = self._progress.now.phase
        if phase is Phase.STANDBY:
            raise errors.failed_precondition(
                "JOB_CONFLICT", "this instance is a standby: ask the one that leads"
            )
        allowed = _ALLOWED.get(kind)
        if allowed is not None and phase not in allowed:
            raise errors.failed_precondition(
                "JOB_CONFLICT",
                f"the pipeline is {phase.value}: a {kind.value} needs it"
                f" {' or '.join(sorted(each.value for each in allowed))}",
            )

    # For the pipeline ---------------------------------------------------------------------------

    @property
    def waiting(self) -> Order | None:
        """The order to be carried out."""
        return self._order

    async def arrival(self) -> None:
        """Wait for an order."""
        await self._arrived.wait()

    def end(self, order: Order, outcome: CopyProgress | None = None) -> None:
        """The order has been carried out."""
        self._clear()
        if not order.done.done():
            order.done.set_result(outcome)

    def fail(self, order: Order, error: Exception) -> None:
        """The order could not be carried out."""
        self._clear()
        if not order.done.done():
            order.done.set_exception(error)
            order.done.exception()  # Seen: its caller may be gone.

    async def set_paused(self, actor: Actor, *, paused: bool) -> None:
        """Store that the pipeline is paused, or goes on."""
        await self._store.set_paused(actor.name, actor.reason, actor.request_id, paused=paused)
        self.pause = await self._store.pause()

    async def begin_recovery(self, actor: Actor) -> None:
        """Store that the warehouse is to be levelled, whatever comes in between."""
        await self._store.begin_recovery(actor.name, actor.reason, actor.request_id)

    async def recent_recoveries(self) -> int:
        """How many nobody asked for, within an hour."""
        return await self._store.recent_recoveries(AUTOMATIC)

    async def audit_backfill(self, order: Order, copied: CopyProgress) -> None:
        """Keep who had what copied."""
        await self._store.audit_backfill(
            order.actor.name,
            order.actor.request_id,
            order.scope,
            f"{order.scope}: {copied.spans_copied} spans differed, {copied.rows_copied} rows copied"
            + (f"; {order.actor.reason}" if order.actor.reason else ""),
        )

    def _clear(self) -> None:
        self._order = None
        self._arrived.clear()


_ALLOWED = {
    OrderKind.BACKFILL: frozenset({Phase.STREAMING}),
    OrderKind.RECOVER: frozenset({Phase.STREAMING, Phase.STOPPED, Phase.RECOVERING}),
}
