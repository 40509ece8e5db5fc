"""A session: read your own writes, and never read backwards, with no code of the caller's."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from atlas.type.freshness import merge
from atlas.type.v1 import value_pb2
from atlas_client.client import AtlasClient
from atlas_client.consistency import Consistency, analytics, at_least_as_fresh
from atlas_client.records import (
    AggregateFunction,
    AggregateRow,
    ArrowWriteResult,
    Bucket,
    BucketFunction,
    EntitiesResult,
    EntityState,
    Point,
    Reading,
    ReadMetadata,
    Source,
    WaitResult,
    WriteResult,
)
from atlas_client.streams import ReadStream
from atlas_client.values import Value
from atlas_client.where import Where


class Session:
    """Carries the freshness token from call to call.

    A read sees every write and every read that ended in this session before it began, at whatever
    tier it is served; without `consistency` at any tier that has seen them. When a failover lost
    something of that, every read raises POSITION_LOST, STRONG ones too, until forget(): the data
    are gone, and only the caller knows what to write again.
    """

    def __init__(self, client: AtlasClient, token: bytes = b"") -> None:
        self._client = client
        self._token = token

    @property
    def client(self) -> AtlasClient:
        """The client that the session calls through."""
        return self._client

    @property
    def token(self) -> bytes:
        """What the session has seen: may be stored, or handed to another process of the tenant."""
        return self._token

    def observe(self, token: bytes) -> None:
        """See to it that later reads hold the positions in this token, too."""
        self._token = merge(self._token, token)

    def forget(self) -> None:
        """Begin anew."""
        self._token = b""

    async def write(self, points: Iterable[Point | value_pb2.Point], **options: Any) -> WriteResult:
        """AtlasClient.write(); later reads see it."""
        result = await self._client.write(points, **options)
        self.observe(result.token)
        return result

    async def write_arrow(self, data: Any, **options: Any) -> ArrowWriteResult:
        """AtlasClient.write_arrow(); later reads see it."""
        result = await self._client.write_arrow(data, **options)
        self.observe(result.token)
        return result

    async def get_entities(
        self,
        entities: Sequence[str],
        *,
        attributes: Sequence[str] = (),
        include_cold: bool = False,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> EntitiesResult:
        """AtlasClient.get_entities(), at least as fresh as the session."""
        result = await self._client.get_entities(
            entities,
            attributes=attributes,
            include_cold=include_cold,
            consistency=self._demand(consistency),
            timeout=timeout,
        )
        self.observe(result.metadata.token)
        return result

    def find_entities(
        self,
        where: Where | Mapping[str, Value],
        *,
        attributes: Sequence[str] = (),
        page_size: int = 0,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> ReadStream[EntityState]:
        """AtlasClient.find_entities(), at least as fresh as the session."""
        stream = self._client.find_entities(
            where,
            attributes=attributes,
            page_size=page_size,
            consistency=self._demand(consistency),
            timeout=timeout,
        )
        return stream.observed_by(self._see)

    def history(
        self,
        entity: str,
        *,
        attributes: Sequence[str] = (),
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 0,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> ReadStream[Reading]:
        """AtlasClient.history(), at least as fresh as the session."""
        stream = self._client.history(
            entity,
            attributes=attributes,
            start=start,
            end=end,
            limit=limit,
            consistency=self._demand(consistency),
            timeout=timeout,
        )
        return stream.observed_by(self._see)

    def history_buckets(
        self,
        entity: str,
        bucket: timedelta,
        functions: Sequence[BucketFunction],
        *,
        consistency: Consistency | None = None,
        **options: Any,
    ) -> ReadStream[Bucket]:
        """AtlasClient.history_buckets(), at least as fresh as the session."""
        wanted = self._demand(consistency)
        stream = self._client.history_buckets(
            entity, bucket, functions, consistency=wanted, **options
        )
        return stream.observed_by(self._see)

    async def wait_for(self, tier: Source, **options: Any) -> WaitResult:
        """AtlasClient.wait_for() what the session has seen."""
        return await self._client.wait_for(self._token, tier, **options)

    def aggregate(
        self,
        attributes: Sequence[str],
        functions: Sequence[AggregateFunction],
        *,
        entities: Sequence[str] = (),
        start: datetime | None = None,
        end: datetime | None = None,
        bucket: timedelta | None = None,
        group_by_entity: bool = False,
        percentiles: Sequence[float] = (),
        group_by_quality: bool = False,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> ReadStream[AggregateRow]:
        """AtlasClient.aggregate() of a warehouse that is at least as fresh as the session."""
        stream = self._client.aggregate(
            attributes,
            functions,
            entities=entities,
            start=start,
            end=end,
            bucket=bucket,
            group_by_entity=group_by_entity,
            percentiles=percentiles,
            group_by_quality=group_by_quality,
            consistency=(consistency or analytics()).with_token(self._token),
            timeout=timeout,
        )
        return stream.observed_by(self._see)

    def _demand(self, asked: Consistency | None) -> Consistency | None:
        if asked is not None:
            return asked.with_token(self._token)
        # Nothing seen yet: nothing to hold, so the platform's default.
        return at_least_as_fresh(self._token) if self._token else None

    def _see(self, metadata: ReadMetadata) -> None:
        self.observe(metadata.token)
