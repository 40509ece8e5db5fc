"""Writers and readers of a rig, each answer judged by what had been committed when it was given."""

import asyncio
import contextlib
import itertools
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio

from .hotcache_rig import ACME, GLOBEX, Rig, pressure
from .waiting import eventually

IDS = tuple(range(1, 9))
SIGNS = {ACME: 1, GLOBEX: -1}
_READERS = 4
_PAUSE_SECONDS = 0.01


@dataclass
class Load:
    """Values of all entities rise with each flush; globex' are negative."""

    rig: Rig
    seed: int = 7
    answers: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    _past: dict[int, list[tuple[float, float]]] = field(
        default_factory=lambda: {entity_id: [(0.0, 0.0)] for entity_id in IDS}
    )
    """By entity: when a value had been committed, and the value."""
    _begun: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.lane = self.rig.lane()

    async def write(self) -> None:
        """Flush and announce; who announces does not wait for one who does not hear."""
        for number in itertools.count(1):
            ids = self._random.sample(IDS, 3)
            self._begun = float(number)
            flushed = self.rig.write(self.lane, float(number), ids)
            now = time.monotonic()
            for entity_id in ids:
                self._past[entity_id].append((now, float(number)))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self.rig.invalidate(self.lane, flushed)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def read(self, tenant: str) -> None:
        """Read as the tenant, now by staleness, now by token, and judge."""
        while True:
            await self._read_once(tenant)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _read_once(self, tenant: str) -> None:
        ids = self._random.sample(IDS, 3)
        by_token = self._random.random() < 0.3
        staleness = self._random.choice((0.2, 3.0, 30.0))
        token = self.rig.token(tenant, self.lane) if by_token and self.lane.sequence else b""
        known = {entity_id: self._past[entity_id][-1][1] for entity_id in ids}
        asked = time.monotonic()
        try:
            response = await self.rig.get(tenant, ids, staleness=staleness, token=token)
        except grpc.aio.AioRpcError as error:
            self.failures[str(error.details())] += 1
            return
        lag = response.lag.ToNanoseconds() / 1e9
        assert lag <= staleness, (lag, staleness)
        for at, entity_id in enumerate(ids):
            found = SIGNS[tenant] * (pressure(response, at) or 0.0)
            least = self._value_at(entity_id, asked - lag)
            if token:
                least = max(least, known[entity_id])
            assert least <= found <= self._begun, (
                f"{tenant} {entity_id}: {found}, want {least}..{self._begun}; lag {lag},"
                f" token {bool(token)}, {response.hit_count} hits, {response.bypass_reason}"
            )
        self.answers += 1
        self.hits[tenant] += response.hit_count

    def _value_at(self, entity_id: int, when: float) -> float:
        past = self._past[entity_id]
        return past[bisect_right(past, when, key=lambda item: item[0]) - 1][1]

    async def more_hits(self, *tenants: str, seconds: float = 10.0) -> None:
        """Wait until these tenants (all, if none is named) are answered from the cache again."""
        named = tenants or (ACME, GLOBEX)
        before = {tenant: self.hits[tenant] for tenant in named}
        await eventually(
            lambda: all(self.hits[tenant] > before[tenant] + 20 for tenant in named), seconds
        )

    async def more_answers(self, count: int = 50) -> None:
        """Wait until so many more reads are answered, by whomever."""
        before = self.answers
        await eventually(lambda: self.answers > before + count)


@asynccontextmanager
async def under_load(rig: Rig) -> AsyncIterator[Load]:
    """Load while the block runs, which begins when both tenants' reads hit.

    Fails if any answer was not as it had to be, or any call failed.
    """
    load = Load(rig)
    async with asyncio.TaskGroup() as tasks:
        work = [load.write(), *(load.read((ACME, GLOBEX)[n % 2]) for n in range(_READERS))]
        running = [tasks.create_task(one) for one in work]
        await load.more_hits()
        yield load
        for task in running:
            task.cancel()
    assert not load.failures, load.failures
