"""Answers aggregates from the warehouse, and proves how fresh they are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from atlas_cdc_reconciler.aggregate_sql import AggregateQuery, Function, aggregate_sql
from atlas_cdc_reconciler.positions import LaneProgress, PositionState
from atlas_cdc_reconciler.progress import Progress
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse, Q
from atlas_cdc_reconciler.sink.reading import Reader
from atlas_cdc_reconciler.verification_store import read_verification
from atlas_common import errors
from atlas_common.db import NO_BEAT, Beat
from atlas_common.errors import ServiceError
from atlas_common.token import Position
from atlas_common.values import us_to_datetime

PIECE_ROWS = 1_000
_NUMERIC_TYPES = frozenset({"int", "double", "decimal"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

AggregateRow = tuple[int, int, int | None, *tuple[float | None, ...]]


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


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, and the proof that belongs to them: both are of one snapshot."""

    served: Served
    pieces: AsyncIterator[list[AggregateRow]]
    """At most PIECE_ROWS rows each."""


class Aggregator:
    """Reads the warehouse for one tenant at a time."""

    def __init__(self, warehouse: DuckDbWarehouse, progress: Progress, rows_max: int) -> None:
        self._warehouse = warehouse
        self._progress = progress
        self._rows_max = rows_max

    @asynccontextmanager
    async def answer(self, query: AggregateQuery, demand: Demand) -> AsyncIterator[Answer]:
        """The answer, once the warehouse is as fresh as demanded.

        Raises ServiceError: UNAVAILABLE / FRESHNESS_UNMET after the wait, FAILED_PRECONDITION /
        POSITION_LOST at once, INVALID_ARGUMENT / TYPE_MISMATCH for an attribute without numbers,
        RESOURCE_EXHAUSTED / OVERLOADED.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + demand.wait_seconds
        while True:
            # Before the look: what changes during it must not be missed by the wait.
            version = self._progress.now.version
            async with self._warehouse.reader() as reader:
                served = await self._served(reader, query.tenant_id)
                unmet = _unmet(served, demand)
                if unmet is None:
                    await self._check_types(reader, query)
                    yield Answer(served, self._pieces(reader, query))
                    return
            # No reader is held during the wait.
            try:
                async with asyncio.timeout_at(ends):
                    await self._progress.after(version)
            except TimeoutError:
                raise unmet from None

    async def _served(self, reader: Reader, tenant_id: int) -> Served:
        beats = await reader.all(Q["newest_beat"])
        flushed = await reader.all(Q["lanes"])
        claims = await reader.all(Q["claims"])
        verification = await read_verification(reader, tenant_id)
        beat = NO_BEAT
        if beats:
            beat = Beat(beats[0][0], _EPOCH + timedelta(microseconds=beats[0][1]))
        return Served(
            beat,
            LaneProgress.of(flushed, claims),
            None if verification is None else verification.verified_through_us,
        )

    async def _check_types(self, reader: Reader, query: AggregateQuery) -> None:
        if set(query.functions) <= {Function.COUNT}:
            return
        rows = await reader.all(
            Q["attribute_types"],
            {"tenant_id": query.tenant_id, "attribute_ids": list(query.attribute_ids)},
        )
        odd = sorted(attribute for attribute, data_type in rows if data_type not in _NUMERIC_TYPES)
        if odd:
            raise errors.invalid_argument(
                "TYPE_MISMATCH",
                f"attributes {odd[:10]} have no numbers: they can be counted, nothing else",
                field="attribute_ids",
            )

    async def _pieces(
        self, reader: Reader, query: AggregateQuery
    ) -> AsyncIterator[list[AggregateRow]]:
        sql, parameters = aggregate_sql(query, self._rows_max)
        count = 0
        async for rows in reader.pieces(sql, parameters, PIECE_ROWS):
            count += len(rows)
            if count > self._rows_max:
                raise errors.invalid_argument(
                    "INVALID_FIELD",
                    f"the answer has more than {self._rows_max} rows: use wider buckets",
                    field="bucket_us",
                )
            yield rows


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
