"""How far the warehouse is, for those who report it and those who wait for it."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from atlas_cdc_reconciler.sink import SinkState
from atlas_common.db import NO_BEAT


class Phase(StrEnum):
    """What the pipeline is doing."""

    STARTING = "starting"
    """Nothing is known yet."""
    SNAPSHOT = "snapshot"
    """There is no first copy yet, or it is being made."""
    RECOVERING = "recovering"
    """What differs is copied again: rows may be newer than `as_of` says."""
    STREAMING = "streaming"
    BACKFILLING = "backfilling"
    """A part is compared and copied again; the stream waits."""
    PAUSED = "paused"
    """By a person, until a person resumes it."""
    STOPPED = "stopped"
    """It cannot go on; a person has to act."""
    STANDBY = "standby"
    """Another instance is the one that works."""

    @property
    def stands_still(self) -> bool:
        """Whether it does not move by itself."""
        return self in (Phase.PAUSED, Phase.STOPPED, Phase.STANDBY)


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far copying is, or was when it ended."""

    tables_total: int = 0
    tables_done: int = 0
    tenants_total: int = 0
    """Of the history, tenant by tenant."""
    tenants_done: int = 0
    rows_total: int = 0
    """Of the tenant at work, at the source; and how many of them are level."""
    rows_done: int = 0
    rows_compared: int = 0
    """Of all tenants' history, equal ones included."""
    rows_differing: int = 0
    """Of the spans that differed, at the source."""
    rows_copied: int = 0
    """Of all tables."""
    rows_rejected: int = 0
    """Those the warehouse cannot hold."""
    spans_copied: int = 0

    @property
    def share(self) -> float:
        """About how much is done, 0 to 1: the history is taken for all the work."""
        if not self.tenants_total:
            return 0.0
        begun = self.rows_done / self.rows_total if self.rows_total else 0.0
        return (self.tenants_done + begun) / self.tenants_total


@dataclass(frozen=True, slots=True)
class Standing:
    """The pipeline at one moment."""

    phase: Phase
    sink: SinkState
    reason: str
    """Why it stands still; empty when it does not."""
    version: int
    """Rises with each change."""
    copy: CopyProgress | None = None
    """Of the copy that runs, or else of the last one."""


class Progress:
    """The newest Standing, and waiting for a newer one. Used in one event loop."""

    def __init__(self) -> None:
        self._standing = Standing(Phase.STARTING, SinkState(None, NO_BEAT), "", 0)
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
        copy: CopyProgress | None = None,
    ) -> None:
        """Tell of a change."""
        was = self._standing
        self._standing = Standing(
            was.phase if phase is None else phase,
            was.sink if sink is None else sink,
            was.reason if reason is None else reason,
            was.version + 1,
            was.copy if copy is None else copy,
        )
        async with self._moved:
            self._moved.notify_all()

    async def after(self, version: int) -> Standing:
        """Wait until there is something newer than this version."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._standing.version > version)
        return self._standing
