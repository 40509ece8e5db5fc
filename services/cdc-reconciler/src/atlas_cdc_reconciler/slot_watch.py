"""Watches how near the slot is to losing its log, and says so before it is too late.

Ours, or Debezium's, which feeds the topic that we read.
"""

import asyncio
import time
from contextlib import suppress

import psycopg

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.config import SlotConfig
from atlas_cdc_reconciler.progress import Phase, Progress
from atlas_cdc_reconciler.source.slot_state import Danger, SlotState
from atlas_cdc_reconciler.source.slot_store import read_slot
from atlas_common.db import Database
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger

_AGAIN_SECONDS = 60.0
_log = logger(__name__)


class SlotWatch:
    """Looks at the slot, whether anybody reads from it or not."""

    def __init__(
        self, config: SlotConfig, slot_name: str, database: Database, progress: Progress
    ) -> None:
        self.slot_name = slot_name
        self._config = config
        self._database = database
        self._progress = progress
        self._danger = Danger.NONE
        self._told = -_AGAIN_SECONDS
        self.state: SlotState | None = None
        """As last seen; None: not yet, or there is no slot."""
        metrics.show_slot(lambda: self.state, self.used_share)

    def used_share(self) -> float:
        """How much of what the server keeps at most is used, 0 to 1."""
        return 0.0 if self.state is None else self.state.used_share(self._config.unlimited_bytes)

    async def run(self) -> None:
        """Watch until cancelled, through outages."""
        while True:
            with suppress(ServiceError, psycopg.Error):  # The pipeline says that it is away.
                await self.look()
            await asyncio.sleep(self._config.watch_interval_seconds)

    async def look(self) -> SlotState | None:
        """Look now. Raises ServiceError or psycopg.Error; `state` is then as it was."""
        if self.slot_name:
            self.state = await read_slot(self._database, self.slot_name)
            self._warn()
        return self.state

    def _warn(self) -> None:
        config, state = self._config, self.state
        danger = Danger.NONE
        if state is not None:
            danger = state.danger(
                config.warning_share, config.critical_share, config.unlimited_bytes
            )
        now = time.monotonic()
        is_worse, was = danger > self._danger, self._danger
        self._danger = danger
        if state is None or danger is Danger.NONE:
            if was is not Danger.NONE:
                _log.info("slot is safe again", slot=self.slot_name)
            return
        if not is_worse and now - self._told < _AGAIN_SECONDS:
            return
        self._told = now
        say = _log.critical if danger is Danger.CRITICAL else _log.warning
        say(
            "slot is losing its log",
            slot=self.slot_name,
            wal_status=state.wal_status,
            retained_bytes=state.retained_bytes,
            safe_bytes=state.safe_bytes,
            used_share=round(self.used_share(), 3),
            active=state.active,
            paused=self._progress.now.phase is Phase.PAUSED,
        )
