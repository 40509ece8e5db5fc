"""Answers aggregates from the warehouse, and proves how fresh they are."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from atlas_cdc_reconciler.aggregate_sql import (
    NUMERIC_TYPES,
    AggregateQuery,
    aggregate_sql,
    point_count_sql,
)
from atlas_cdc_reconciler.positions import LaneProgress, PositionState
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.reading import Reader
from atlas_cdc_reconciler.verification_store import read_verification
from atlas_common import errors
from atlas_common.db import NO_BEAT, Beat
from atlas_common.errors import ServiceError
from atlas_common.token import Position
from atlas_common.values import us_to_datetime

PIECE_ROWS = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

AggregateRow = tuple[int, int, int | None, int | None, *tuple[float | None, ...]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one aggregate may take; the warehouse's memory bounds the rest."""

    rows_max: int
    """Of its answer."""
    seconds_max: float = 60.0
    """From the first row read to the last one sent."""
    percentile_points_max: int = 20_000_000
    """Percentiles are exact, so all values are held in memory, eight bytes each."""


@dataclass(frozen=True, slots=True)
class Demand:
    """How fresh the warehouse has to be, and how long to wait for it."""

    positions: tuple[Position, ...] = ()
    min_verified_through_us: int | None = None
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Served:
    """How fresh one snapshot of the warehouse is."""

    beat: Beat
    lanes: LaneProgress
    verified_through_us: int | None
    levelling: str = ""
    """Why rows are being copied again, so that some may be newer than the beat; empty: none are."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, and the proof that belongs to them: both are of one snapshot."""

    served: Served
    pieces: AsyncIterator[list[AggregateRow]]
    """At most PIECE_ROWS rows each."""


class Aggregator:
    """Reads the warehouse for one tenant at a time."""

    def __init__(self, warehouse: DuckDbWarehouse, progress: Progress, bounds: Bounds) -> None:
        self._warehouse = warehouse
        self._progress = progress
        self._bounds = bounds
        self._looking = asyncio.Lock()
        self._seen: tuple[int, LaneProgress] | None = None

    @asynccontextmanager
    async def answer(
        self,
        query: AggregateQuery,
        demand: Demand,
        spent: Callable[[float], None] = lambda _seconds: None,
    ) -> AsyncIterator[Answer]:
        """The answer, once the warehouse is as fresh as demanded.

        `spent` is told for how many seconds the warehouse was read, however it ends.
        Raises ServiceError: UNAVAILABLE / FRESHNESS_UNMET after the wait, FAILED_PRECONDITION /
        POSITION_LOST at once, INVALID_ARGUMENT / TYPE_MISMATCH for an attribute without numbers,
        RESOURCE_EXHAUSTED / OVERLOADED when it needs too much memory, DEADLINE_EXCEEDED when it
        takes too long.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + demand.wait_seconds
        if demand.positions and demand.wait_seconds > 0:
            await self._wait_for(demand.positions, ends)
        while True:
            # Before the look: what changes during it must not be missed by the wait.
            version = self._progress.now.version
            async with self._warehouse.reader() as reader, _timed(spent):
                served = await self._served(reader, query.tenant_id)
                unmet = _unmet(served, demand)
                if unmet is None:
                    reader.limit(self._bounds.seconds_max)
                    types = await self._types(reader, query)
                    if query.percentiles:
                        await self._check_points(reader, query)
                    yield Answer(served, self._pieces(reader, query, types))
                    return
            # No reader is held during the wait.
            try:
                async with asyncio.timeout_at(ends):
                    await self._progress.after(version)
            except TimeoutError:
                raise unmet from None

    async def _wait_for(self, positions: Sequence[Position], ends: float) -> None:
        """Return when the positions are here, or lost, or it is too late: a hint, no proof yet.

        All that wait look together, once for each change: else they would keep others from reading.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(ends):
                while True:
                    version = self._progress.now.version
                    lanes = await self._lanes(version)
                    if lanes.worst(positions)[0] is not PositionState.PENDING:
                        return
                    await self._progress.after(version)

    async def _lanes(self, version: int) -> LaneProgress:
        """How far the lanes are, as seen at this version of the progress or later."""
        async with self._looking:
            if self._seen is None or self._seen[0] < version:
                version = self._progress.now.version
                async with self._warehouse.reader() as reader:
                    flushed, claims = await reader.all(Q["lanes"]), await reader.all(Q["claims"])
                self._seen = (version, LaneProgress.of(flushed, claims))
            return self._seen[1]

    async def _served(self, reader: Reader, tenant_id: int) -> Served:
        beats = await reader.all(Q["newest_beat"])
        flushed = await reader.all(Q["lanes"])
        claims = await reader.all(Q["claims"])
        verification = await read_verification(reader, tenant_id)
        levelling = await reader.all(Q["levelling"])
        beat = NO_BEAT
        if beats:
            beat = Beat(beats[0][0], _EPOCH + timedelta(microseconds=beats[0][1]))
        return Served(
            beat,
            LaneProgress.of(flushed, claims),
            None if verification is None else verification.verified_through_us,
            levelling[0][0] if levelling else "",
        )

    async def _pieces(
        self, reader: Reader, query: AggregateQuery, types: Iterable[str]
    ) -> AsyncIterator[list[AggregateRow]]:
        rows_max = self._bounds.rows_max
        sql, parameters = aggregate_sql(query, types, rows_max)
        count = 0
        async for rows in reader.pieces(sql, parameters, PIECE_ROWS):
            count += len(rows)
            if count > rows_max:
                raise errors.invalid_argument(
                    "INVALID_FIELD",
                    f"the answer has more than {rows_max} rows: use wider buckets",
                    field="bucket_us",
                )
            yield rows

    async def _types(self, reader: Reader, query: AggregateQuery) -> frozenset[str]:
        """The types that the attributes' values may have, which have to fit what is asked."""
        types = dict(
            await reader.all(
                Q["attribute_types"],
                {"tenant_id": query.tenant_id, "attribute_ids": list(query.attribute_ids)},
            )
        )
        odd = sorted(at for at, data_type in types.items() if data_type not in NUMERIC_TYPES)
        if odd and query.needs_numbers:
            raise errors.invalid_argument(
                "TYPE_MISMATCH",
                f"attributes {odd[:10]} have no numbers: they can be counted, nothing else",
                field="attribute_ids",
            )
        # What the catalog does not know may have any.
        unknown = set(query.attribute_ids) - types.keys()
        return frozenset(types.values()) | (NUMERIC_TYPES if unknown else frozenset())

    async def _check_points(self, reader: Reader, query: AggregateQuery) -> None:
        ((points,),) = await reader.all(*point_count_sql(query))
        if points > self._bounds.percentile_points_max:
            raise errors.resource_exhausted(
                "OVERLOADED",
                f"percentiles of {points} points at a time are too many, the most is"
                f" {self._bounds.percentile_points_max}: ask for a shorter time or fewer entities",
                field="percentiles",
            )


@asynccontextmanager
async def _timed(spent: Callable[[float], None]) -> AsyncIterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        spent(time.monotonic() - started)


def _unmet(served: Served, demand: Demand) -> ServiceError | None:
    """Why this snapshot is not fresh enough; None if it is. Raises when it never will be."""
    if served.beat == NO_BEAT:
        # No rows would be an answer, and a wrong one.
        return errors.unavailable("FRESHNESS_UNMET", "the warehouse has no first copy yet")
    state, position = served.lanes.worst(demand.positions)
    where = _where(served)
    if position is not None:
        where["lane"] = str(position.lane)
    if state is PositionState.LOST:
        raise errors.failed_precondition(
            "POSITION_LOST", "a failover lost what the token stands for", field="token", **where
        )
    if state is PositionState.PENDING:
        return errors.unavailable(
            "FRESHNESS_UNMET", "the warehouse does not hold the token's writes yet", **where
        )
    wanted = demand.min_verified_through_us
    if wanted is not None and (
        served.verified_through_us is None or served.verified_through_us < wanted
    ):
        return errors.unavailable(
            "FRESHNESS_UNMET", "the warehouse is not verified as far as asked", **where
        )
    return None


def _where(served: Served) -> dict[str, Any]:
    verified = served.verified_through_us
    return {
        "source": "warehouse",
        "as_of": served.beat.beaten_at.isoformat(),
        "verified_through": "" if verified is None else us_to_datetime(verified).isoformat(),
    }
