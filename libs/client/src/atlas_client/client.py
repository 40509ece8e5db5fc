"""The client: every call of the platform, in Python's types."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb2
from atlas.catalog.v1 import catalog_service_pb2_grpc as catalog_grpc
from atlas.catalog.v1 import policy_service_pb2_grpc as policy_grpc
from atlas.hotcache.v1 import hotcache_service_pb2 as hotcache_pb2
from atlas.hotcache.v1 import hotcache_service_pb2_grpc as hotcache_grpc
from atlas.hotcache.v1 import projection_service_pb2_grpc as projection_grpc
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb2
from atlas.ingest.v1 import ingest_service_pb2_grpc as ingest_grpc
from atlas.query.v1 import query_service_pb2 as query_pb2
from atlas.query.v1 import query_service_pb2_grpc as query_grpc
from atlas.reconciler.v1 import dead_letter_service_pb2_grpc as letter_grpc
from atlas.reconciler.v1 import pipeline_service_pb2_grpc as pipeline_grpc
from atlas.reconciler.v1 import reconciler_service_pb2 as reconciler_pb2
from atlas.reconciler.v1 import reconciler_service_pb2_grpc as reconciler_grpc
from atlas.type.v1 import value_pb2
from atlas_client import convert, live
from atlas_client.call import Caller, open_channel
from atlas_client.consistency import Consistency
from atlas_client.endpoints import Endpoints
from atlas_client.errors import AtlasError
from atlas_client.letters import LetterAdmin
from atlas_client.pipeline import PipelineAdmin
from atlas_client.policies import PolicyAdmin
from atlas_client.projection import ProjectionAdmin
from atlas_client.records import (
    AckLevel,
    AggregateFunction,
    AggregateRow,
    ArrowWriteResult,
    Attribute,
    Bucket,
    BucketFunction,
    CacheStatus,
    EntitiesResult,
    Entity,
    EntityState,
    PipelineStatus,
    Point,
    ProducerPosition,
    Quotas,
    Reading,
    ReadKind,
    ReadMetadata,
    ReconcileSummary,
    ReconciliationReport,
    RepairSummary,
    RouteExplanation,
    RowDifference,
    Source,
    StagingStatus,
    TableResult,
    Tenant,
    Tier,
    UnknownAttributes,
    Verification,
    Verifications,
    WaitResult,
    WindowDifferences,
    WindowRepair,
    WindowResult,
    WriteResult,
)
from atlas_client.security import Security
from atlas_client.streams import ReadStream, Reconciliation, Repair
from atlas_client.values import Value, to_timestamp, to_us
from atlas_client.watching import Watch
from atlas_client.where import Where, filter_message

if TYPE_CHECKING:
    from atlas_client.session import Session

DEFAULT_TIMEOUT_SECONDS = 10.0
RECONCILE_TIMEOUT_SECONDS = 120.0
ARROW_TIMEOUT_SECONDS = 600.0

Stub = TypeVar("Stub")


class AtlasClient:
    """Calls the platform for one tenant. Made by connect(); safe for many tasks of one event loop.

    Every method takes `timeout`, the whole call's deadline in seconds with all repetitions
    (default: that of connect()), and raises AtlasError. Reads, catalog calls and writes are
    repeated after transient errors, a write always with the same request_id: it is stored once.
    """

    def __init__(self, channels: Mapping[str, grpc.aio.Channel], caller: Caller) -> None:
        self._channels = dict(channels)
        self._caller = caller

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        endpoints: Endpoints,
        *,
        tenant: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        credentials: grpc.ChannelCredentials | None = None,
        security: Security | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator["AtlasClient"]:
        """Open the channels. Nothing is contacted before the first call.

        `tenant` may be left out for calls that need none (tenants, tiers, status), and by callers
        whose token says whose they are. `security`: TLS, client certificate and token; unless
        given, that of `endpoints`. `credentials` is for TLS of one's own making instead; `metadata`
        goes with every call. Raises ValueError if files cannot be used, or a token would cross a
        network in the clear.
        """
        security = security or endpoints.security
        async with AsyncExitStack() as stack:
            channels: dict[str, grpc.aio.Channel] = {}
            for name in ("ingest", "query", "reconciler", "hotcache"):
                target = getattr(endpoints, name)
                if target is not None:
                    channel = open_channel(target, credentials or security)
                    channels[name] = await stack.enter_async_context(channel)
            token = None if security is None else security.token
            yield cls(channels, Caller(tenant, timeout, metadata, token))

    @property
    def tenant(self) -> str | None:
        """The tenant that this client calls for."""
        return self._caller.tenant

    def for_tenant(self, tenant: str) -> "AtlasClient":
        """Return a client of another tenant on the same connections."""
        return AtlasClient(self._channels, self._caller.for_tenant(tenant))

    def session(self) -> "Session":
        """Begin a session: reads in it see what was written and read in it before."""
        from atlas_client.session import Session  # noqa: PLC0415 - it names this module's types.

        return Session(self)

    @property
    def projection(self) -> ProjectionAdmin:
        """Which attributes are hot, and whether the projection says what the points say."""
        stub = projection_grpc.ProjectionServiceStub(self._channel("hotcache"))
        return ProjectionAdmin(stub, self._caller)

    @property
    def dead_letters(self) -> LetterAdmin:
        """Changes that could not be applied to the warehouse, of all tenants."""
        stub = letter_grpc.DeadLetterServiceStub(self._channel("reconciler"))
        return LetterAdmin(stub, self._caller)

    @property
    def pipeline(self) -> PipelineAdmin:
        """The pipeline that feeds the warehouse: pause, recover, copy again."""
        stub = pipeline_grpc.PipelineServiceStub(self._channel("reconciler"))
        return PipelineAdmin(stub, self._caller)

    @property
    def policies(self) -> PolicyAdmin:
        """What the platform does by itself again and again, and how often."""
        stub = policy_grpc.PolicyServiceStub(self._channel("ingest"))
        return PolicyAdmin(stub, self._caller)

    # Catalog -----------------------------------------------------------------------------------

    async def create_tenant(
        self,
        key: str,
        *,
        display_name: str = "",
        unknown_attributes: UnknownAttributes = UnknownAttributes.REJECT,
        retention_class: str = "",
        late_data_window: timedelta | None = None,
        quotas: Quotas | None = None,
        timeout: float | None = None,
    ) -> Tenant:
        """Make a tenant, or return the one there is.

        `retention_class`: one of the platform's, "standard" unless given. `late_data_window`: how
        old a point may be, `quotas`: what the tenant may take, unless they are as the platform has
        them.
        """
        request = catalog_pb2.CreateTenantRequest(
            key=key,
            display_name=display_name,
            unknown_attribute_policy=convert.POLICIES[unknown_attributes],
            retention_class=retention_class,
        )
        if late_data_window is not None:
            request.late_data_window.FromTimedelta(late_data_window)
        if quotas is not None:
            request.quotas.CopyFrom(convert.quotas_message(quotas))
        answer = await self._caller.unary(self._catalog.CreateTenant, request, timeout=timeout)
        return convert.tenant(answer.tenant)

    async def update_tenant(
        self,
        key: str,
        *,
        display_name: str | None = None,
        unknown_attributes: UnknownAttributes | None = None,
        retention_class: str | None = None,
        late_data_window: timedelta | None = None,
        quotas: Quotas | None = None,
        timeout: float | None = None,
    ) -> Tenant:
        """Change what is given, at least one thing; the rest stays as it is.

        A `late_data_window` of zero goes back to that of the platform, as do `quotas` that are None
        in what is given: they change as a whole.
        """
        request = catalog_pb2.UpdateTenantRequest(tenant=catalog_pb2.Tenant(key=key))
        changed = request.update_mask.paths
        if display_name is not None:
            request.tenant.display_name = display_name
            changed.append("display_name")
        if unknown_attributes is not None:
            request.tenant.unknown_attribute_policy = convert.POLICIES[unknown_attributes]
            changed.append("unknown_attribute_policy")
        if retention_class is not None:
            request.tenant.retention_class = retention_class
            changed.append("retention_class")
        if late_data_window is not None:
            if late_data_window:
                request.tenant.late_data_window.FromTimedelta(late_data_window)
            changed.append("late_data_window")
        if quotas is not None:
            request.tenant.quotas.CopyFrom(convert.quotas_message(quotas))
            changed.append("quotas")
        answer = await self._caller.unary(self._catalog.UpdateTenant, request, timeout=timeout)
        return convert.tenant(answer.tenant)

    async def list_tenants(self, *, timeout: float | None = None) -> AsyncIterator[Tenant]:
        """Go through all tenants."""
        request = catalog_pb2.ListTenantsRequest()
        while True:
            answer = await self._caller.unary(self._catalog.ListTenants, request, timeout=timeout)
            for tenant in answer.tenants:
                yield convert.tenant(tenant)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def create_entities(
        self, keys: Sequence[str], *, timeout: float | None = None
    ) -> list[Entity]:
        """Make those that do not exist; return all, in the order asked. At most 10,000."""
        request = catalog_pb2.BatchCreateEntitiesRequest(keys=keys)
        method = self._catalog.BatchCreateEntities
        answer = await self._caller.unary(method, request, timeout=timeout)
        return [convert.entity(each) for each in answer.entities]

    async def list_entities(self, *, timeout: float | None = None) -> AsyncIterator[Entity]:
        """Go through all entities."""
        request = catalog_pb2.ListEntitiesRequest()
        while True:
            answer = await self._caller.unary(self._catalog.ListEntities, request, timeout=timeout)
            for entity in answer.entities:
                yield convert.entity(entity)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def upsert_attributes(
        self, attributes: Iterable[Attribute], *, timeout: float | None = None
    ) -> list[Attribute]:
        """Make or change attributes, all or none; at most 10,000.

        Raises AtlasError with ATTRIBUTE_CONFLICT when one exists with another type or hotness.
        """
        request = catalog_pb2.BatchUpsertAttributesRequest(
            attributes=[convert.attribute_message(each) for each in attributes]
        )
        method = self._catalog.BatchUpsertAttributes
        answer = await self._caller.unary(method, request, timeout=timeout)
        return [convert.attribute(each) for each in answer.attributes]

    async def list_attributes(self, *, timeout: float | None = None) -> AsyncIterator[Attribute]:
        """Go through all attributes."""
        request = catalog_pb2.ListAttributesRequest()
        method = self._catalog.ListAttributes
        while True:
            answer = await self._caller.unary(method, request, timeout=timeout)
            for attribute in answer.attributes:
                yield convert.attribute(attribute)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    # Writing -----------------------------------------------------------------------------------

    async def write(
        self,
        points: Iterable[Point | value_pb2.Point],
        *,
        request_id: str | None = None,
        ack: AckLevel | None = None,
        partial_success: bool = False,
        validate_only: bool = False,
        default_entity: str = "",
        default_time: datetime | None = None,
        timeout: float | None = None,
    ) -> WriteResult:
        """Store a batch of at most 10,000 points, exactly once.

        Without `request_id` one is made up. Give one to be able to repeat the call after this
        process has died: within 48 h the same points under the same id are stored once.
        `partial_success` stores the good points and reports the others; else one bad point refuses
        the batch. `ack` is DURABLE unless given. After an AtlasError that is_transient, or one of
        DEADLINE_EXCEEDED, the batch may or may not be stored: repeat it with its request_id.

        Raises also what values.set_value() raises, before anything is sent.
        """
        request_id = request_id or str(uuid.uuid4())
        request = ingest_pb2.WriteRequest(
            request_id=request_id,
            default_entity_key=default_entity,
            partial_success=partial_success,
            validate_only=validate_only,
            ack=convert.ACK_LEVELS[ack] if ack else ingest_pb2.ACK_LEVEL_UNSPECIFIED,
        )
        if default_time is not None:
            request.default_event_time_us = to_us(default_time)
        request.points.extend(
            convert.point(each) if isinstance(each, Point) else each for each in points
        )
        answer = await self._caller.unary(
            self._ingest.Write, request, timeout=timeout, request_id=request_id
        )
        return convert.write_result(request_id, answer)

    async def write_arrow(
        self,
        data: Any,
        *,
        request_id: str | None = None,
        ack: AckLevel | None = None,
        partial_success: bool = False,
        validate_only: bool = False,
        default_entity: str = "",
        default_time: datetime | None = None,
        timeout: float = ARROW_TIMEOUT_SECONDS,
    ) -> ArrowWriteResult:
        """Store points in bulk from Arrow data of any size, exactly once.

        `data`: a pyarrow Table, RecordBatch, RecordBatchReader, an iterable of RecordBatches, or a
        frame that offers itself as an Arrow stream, with the columns of atlas_client.bulk; use its
        melt() for a table with a column per attribute. It is sent in messages of at most 20,000
        rows, each of which is stored by itself, in their order. With `partial_success` bad rows
        are reported; else the first message with one ends the call, and the error's metadata say
        how many messages and rows are stored.

        The rest is as in write(). After a transient error all is sent again and what is stored
        already is skipped, unless `data` is an iterator or reader, which can be read once only:
        then call again with the same batches from their beginning and the error's request_id (in
        its metadata). `timeout` is that of the whole call.

        Raises also what bulk.ipc_streams() raises.
        """
        from atlas_client import bulk  # noqa: PLC0415 - pyarrow takes a while to load.

        request_id = request_id or str(uuid.uuid4())
        start = ingest_pb2.WriteArrowStart(
            request_id=request_id,
            default_entity_key=default_entity,
            partial_success=partial_success,
            validate_only=validate_only,
            ack=convert.ACK_LEVELS[ack] if ack else ingest_pb2.ACK_LEVEL_UNSPECIFIED,
        )
        if default_time is not None:
            start.default_event_time_us = to_us(default_time)

        def requests() -> Iterator[ingest_pb2.WriteArrowRequest]:
            yield ingest_pb2.WriteArrowRequest(start=start)
            for message in bulk.ipc_streams(data):
                yield ingest_pb2.WriteArrowRequest(ipc_stream=message)

        try:
            answer = await self._caller.upload(
                self._ingest.WriteArrow,
                requests,
                timeout=timeout,
                repeatable=bulk.is_repeatable(data),
                request_id=request_id,
            )
        except AtlasError as error:
            error.metadata["request_id"] = request_id
            raise
        return convert.arrow_write_result(request_id, answer)

    async def producer_position(
        self, producer_id: str, *, timeout: float | None = None
    ) -> ProducerPosition:
        """Return how far the batches of a WriteStream's producer_id are stored."""
        request = ingest_pb2.GetProducerPositionRequest(producer_id=producer_id)
        method = self._ingest.GetProducerPosition
        return convert.producer_position(await self._caller.unary(method, request, timeout=timeout))

    def open_write_stream(self) -> AbstractAsyncContextManager[Any]:
        """Open a WriteStream; what Producer is made of, which is easier to use.

        The block gets the grpc.aio call. Its requests are bytes, serialized WriteStreamRequests.
        """
        channel: Any = self._channel("ingest")
        method = channel.stream_stream(
            "/atlas.ingest.v1.IngestService/WriteStream",
            response_deserializer=ingest_pb2.WriteStreamResponse.FromString,
        )
        return self._caller.exchange(method)

    # Reading -----------------------------------------------------------------------------------

    async def get_entities(
        self,
        entities: Sequence[str],
        *,
        attributes: Sequence[str] = (),
        include_cold: bool = False,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> EntitiesResult:
        """Read latest values of at most 1,000 entities.

        Without `attributes`, all hot ones; with `include_cold`, all. Without `consistency`, a copy
        at most 3 s stale.
        """
        request = query_pb2.GetEntitiesRequest(entity_keys=entities, attributes=attributes)
        if include_cold:
            request.scope = query_pb2.ATTRIBUTE_SCOPE_ALL
        if consistency is not None:
            request.consistency.CopyFrom(consistency.to_proto())
        answer = await self._caller.unary(self._query.GetEntities, request, timeout=timeout)
        return EntitiesResult(
            entities=tuple(convert.entity_state(each) for each in answer.entities),
            not_found=tuple(answer.not_found_keys),
            metadata=convert.read_metadata(answer.metadata),
        )

    def find_entities(
        self,
        where: Where | Mapping[str, Value],
        *,
        attributes: Sequence[str] = (),
        page_size: int = 0,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> ReadStream[EntityState]:
        """Go through the entities whose hot, or indexed, attributes meet `where`, by id.

        `where` is a condition made with attribute(), or a mapping of what attributes must equal,
        all of them. Values must be of their attributes' types: 1.0 for a DOUBLE, not 1.
        """
        request = query_pb2.FindEntitiesRequest(
            filter=filter_message(where),
            attributes=attributes,
            page_size=page_size,
        )
        if consistency is not None:
            request.consistency.CopyFrom(consistency.to_proto())
        return ReadStream(self._find(request, timeout))

    async def _find(
        self, request: query_pb2.FindEntitiesRequest, timeout: float | None
    ) -> AsyncGenerator[EntityState | ReadMetadata, None]:
        while True:
            answer = await self._caller.unary(self._query.FindEntities, request, timeout=timeout)
            yield convert.read_metadata(answer.metadata)
            for state in answer.entities:
                yield convert.entity_state(state)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

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
        """Go through the points of an entity with start <= event time < end, oldest first.

        With `limit`, at most so many, and only whole event times. Without, to the end, in as many
        calls as it takes (`timeout` is that of each).
        """
        request = query_pb2.GetHistoryRequest(entity_key=entity, attributes=attributes, limit=limit)
        if start is not None:
            request.start_time.CopyFrom(to_timestamp(start))
        if end is not None:
            request.end_time.CopyFrom(to_timestamp(end))
        if consistency is not None:
            request.consistency.CopyFrom(consistency.to_proto())
        return ReadStream(self._history(request, timeout))

    async def _history(
        self, request: query_pb2.GetHistoryRequest, timeout: float | None
    ) -> AsyncGenerator[Reading | ReadMetadata, None]:
        method = self._query.GetHistory
        while True:
            more = False
            async for answer in self._caller.stream(method, request, timeout=timeout):
                if answer.HasField("metadata"):
                    yield convert.read_metadata(answer.metadata)
                for reading in answer.readings:
                    yield convert.reading(reading)
                if answer.HasField("next_start_time"):
                    more = True
                    request.start_time.CopyFrom(answer.next_start_time)
            if request.limit or not more:
                return

    def history_buckets(
        self,
        entity: str,
        bucket: timedelta,
        functions: Sequence[BucketFunction],
        *,
        attributes: Sequence[str] = (),
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 0,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> ReadStream[Bucket]:
        """Go through buckets of the points of an entity, oldest first, then by attribute.

        Buckets are aligned to the epoch; those without points are absent. MIN, MAX and AVG are of
        numeric attributes only. The rest is as in history().
        """
        request = live.history_request(entity, bucket, functions, attributes)
        request.limit = limit
        if start is not None:
            request.start_time.CopyFrom(to_timestamp(start))
        if end is not None:
            request.end_time.CopyFrom(to_timestamp(end))
        if consistency is not None:
            request.consistency.CopyFrom(consistency.to_proto())
        method = self._query.GetHistory
        return ReadStream(live.buckets(self._caller, method, request, tuple(functions), timeout))

    def watch(
        self,
        entities: Sequence[str],
        *,
        attributes: Sequence[str] = (),
        include_cold: bool = False,
        resume_token: bytes = b"",
        heartbeat: timedelta = timedelta(seconds=5),
        patience: timedelta = timedelta(minutes=1),
    ) -> Watch:
        """Watch at most 1,000 entities: their latest values, then every change, without an end.

        Without `attributes`, all that are hot now; with `include_cold`, all. `resume_token`: that
        of an earlier watch of the same, or any freshness token; begin with what came after. A
        stream that breaks is opened again where it was, for as long as `patience` if need be.
        """
        request = query_pb2.WatchEntitiesRequest(
            entity_keys=entities, attributes=attributes, resume_token=resume_token
        )
        if include_cold:
            request.scope = query_pb2.ATTRIBUTE_SCOPE_ALL
        request.heartbeat_interval.FromTimedelta(heartbeat)
        return Watch(self._caller, self._query.WatchEntities, request, patience.total_seconds())

    async def wait_for(
        self,
        token: bytes,
        tier: Source,
        *,
        endpoint: str = "",
        all_replicas: bool = False,
        wait_timeout: timedelta | None = None,
        timeout: float | None = None,
    ) -> WaitResult:
        """Return when a tier holds what the token stands for.

        Of replicas: `endpoint` by its name, or all of them, or any one. Raises AtlasError with
        FRESHNESS_UNMET after `wait_timeout` (2 s unless given), with where the tier stands.
        """
        request = live.wait_request(token, tier, endpoint, all_replicas=all_replicas)
        if wait_timeout is not None:
            request.wait_timeout.FromTimedelta(wait_timeout)
        answer = await self._caller.unary(self._query.WaitFor, request, timeout=timeout)
        return live.wait_result(answer)

    async def explain_route(
        self,
        kind: ReadKind = ReadKind.LATEST_HOT,
        *,
        consistency: Consistency | None = None,
        timeout: float | None = None,
    ) -> RouteExplanation:
        """Return what would become of such a read now, and why. Nothing is read."""
        request = query_pb2.ExplainRouteRequest(kind=live.READ_KINDS[kind])
        if consistency is not None:
            request.consistency.CopyFrom(consistency.to_proto())
        answer = await self._caller.unary(self._query.ExplainRoute, request, timeout=timeout)
        return live.explanation(answer)

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
        """Aggregate over the warehouse: numeric attributes, or any with COUNT alone.

        `start` and `end` bound the event time, half-open; `bucket` is the width of time buckets.
        `percentiles` are 0 to 100 each, and exact.
        """
        wanted = tuple(functions)
        request = query_pb2.AggregateRequest(
            entity_keys=entities,
            attributes=attributes,
            functions=[convert.FUNCTIONS[each] for each in wanted],
            group_by_entity=group_by_entity,
            percentiles=percentiles,
            group_by_quality=group_by_quality,
        )
        if start is not None:
            request.start_time.CopyFrom(to_timestamp(start))
        if end is not None:
            request.end_time.CopyFrom(to_timestamp(end))
        if bucket is not None:
            request.bucket.FromTimedelta(bucket)
        if consistency is not None:
            request.consistency.CopyFrom(consistency.to_proto())
        return ReadStream(self._aggregate(request, wanted, tuple(percentiles), timeout))

    async def _aggregate(
        self,
        request: query_pb2.AggregateRequest,
        functions: tuple[AggregateFunction, ...],
        percentiles: tuple[float, ...],
        timeout: float | None,
    ) -> AsyncGenerator[AggregateRow | ReadMetadata, None]:
        async for answer in self._caller.stream(self._query.Aggregate, request, timeout=timeout):
            if answer.HasField("metadata"):
                yield convert.read_metadata(answer.metadata)
            for row in answer.rows:
                yield convert.aggregate_row(row, functions, percentiles)

    # Proof and state ---------------------------------------------------------------------------

    def reconcile(
        self,
        *,
        through: datetime | None = None,
        from_start: bool = False,
        timeout: float = RECONCILE_TIMEOUT_SECONDS,
    ) -> Reconciliation:
        """Compare source and warehouse: the catalog as it is now, then window by window.

        Without `through` the present is sealed, and the comparison goes to the last row.
        `from_start` compares again what was verified before.
        """
        request = reconciler_pb2.ReconcileRequest(from_start=from_start)
        if through is not None:
            request.through_time.CopyFrom(to_timestamp(through))
        return Reconciliation(self._reconcile(request, timeout))

    async def _reconcile(
        self, request: reconciler_pb2.ReconcileRequest, timeout: float
    ) -> AsyncGenerator[TableResult | WindowResult | WindowDifferences | ReconcileSummary, None]:
        method = self._reconciler.Reconcile
        async for answer in self._caller.stream(method, request, timeout=timeout):
            match answer.WhichOneof("event"):
                case "table":
                    yield convert.table_result(answer.table)
                case "window":
                    yield convert.window(answer.window)
                case "differences":
                    yield convert.window_differences(answer.differences)
                case "summary":
                    yield convert.reconcile_summary(answer.summary)

    async def get_reconciliation_report(
        self, report_id: int = 0, *, rows_max: int = 1_000, timeout: float | None = None
    ) -> tuple[ReconciliationReport, list[RowDifference]]:
        """Return a report that was kept, by default the newest, and the first of its rows.

        Raises AtlasError REPORT_UNKNOWN when there is none, or it is forgotten.
        """
        rows: list[RowDifference] = []
        request = reconciler_pb2.GetReconciliationReportRequest(report_id=report_id)
        report: ReconciliationReport | None = None
        while True:
            request.page_size = min(rows_max - len(rows), 1_000)
            method = self._reconciler.GetReconciliationReport
            answer = await self._caller.unary(method, request, timeout=timeout)
            rows += map(convert.row_difference, answer.rows)
            report = report or convert.reconciliation_report(answer.report)
            if not answer.last_number or len(rows) >= rows_max:
                return report, rows
            # The newest may be another one by the next page.
            request.report_id = answer.report.report_id
            request.after_number = answer.last_number

    def repair_range(
        self,
        start: datetime,
        end: datetime,
        *,
        operator: str = "",
        dry_run: bool = False,
        request_id: str = "",
        timeout: float = RECONCILE_TIMEOUT_SECONDS,
    ) -> Repair:
        """Take the rows of windows that do not agree from the source anew.

        `start` and `end` are times of ingestion. `operator` is written into the audit log, and
        needed unless `dry_run`, which changes nothing.
        """
        request = reconciler_pb2.RepairRangeRequest(
            start_time=to_timestamp(start),
            end_time=to_timestamp(end),
            dry_run=dry_run,
            operator=operator,
            request_id=request_id or str(uuid.uuid4()),
        )
        return Repair(self._repair_range(request, timeout))

    async def _repair_range(
        self, request: reconciler_pb2.RepairRangeRequest, timeout: float
    ) -> AsyncGenerator[WindowRepair | RepairSummary, None]:
        method = self._reconciler.RepairRange
        async for answer in self._caller.stream(method, request, timeout=timeout):
            match answer.WhichOneof("event"):
                case "window":
                    yield convert.window_repair(answer.window)
                case "summary":
                    yield convert.repair_summary(answer.summary)

    async def get_verification(self, *, timeout: float | None = None) -> Verification:
        """Return up to where the tenant's copies are proven equal."""
        request = reconciler_pb2.GetVerificationRequest()
        method = self._reconciler.GetVerification
        return convert.verification(await self._caller.unary(method, request, timeout=timeout))

    async def list_verifications(
        self, *, limit: int = 100, timeout: float | None = None
    ) -> Verifications:
        """Return up to where all tenants are proven equal, those furthest behind first."""
        request = reconciler_pb2.ListVerificationsRequest(page_size=limit)
        method = self._reconciler.ListVerifications
        return convert.verifications(await self._caller.unary(method, request, timeout=timeout))

    async def list_tiers(self, *, timeout: float | None = None) -> list[Tier]:
        """Return the tiers that reads are routed to, and how far each is behind."""
        request = query_pb2.ListTiersRequest()
        answer = await self._caller.unary(self._query.ListTiers, request, timeout=timeout)
        return [convert.tier(each) for each in answer.tiers]

    async def staging_status(self, *, timeout: float | None = None) -> StagingStatus:
        """Return how far ingest has flushed, and what waits."""
        request = ingest_pb2.GetStagingStatusRequest()
        method = self._ingest.GetStagingStatus
        return convert.staging_status(await self._caller.unary(method, request, timeout=timeout))

    async def pipeline_status(self, *, timeout: float | None = None) -> PipelineStatus:
        """Return how far the warehouse is, and the conservation law's numbers."""
        request = reconciler_pb2.GetPipelineStatusRequest()
        method = self._reconciler.GetPipelineStatus
        return convert.pipeline_status(await self._caller.unary(method, request, timeout=timeout))

    async def cache_status(self, *, timeout: float | None = None) -> CacheStatus:
        """Return the cache's hits and misses."""
        request = hotcache_pb2.GetCacheStatusRequest()
        method = self._hotcache.GetCacheStatus
        return convert.cache_status(await self._caller.unary(method, request, timeout=timeout))

    # Stubs -------------------------------------------------------------------------------------

    @property
    def _catalog(self) -> "catalog_grpc.CatalogServiceAsyncStub":
        return catalog_grpc.CatalogServiceStub(self._channel("ingest"))

    @property
    def _ingest(self) -> "ingest_grpc.IngestServiceAsyncStub":
        return ingest_grpc.IngestServiceStub(self._channel("ingest"))

    @property
    def _query(self) -> "query_grpc.QueryServiceAsyncStub":
        return query_grpc.QueryServiceStub(self._channel("query"))

    @property
    def _reconciler(self) -> "reconciler_grpc.ReconcilerServiceAsyncStub":
        return reconciler_grpc.ReconcilerServiceStub(self._channel("reconciler"))

    @property
    def _hotcache(self) -> "hotcache_grpc.HotCacheServiceAsyncStub":
        return hotcache_grpc.HotCacheServiceStub(self._channel("hotcache"))

    def _channel(self, service: str) -> grpc.aio.Channel:
        try:
            return self._channels[service]
        except KeyError:
            raise LookupError(f"this client knows no address of {service}") from None
