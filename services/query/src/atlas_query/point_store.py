"""The points of an entity in order of time, slice by slice, in the snapshot that is given."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from atlas_common.db import ReadConnection
from atlas_common.values import datetime_to_us, us_to_datetime
from atlas_query.requests import HistoryRange
from atlas_query.slices import ROWS_AIMED, Leap, Read, Slices, in_slices
from atlas_query.store import PointRow, Q

EARLIEST_US = datetime_to_us(us_to_datetime(0).replace(year=1))
LATEST_US = datetime_to_us(us_to_datetime(0).replace(year=9999, month=12, day=31))
"""No event time is later."""
_POINTS_EACH_MIN = 4


@dataclass(frozen=True, slots=True)
class Series:
    """The points of some attributes of one entity."""

    tenant_id: int
    entity_id: int
    attribute_ids: Sequence[int]

    def parameters(self) -> dict[str, Any]:
        """For the queries."""
        return {
            "tenant_id": self.tenant_id,
            "entity_id": self.entity_id,
            "attribute_ids": list(self.attribute_ids),
        }


def range_us(wanted: HistoryRange) -> tuple[int | None, int]:
    """The range in microseconds; None: from the first point on."""
    start = None if wanted.start_time is None else datetime_to_us(wanted.start_time)
    return start, LATEST_US if wanted.end_time is None else datetime_to_us(wanted.end_time)


async def held_attributes(connection: ReadConnection, tenant_id: int, entity_id: int) -> list[int]:
    """The attributes that an entity has points of."""
    parameters = {"tenant_id": tenant_id, "entity_id": entity_id}
    cursor = await connection.execute(Q["held_attributes"], parameters)
    return [row[0] for row in await cursor.fetchall()]


async def next_points(
    connection: ReadConnection,
    series: Series,
    start_us: int | None,
    *,
    end_us: int = LATEST_US,
    points: int = 1,
) -> Leap | None:
    """To the first point with start <= time < end; None: there is none.

    As wide as it takes for one attribute to have so many points; to the end if none has.
    """
    cursor = await connection.execute(
        Q["next_points"],
        {
            **series.parameters(),
            "start_time": us_to_datetime(EARLIEST_US if start_us is None else start_us),
            "end_time": us_to_datetime(end_us),
            "points": points,
        },
    )
    row = await cursor.fetchone()
    assert row is not None
    first_us, full_us = row
    if first_us is None:
        return None
    return Leap(first_us, (end_us if full_us is None else full_us + 1) - first_us)


async def history(
    connection: ReadConnection,
    tenant_id: int,
    entity_id: int,
    *,
    attribute_ids: Sequence[int] | None,
    wanted: HistoryRange,
    rows_max: int,
) -> AsyncGenerator[list[PointRow], None]:
    """The points of an entity by event time, in lists; at most `rows_max` of them."""
    if attribute_ids is None:
        attribute_ids = await held_attributes(connection, tenant_id, entity_id)
    # Each slice looks for each attribute: with many of them, slices have to be worth it.
    points_each = max(ROWS_AIMED // max(1, len(attribute_ids)), _POINTS_EACH_MIN)
    slices = Slices(rows_aimed=points_each * max(1, len(attribute_ids)))
    start, end = range_us(wanted)
    points = _Points(connection, Series(tenant_id, entity_id, attribute_ids), end, points_each)
    async with aclosing(in_slices(points, start, end, slices, rows_max)) as parts:
        async for part in parts:
            yield part


@dataclass(frozen=True, slots=True)
class _Points:
    connection: ReadConnection
    series: Series
    end_us: int
    points_each: int
    """Of an attribute, in the first slice behind a leap."""

    async def seek(self, start_us: int | None) -> Leap | None:
        return await next_points(
            self.connection, self.series, start_us, end_us=self.end_us, points=self.points_each
        )

    async def read(self, start_us: int, end_us: int, width: int, rows_max: int) -> Read[PointRow]:
        end_us = min(end_us, start_us + width)
        cursor = await self.connection.execute(
            Q["history"],
            {
                **self.series.parameters(),
                "start_time": us_to_datetime(start_us),
                "end_time": us_to_datetime(end_us),
                "rows_max": rows_max,
            },
        )
        entity_id = self.series.entity_id
        rows = [PointRow._make((entity_id, *row[:3], row[3:])) for row in await cursor.fetchall()]
        return Read(rows, len(rows), end_us)
