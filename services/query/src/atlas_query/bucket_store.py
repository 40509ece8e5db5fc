"""Buckets of points, computed by Postgres. Every function runs in the snapshot it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from atlas_common.db import ReadConnection
from atlas_common.values import us_to_datetime
from atlas_query.buckets import BucketStats, Numbers
from atlas_query.point_store import Series
from atlas_query.store import PointRow, Q


@dataclass(frozen=True, slots=True)
class Slice:
    """Points with start <= event time < end, in buckets; at most `rows_max` rows of them.

    `origin_us` is the beginning of the first bucket.
    """

    start_us: int
    end_us: int
    origin_us: int
    bucket_us: int
    rows_max: int


async def stats(connection: ReadConnection, series: Series, part: Slice) -> list[BucketStats]:
    """Counts, extremes and sums, by time, then by attribute."""
    cursor = await connection.execute(Q["bucket_stats"], _parameters(series, part))
    return [_stats(row) for row in await cursor.fetchall()]


async def firsts(connection: ReadConnection, series: Series, part: Slice) -> list[PointRow]:
    """The first point of each bucket, in the order of `stats`."""
    return await _ends(connection, "bucket_firsts", series, part)


async def lasts(connection: ReadConnection, series: Series, part: Slice) -> list[PointRow]:
    """The last point of each bucket, in the order of `stats`."""
    return await _ends(connection, "bucket_lasts", series, part)


async def _ends(
    connection: ReadConnection, query: str, series: Series, part: Slice
) -> list[PointRow]:
    cursor = await connection.execute(Q[query], _parameters(series, part))
    return [
        PointRow._make((series.entity_id, *row[:3], row[3:])) for row in await cursor.fetchall()
    ]


def _parameters(series: Series, part: Slice) -> dict[str, Any]:
    return {
        **series.parameters(),
        "start_time": us_to_datetime(part.start_us),
        "end_time": us_to_datetime(part.end_us),
        "origin": us_to_datetime(part.origin_us),
        "bucket": timedelta(microseconds=part.bucket_us),
        "rows_max": part.rows_max,
    }


def _stats(row: Sequence[Any]) -> BucketStats:
    attribute_id, bucket_us, count, *numbers, big_total = row
    # Three types, three columns each; an attribute has one type, so at most one of them is filled.
    by_type = [Numbers._make(numbers[at : at + 3]) for at in (0, 3, 6)]
    filled = next((each for each in by_type if each.least is not None), Numbers(None, None, None))
    return BucketStats(attribute_id, bucket_us, count, filled, big_total)
