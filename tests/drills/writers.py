"""Clients whose writes a disaster may cut short, and who send again what was lost."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import psycopg

from atlas_devstack.database import Database
from tests.chaos.audit import token_states
from tests.chaos.ledger import Ledger, Level, Outcome, SentBatch
from tests.chaos.load import DRAIN_SECONDS_MAX, Door, door_to

_LEVELS = (Level.DURABLE, Level.STAGED)
_POINTS = 10
_AT_ONCE = 64


class Writers:
    """One for each tenant and level: it sends its next batch after the answer."""

    def __init__(self, door: Door, tenants: Sequence[str], name: str) -> None:
        self._door = door
        self._stopping = False
        self._tasks = [
            asyncio.create_task(self._write(tenant, f"{name}-{level.name}", level))
            for tenant in tenants
            for level in _LEVELS
        ]

    async def _write(self, tenant: str, name: str, level: Level) -> None:
        for number in itertools.count():
            if self._stopping:
                return
            key = f"{name}-{number}"
            await self._door.deliver(self._door.ledger.new_batch(tenant, key, level, _POINTS))

    async def finish(self) -> None:
        """Begin nothing more, and wait until every outcome is known."""
        self._stopping = True
        async with asyncio.timeout(DRAIN_SECONDS_MAX):
            await asyncio.gather(*self._tasks)

    async def break_off(self) -> None:
        """Nobody answers any more: what was under way stays unknown."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in ended), ended


@asynccontextmanager
async def writers_at(
    target: str, ledger: Ledger, tenants: Sequence[str], name: str
) -> AsyncIterator[Writers]:
    """Writers at an ingest process; `name` makes their keys unlike those of others."""
    async with door_to([target], ledger) as door:
        writers = Writers(door, tenants, name)
        try:
            yield writers
            await writers.finish()
        except BaseException:
            await writers.break_off()
            raise


async def send_again(target: str, ledger: Ledger, batches: Iterable[SentBatch]) -> None:
    """Under the keys that they had, as clients do that are not sure."""
    turns = asyncio.Semaphore(_AT_ONCE)
    async with door_to([target], ledger) as door, asyncio.timeout(DRAIN_SECONDS_MAX):

        async def send(batch: SentBatch) -> None:
            async with turns:
                await door.deliver(batch)

        await asyncio.gather(*map(send, batches))


def lost_batches(database: Database, ledger: Ledger) -> list[SentBatch]:
    """Acknowledged, and by their tokens no more. Fails if a token leaves that open."""
    batches = ledger.with_outcome(Outcome.ACKNOWLEDGED)
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute("SET search_path = atlas")
        states = token_states(connection, {batch.token for batch in batches})
    assert set(states.values()) <= {"reached", "lost"}, states
    return [batch for batch in batches if states[batch.token] == "lost"]
