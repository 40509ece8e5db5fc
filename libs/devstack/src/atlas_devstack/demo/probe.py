"""Reads of one's own writes, at every tier, compared value by value."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc

from atlas_client import (
    AggregateFunction,
    AtlasClient,
    AtlasError,
    Attribute,
    DataType,
    EntitiesResult,
    OnUnmet,
    Point,
    ReadMetadata,
    analytics,
    at_least_as_fresh,
    strong,
)
from atlas_devstack.demo.tally import Tally
from atlas_devstack.demo.writer import UnsettledError, Writer

PROBE_ATTRIBUTES = (
    Attribute("probe.hot", DataType.INT, hot=True),
    Attribute("probe.cold", DataType.INT),
)
_INTERVAL_SECONDS = 0.7
_CACHE_READS_MAX = 10
_CACHE_PAUSE_SECONDS = 0.05
_REPLICA_WAIT = timedelta(seconds=3)
_WAREHOUSE_WAIT = timedelta(seconds=8)
_READ_SECONDS = 12.0


@dataclass(frozen=True, slots=True)
class Written:
    """A point that was acknowledged."""

    entity: str
    value: int
    moment: datetime
    token: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """Who answered, and what."""

    tier: str
    value: float | int | None


class Prober:
    """Writes a point and reads it back at one tier, for one tenant, over and over."""

    def __init__(self, tier: str, client: AtlasClient, writer: Writer, tally: Tally) -> None:
        self._tier = tier
        self._client = client
        self._writer = writer
        self._tally = tally
        self._value = 0
        reads: dict[str, Callable[[Written], Awaitable[list[Answered]]]] = {
            "primary": self._read_primary,
            "replica": self._read_replica,
            "cache": self._read_cache,
            "warehouse": self._read_warehouse,
        }
        self._read = reads[tier]

    async def run(self, stopping: asyncio.Event) -> None:
        """Probe until told to stop."""
        while not stopping.is_set():
            await self._probe()
            try:
                await asyncio.wait_for(stopping.wait(), _INTERVAL_SECONDS)
            except TimeoutError:
                continue

    async def _probe(self) -> None:
        try:
            written = await self._write()
        except (AtlasError, UnsettledError):
            return  # Counted by the writer.
        probes = self._tally.probes[self._tier]
        began = time.monotonic()
        try:
            answers = await self._read(written)
        except AtlasError as error:
            if _is_momentary(error):
                probes.unavailable += 1
            else:
                probes.failures += 1
                self._tally.problem(f"{self._where} refused to read back: {error}")
            return
        probes.latencies.add(time.monotonic() - began)
        for answer in answers:
            self._count(written, answer)

    def _count(self, written: Written, answer: Answered) -> None:
        probes = self._tally.probes[answer.tier]
        probes.checks += 1
        if answer.value != written.value:
            probes.failures += 1
            wrong = f"read {answer.value} where {written.value} was written"
            self._tally.problem(f"{self._where}: {answer.tier} {wrong}")
        if answer.tier != self._tier:
            self._tally.probes[self._tier].elsewhere += 1

    @property
    def _where(self) -> str:
        return f"{self._client.tenant}, probe of {self._tier}"

    async def _write(self) -> Written:
        # Unique and rising, so that the value tells the write, even if the clock steps back. It is
        # the event time, too, so that the newest point is the one written last.
        self._value = max(self._value + 1, time.time_ns() // 1000)
        moment = datetime.fromtimestamp(self._value // 10**6, UTC)
        moment += timedelta(microseconds=self._value % 10**6)
        entity = f"probe/{self._tier}"
        result = await self._writer.write(
            [
                Point(entity, "probe.hot", self._value, moment),
                Point(entity, "probe.cold", self._value, moment),
            ]
        )
        return Written(entity, self._value, moment, result.token)

    async def _read_primary(self, written: Written) -> list[Answered]:
        result = await self._client.get_entities(
            [written.entity], attributes=["probe.cold"], consistency=strong(), timeout=_READ_SECONDS
        )
        return [Answered(_tier_of(result.metadata), _value_of(result, "probe.cold"))]

    async def _read_replica(self, written: Written) -> list[Answered]:
        result = await self._client.get_entities(
            [written.entity],
            attributes=["probe.cold"],
            consistency=at_least_as_fresh(
                written.token, wait_timeout=_REPLICA_WAIT, on_unmet=OnUnmet.WAIT
            ),
            timeout=_READ_SECONDS,
        )
        return [Answered(_tier_of(result.metadata), _value_of(result, "probe.cold"))]

    async def _read_cache(self, written: Written) -> list[Answered]:
        """The first reads may be answered by the primary, and so fill the cache."""
        answers = []
        for _ in range(_CACHE_READS_MAX):
            result = await self._client.get_entities(
                [written.entity],
                attributes=["probe.hot"],
                consistency=at_least_as_fresh(written.token),
                timeout=_READ_SECONDS,
            )
            answers.append(Answered(_tier_of(result.metadata), _value_of(result, "probe.hot")))
            if answers[-1].tier == "cache":
                break
            await asyncio.sleep(_CACHE_PAUSE_SECONDS)
        return answers

    async def _read_warehouse(self, written: Written) -> list[Answered]:
        stream = self._client.aggregate(
            ["probe.cold"],
            [AggregateFunction.MAX, AggregateFunction.COUNT],
            entities=[written.entity],
            start=written.moment,
            end=written.moment + timedelta(microseconds=1),
            consistency=analytics(token=written.token, wait_timeout=_WAREHOUSE_WAIT),
            timeout=_READ_SECONDS,
        )
        rows = [row async for row in stream]
        tier = _tier_of(stream.metadata)
        if len(rows) != 1 or rows[0].results[AggregateFunction.COUNT] != 1:
            return [Answered(tier, None)]
        return [Answered(tier, rows[0].results[AggregateFunction.MAX])]


def _tier_of(metadata: ReadMetadata | None) -> str:
    assert metadata is not None, "an answer without metadata"
    assert metadata.source is not None, f"an answer from an unknown tier: {metadata}"
    return metadata.source.value


def _value_of(result: EntitiesResult, attribute: str) -> int | None:
    for state in result:
        value = state.values.get(attribute)
        if isinstance(value, int):
            return value
    return None


def _is_momentary(error: AtlasError) -> bool:
    """Not there, or not in time: says nothing about what would have been read."""
    return (
        not error.reason  # Not a service's word: the connection broke.
        or error.is_transient
        or error.reason in {"FRESHNESS_UNMET", "OVERLOADED"}
        or error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    )
