"""A reconciler that kills itself at a step of applying: run by test_warehouse_killed.py."""

import asyncio
import json
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg

from atlas_cdc_reconciler.changes import Batch
from atlas_cdc_reconciler.config import SlotConfig
from atlas_cdc_reconciler.sink import Sink
from atlas_devstack.database import Database
from tests.integration.reconciler_rig import Rig

HISTORY = "entity_values_ts"


class Step(StrEnum):
    """Where it dies."""

    READ = "read"
    """A batch was read, nothing of it stored."""
    STAGE = "stage"
    """Rows are in the open transaction, books and position are not."""
    COMMIT = "commit"
    """All is in the open transaction."""
    COMMITTED = "committed"
    """The transaction is committed, nobody knows."""
    ACKNOWLEDGED = "acknowledged"
    """The source was told."""


def die() -> None:
    """End at once, as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingConnection:
    """DuckDB's connection, up to a statement."""

    def __init__(self, connection: Any, statement: str) -> None:
        self._connection = connection
        self._statement = statement

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        """As the connection; dies before the statement."""
        if self._statement in sql:
            die()
        return self._connection.execute(sql, *parameters)


class DyingSink:
    """Dies at the step of the first batch that has points."""

    def __init__(self, sink: Any, step: Step) -> None:
        self._sink = sink
        self._step = step
        self._is_stored = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    async def apply(self, batch: Batch) -> Any:
        """As the sink, once or never."""
        if self._is_stored:  # The batch before was acknowledged before this one was read.
            die()
        if not batch.counts()[HISTORY]:
            return await self._sink.apply(batch)
        applier = self._sink._applier
        match self._step:
            case Step.READ:
                die()
            case Step.STAGE:
                applier.connection = DyingConnection(applier.connection, "MERGE INTO cdc_counters")
            case Step.COMMIT:
                applier.connection = DyingConnection(applier.connection, "COMMIT")
        state = await self._sink.apply(batch)
        if self._step is Step.COMMITTED:
            die()
        self._is_stored = True
        return state


async def main(arguments: dict[str, Any]) -> None:
    """Run until it dies."""
    server = Database(arguments["dsn"], arguments["passwords"])
    step = Step(arguments["step"])

    def dying(sink: Sink) -> Any:
        return DyingSink(sink, step)

    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        slot = SlotConfig(name=arguments["slot"], linger_ms=5)
        rig = Rig(server, admin, Path(arguments["path"]), slot)
        async with rig.running(wrap=dying) as running:
            while True:
                await running.caught_up()  # Each time the heart beats: there is another batch.


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
