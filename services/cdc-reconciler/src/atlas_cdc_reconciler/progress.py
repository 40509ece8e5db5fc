"""How far the warehouse is, for those who report it and those who wait for it."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from atlas_cdc_reconciler.sink import SinkState
from atlas_common.db import NO_BEAT


class Phase(StrEnum):
    """What the pipeline is doing."""

    SNAPSHOT = "snapshot"
    """There is no first copy yet, or it is being made."""
    STREAMING = "streaming"
    STOPPED = "stopped"
    """It cannot go on; a person has to act."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The pipeline at one moment."""

    phase: Phase
    sink: SinkState
    reason: str
    """Why it stands still; empty when it does not."""
    version: int
    """Rises with each change."""


class Progress:
    """The newest Standing, and waiting for a newer one. Used in one event loop."""

    def __init__(self) -> None:
        self._standing = Standing(Phase.SNAPSHOT, SinkState(None, NO_BEAT), "starting", 0)
        self._moved = asyncio.Condition()

    @property
    def now(self) -> Standing:
        """Where the pipeline stands."""
        return self._standing

    async def move(
        self,
        *,
        phase: Phase | None = None,
        sink: SinkState | None = None,
        reason: str | None = None,
    ) -> None:
        """Tell of a change."""
        was = self._standing
        self._standing = Standing(
            was.phase if phase is None else phase,
            was.sink if sink is None else sink,
            was.reason if reason is None else reason,
            was.version + 1,
        )
        async with self._moved:
            self._moved.notify_all()

    async def after(self, version: int) -> Standing:
        """Wait until there is something newer than this version."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._standing.version > version)
        return self._standing
