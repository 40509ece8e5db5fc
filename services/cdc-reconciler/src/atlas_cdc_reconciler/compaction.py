"""Sorts the warehouse's history behind the stream, so that reads skip what is not theirs.

Rows arrive in the order of flushes: each has all tenants in it, and so has every row group of the
file. A step takes the oldest rows that were not sorted yet and stores them anew, by tenant,
attribute and event time; it commits as a whole, between two batches, and changes no row.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.sink import WarehouseError
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse, Parameters
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.reading import Reader
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger

SECOND_US = 1_000_000
ROWS_MIN = 122_880
"""One row group of DuckDB: to sort less brings nothing."""
_LOOK_US_MIN = 600 * SECOND_US
# Rows of one second that are sorted in one step, as a multiple of what was to be; more stay.
_SECOND_FACTOR_MAX = 4
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Compacting:
    """How to go about it."""

    rows_max: int
    """Of one step, if `step_seconds` allow as many."""
    step_seconds: float
    """How long a step is to take, for which batches wait."""
    age_seconds: float
    """Younger rows are left alone."""
    rows_first: int = ROWS_MIN
    """Of the first step, before it is known how long one takes."""
    lag_seconds_max: float = 5.0
    """While the warehouse is further behind, it has better things to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of a half-open range of ingested_at, in whole seconds."""

    start_us: int
    stop_us: int
    rows: int


class Compactor:
    """Works off what is unsorted, step by step."""

    def __init__(
        self, warehouse: DuckDbWarehouse, lag_seconds: Callable[[], float], options: Compacting
    ) -> None:
        self._warehouse = warehouse
        self._lag_seconds = lag_seconds
        self._options = options
        self._rows = options.rows_first

    async def run(self, interval_seconds: float) -> None:
        """Sort what there is to sort, again and again, until cancelled."""
        while True:
            try:
                while self._lag_seconds() <= self._options.lag_seconds_max:
                    if await self.step() is None:
                        break
            except (ServiceError, WarehouseError) as error:
                _log.warning("compaction interrupted", error=str(error))
            await asyncio.sleep(interval_seconds)

    async def step(self) -> Step | None:
        """Sort the next rows; None, and nothing done, while there are too few of them.

        Raises WarehouseError, after which nothing has changed; ServiceError as a reader does.
        """
        async with self._warehouse.reader() as reader:
            step = await next_step(reader, self._rows, int(self._options.age_seconds * SECOND_US))
        if step is None:
            return None
        too_many = step.rows > self._rows * _SECOND_FACTOR_MAX
        began = time.monotonic()
        await self._warehouse.write(_passed_over(step) if too_many else sorting(step))
        await self._warehouse.checkpoint()  # Until then reads go through the old row groups too.
        took = time.monotonic() - began
        metrics.compaction_seconds.record(took)
        _log.info(
            "rows of one second are too many to sort" if too_many else "compacted",
            rows=step.rows,
            seconds=round(took, 3),
        )
        if not too_many:
            fit = step.rows * self._options.step_seconds / max(took, 0.001)
            self._rows = int(max(ROWS_MIN, min(fit, 2 * self._rows, self._options.rows_max)))
        return step


async def next_step(reader: Reader, rows: int, age_us: int) -> Step | None:
    """The oldest unsorted range with about so many rows; None if there are fewer."""
    ((through_us, first_us, newest_us),) = await reader.all(Q["unsorted"])
    if first_us is None or newest_us is None:
        return None
    start_us = max(through_us or first_us, first_us) // SECOND_US * SECOND_US
    horizon_us = (newest_us - age_us) // SECOND_US * SECOND_US
    look_us = _LOOK_US_MIN
    while start_us < horizon_us:
        stop_us = min(start_us + look_us, horizon_us)
        seconds = await reader.all(Q["rows_per_second"], {"start": start_us, "stop": stop_us})
        if (step := _cut(start_us, seconds, rows)) is not None:
            return step
        if stop_us == horizon_us:
            return None
        look_us *= 2
    return None


def sorting(step: Step) -> Sequence[tuple[str, Parameters]]:
    """What stores the rows of a step anew, to be run in one transaction."""
    span = {"start": step.start_us, "stop": step.stop_us}
    return [
        (Q["sort_rows"], span),
        (Q["drop_unsorted"], span),
        (Q["store_sorted"], {}),
        (Q["forget_sorting"], {}),
        *_passed_over(step),
    ]


def _passed_over(step: Step) -> Sequence[tuple[str, Parameters]]:
    return [
        (Q["forget_sorted_through"], {}),
        (Q["set_sorted_through"], {"through": step.stop_us}),
    ]


def _cut(start_us: int, seconds: Sequence[tuple[int, int]], rows: int) -> Step | None:
    """The range up to the second at which there are enough; the seconds ordered, with counts."""
    total = 0
    for second, count in seconds:
        # Better a little less than a second with very many on top.
        if total >= ROWS_MIN and total + count > rows * 2:
            return Step(start_us, second * SECOND_US, total)
        total += count
        if total >= rows:
            return Step(start_us, (second + 1) * SECOND_US, total)
    return None
