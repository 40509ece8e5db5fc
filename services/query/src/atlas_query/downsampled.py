"""Downsampled histories: buckets of an entity's points, slice by slice, from one snapshot."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from atlas_common import errors
from atlas_common.catalog import AttributeDef, Catalog
from atlas_common.db import ReadConnection
from atlas_common.tenant import Tenant
from atlas_common.values import us_to_datetime
from atlas_query import bucket_store, point_store, store
from atlas_query.bucket_store import Slice
from atlas_query.buckets import (
    BucketFunction,
    BucketReading,
    BucketStats,
    Downsampling,
    bucket_reading,
    check_functions,
)
from atlas_query.definitions import definitions
from atlas_query.endpoint import Serving
from atlas_query.history import GroupTooLargeError, HistoryCut
from atlas_query.point_store import EARLIEST_US, Series, range_us
from atlas_query.readings import Mask
from atlas_query.reads import ReadOptions
from atlas_query.requests import HistoryRange
from atlas_query.router import Answer, QueryRouter
from atlas_query.slices import Leap, Read, Slices, in_slices


@dataclass(frozen=True, slots=True)
class BucketPart:
    """Buckets of a history; in the last part, where to go on if the limit was reached."""

    buckets: list[BucketReading]
    next_start_us: int | None = None


class DownsampledHistory:
    """Answers one tenant at a time."""

    def __init__(self, router: QueryRouter, catalog: Catalog) -> None:
        self._router = router
        self._catalog = catalog

    async def parts(
        self,
        tenant: Tenant,
        key: str,
        mask: Mask,
        how: Downsampling,
        *,
        wanted: HistoryRange,
        options: ReadOptions,
    ) -> AsyncGenerator[Answer[BucketPart], None]:
        """The buckets by time, then by attribute; at least one part.

        A limit never parts the attributes of one bucket of time. Raises NOT_FOUND / ENTITY_UNKNOWN,
        INVALID_ARGUMENT: TYPE_MISMATCH, INVALID_FIELD (one bucket has more rows than the limit).
        """
        check_functions(how.functions, mask.named or ())
        ids = await self._catalog.entity_ids(tenant, [key])
        if key not in ids:
            raise errors.not_found(
                "ENTITY_UNKNOWN", f"there is no entity {key!r}", field="entity_key", entity_key=key
            )

        async def read(serving: Serving) -> AsyncGenerator[BucketPart, None]:
            reading = await self._reading(serving.connection, tenant, ids[key], mask, how)
            async with aclosing(reading.parts(wanted)) as parts:
                async for part in parts:
                    yield part

        parts = self._router.stream_query(tenant, options.consistency, options.wait_seconds, read)
        try:
            async with aclosing(parts):
                async for part in parts:
                    yield part
        except GroupTooLargeError as error:
            raise _too_many_at(error.event_us, wanted.limit) from None

    async def _reading(
        self,
        connection: ReadConnection,
        tenant: Tenant,
        entity_id: int,
        mask: Mask,
        how: Downsampling,
    ) -> "_Reading":
        ids = mask.attribute_ids
        if ids is None:
            ids = await point_store.held_attributes(connection, tenant.id, entity_id)
        known = await definitions(self._catalog, tenant, set(ids))
        attributes = {attribute_id: known[attribute_id] for attribute_id in ids}
        check_functions(how.functions, attributes.values())
        return _Reading(connection, Series(tenant.id, entity_id, ids), attributes, how)


class _Reading:
    """One pass through the buckets of a series, in one snapshot."""

    def __init__(
        self,
        connection: ReadConnection,
        series: Series,
        attributes: dict[int, AttributeDef],
        how: Downsampling,
    ) -> None:
        self._connection = connection
        self._series = series
        self._attributes = attributes
        self._how = how

    async def parts(self, wanted: HistoryRange) -> AsyncGenerator[BucketPart, None]:
        """Slice by slice, over spans without points at one leap."""
        cut = HistoryCut[_Bucket](wanted.limit)
        start, end = range_us(wanted)
        async with aclosing(in_slices(self, start, end, Slices(), cut.rows_max)) as slices:
            async for found in slices:
                complete = cut.feed(found)
                if complete:
                    yield BucketPart([each.reading for each in complete])
        rest, next_start_us = cut.end()
        yield BucketPart([each.reading for each in rest], next_start_us)

    async def seek(self, start_us: int | None) -> Leap | None:
        """Into the bucket of the next point, not before the start."""
        found = await point_store.next_points(self._connection, self._series, start_us)
        if found is None:
            return None
        begin = self._begin(found.begin_us)
        return Leap(begin if start_us is None else max(begin, start_us))

    async def read(self, start_us: int, end_us: int, width: int, rows_max: int) -> "Read[_Bucket]":
        """So many buckets."""
        origin = self._begin(start_us)
        end_us = min(end_us, origin + width * self._how.bucket_us)
        found = await self._buckets(Slice(start_us, end_us, origin, self._how.bucket_us, rows_max))
        return Read(found, sum(each.stats.points for each in found), end_us)

    def _begin(self, us: int) -> int:
        return max(EARLIEST_US, self._how.begin(us))

    async def _buckets(self, part: Slice) -> "list[_Bucket]":
        functions = self._how.functions
        connection, series = self._connection, self._series
        stats = await bucket_store.stats(connection, series, part)
        firsts: list[store.PointRow] | list[None] = [None] * len(stats)
        lasts: list[store.PointRow] | list[None] = [None] * len(stats)
        if stats and BucketFunction.FIRST in functions:
            firsts = await bucket_store.firsts(connection, series, part)
        if stats and BucketFunction.LAST in functions:
            lasts = await bucket_store.lasts(connection, series, part)
        return [self._bucket(*each) for each in zip(stats, firsts, lasts, strict=True)]

    def _bucket(
        self, stats: BucketStats, first: store.PointRow | None, last: store.PointRow | None
    ) -> "_Bucket":
        attribute = self._attributes[stats.attribute_id]
        ends = [
            None if row is None else store.point_reading(row, attribute).value
            for row in (first, last)
        ]
        return _Bucket(stats, bucket_reading(stats, attribute, self._how.functions, *ends))


@dataclass(frozen=True, slots=True)
class _Bucket:
    stats: BucketStats
    reading: BucketReading

    @property
    def event_us(self) -> int:
        """The bucket's beginning: where a history may be cut."""
        return self.stats.event_us


def _too_many_at(bucket_us: int, limit: int) -> errors.ServiceError:
    return errors.invalid_argument(
        "INVALID_FIELD",
        f"the bucket of {us_to_datetime(bucket_us).isoformat()} has more than {limit} attributes,"
        " and a history is never cut within one: raise the limit or name fewer attributes",
        field="limit",
        bucket_time_us=bucket_us,
    )
