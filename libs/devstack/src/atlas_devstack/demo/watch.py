"""The platform's own figures, once a second, for the live view."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from atlas_client import (
    AtlasClient,
    AtlasError,
    CacheStatus,
    PipelineStatus,
    StagingStatus,
    Tier,
)

T = TypeVar("T")

_POLL_SECONDS = 1.0
_CALL_SECONDS = 2.0
_VERIFY_EVERY_SECONDS = 8.0
_VERIFY_BEHIND = timedelta(seconds=5)
_VERIFY_SECONDS = 20.0


@dataclass(slots=True)
class Figures:
    """The latest answers; None where there was none."""

    staging: StagingStatus | None = None
    cache: CacheStatus | None = None
    pipeline: PipelineStatus | None = None
    tiers: list[Tier] = field(default_factory=list)
    verified_through: dict[str, datetime | None] = field(default_factory=dict)
    lag_seconds_max: dict[str, float] = field(default_factory=dict)
    """Tier endpoint -> the greatest lag seen."""


class Watch:
    """Keeps the figures up to date. What does not answer is left out: it may be restarting."""

    def __init__(self, clients: Mapping[str, AtlasClient]) -> None:
        self._clients = clients
        self._any = next(iter(clients.values()))
        self.figures = Figures()

    async def run(self, stopping: asyncio.Event) -> None:
        """Poll until told to stop."""
        async with asyncio.TaskGroup() as tasks:
            for tenant in self._clients:
                tasks.create_task(self._verify(tenant, stopping))
            while not stopping.is_set():
                await self._poll()
                await _pause(stopping, _POLL_SECONDS)

    async def _poll(self) -> None:
        figures, client = self.figures, self._any
        figures.staging = await _answer(client.staging_status(timeout=_CALL_SECONDS))
        figures.cache = await _answer(client.cache_status(timeout=_CALL_SECONDS))
        figures.pipeline = await _answer(client.pipeline_status(timeout=_CALL_SECONDS))
        figures.tiers = await _answer(client.list_tiers(timeout=_CALL_SECONDS)) or []
        for tier in figures.tiers:
            if tier.lag is not None:
                before = figures.lag_seconds_max.get(tier.endpoint, 0.0)
                figures.lag_seconds_max[tier.endpoint] = max(before, tier.lag.total_seconds())

    async def _verify(self, tenant: str, stopping: asyncio.Event) -> None:
        """Reconcile the near past, time and again: verified_through follows the feed."""
        client = self._clients[tenant]
        while not stopping.is_set():
            through = datetime.now(UTC) - _VERIFY_BEHIND
            reconciliation = client.reconcile(through=through, timeout=_VERIFY_SECONDS)
            summary = await _answer(reconciliation.summary())
            if summary is not None:
                self.figures.verified_through[tenant] = summary.verified_through
            await _pause(stopping, _VERIFY_EVERY_SECONDS)


async def _answer(asked: Awaitable[T]) -> T | None:
    try:
        return await asked
    except AtlasError:
        return None


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return
