"""The calls: messages in, reads, messages out."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TypeVar

from atlas.query.v1 import query_service_pb2 as pb
from atlas.query.v1 import query_service_pb2_grpc
from atlas.type.v1 import consistency_pb2
from atlas_common import errors
from atlas_common.limits import check_bytes, check_items
from atlas_common.rpc import deadline
from atlas_common.rpc.scope import Context
from atlas_common.tenant import Tenant, current_tenant
from atlas_common.token import TokenSigner
from atlas_query import convert, history_convert, hot, metrics, tier_convert
from atlas_query.access.sampler import AccessSampler
from atlas_query.analytics import Aggregates
from atlas_query.consistency import Consistency, wait_seconds, within_deadline
from atlas_query.convert_filter import filter_tree
from atlas_query.downsampled import BucketPart, DownsampledHistory
from atlas_query.explain import Explainer, ReadKind
from atlas_query.filters import attribute_names
from atlas_query.near import NearCache
from atlas_query.proof import Proof
from atlas_query.reads import HistoryPart, ReadOptions, Reads
from atlas_query.requests import Page
from atlas_query.router import Answer
from atlas_query.tiers import Tiers
from atlas_query.waiting import Waits
from atlas_query.watch import convert as watch_convert
from atlas_query.watch import metrics as watch_metrics
from atlas_query.watch.resume import open_token
from atlas_query.watch.watches import Watches

_DEADLINE_RESERVE_SECONDS = 0.02
"""Left of the deadline after a wait, to say that it was in vain."""

PartT = TypeVar("PartT", HistoryPart, BucketPart)
MessageT = TypeVar("MessageT", pb.GetEntitiesResponse, pb.FindEntitiesResponse)


class QueryServicer(query_service_pb2_grpc.QueryServiceServicer):
    """Answers reads at the freshness that is asked for."""

    def __init__(
        self,
        reads: Reads,
        *,
        downsampled: DownsampledHistory,
        aggregates: Aggregates,
        tiers: Tiers,
        near: "NearCache[bytes]",
        watches: Watches,
        waits: Waits,
        explainer: Explainer,
        access: AccessSampler | None = None,
        signer: TokenSigner,
        message_bytes_max: int,
    ) -> None:
        self._reads = reads
        self._near = near
        self._downsampled = downsampled
        self._aggregates = aggregates
        self._tiers = tiers
        self._watches = watches
        self._waits = waits
        self._explainer = explainer
        self._access = access
        self._signer = signer
        self._message_bytes_max = message_bytes_max

    async def GetEntities(  # type: ignore[override]  # noqa: N802 - bytes: see _encoder() of scope.
        self, request: pb.GetEntitiesRequest, context: Context
    ) -> pb.GetEntitiesResponse | bytes:
        """Latest values of one or many entities."""
        tenant = current_tenant()
        check_items(request, "entity_keys")
        check_items(request, "attributes")
        if not request.entity_keys:
            raise errors.invalid_argument(
                "INVALID_FIELD", "name at least one entity", field="entity_keys"
            )
        # First of all checks: a token of another tenant gets nothing.
        consistency = convert.consistency(request.consistency, tenant.id, self._signer)
        keys = convert.entity_keys(request.entity_keys, "entity_keys")
        is_all = request.scope == pb.ATTRIBUTE_SCOPE_ALL
        names = tuple(request.attributes)
        if names or not is_all:
            near = self._near.get(tenant.id, keys, names, consistency)
            if near is not None:
                if self._access is not None:
                    self._access.read(tenant.id, names, len(keys))
                return self._entities_again(tenant, context, *near)
        asked_at = time.monotonic()
        mask = await self._reads.mask(tenant, names, is_all=is_all)
        if self._access is not None and (names or not is_all):
            self._access.read(tenant.id, names, len(keys))
        answer = await self._reads.get_entities(tenant, keys, mask, _options(consistency))
        states = list(convert.entity_states(answer.value.entities))
        if answer.proof.endpoint == hot.ENDPOINT:
            kept = {state.entity_key: convert.encoded_entity(state) for state in states}
            self._near.put(tenant.id, names, asked_at, answer.proof, kept)
        not_found = answer.value.not_found_keys
        return self._entities(tenant, context, states, answer.proof, not_found)

    async def FindEntities(  # noqa: N802
        self, request: pb.FindEntitiesRequest, context: Context
    ) -> pb.FindEntitiesResponse:
        """One page of the entities whose hot attributes match a filter."""
        tenant = current_tenant()
        check_items(request, "attributes")
        check_bytes(request, "page_token")
        options = self._options(tenant, request.consistency)
        query = convert.page_query(request)
        cursor = self._signer.open_page(request.page_token, tenant.id, query)
        page = Page(
            filter_tree(request.filter),
            convert.cursor_after(cursor),
            convert.page_size(request),
        )
        mask = await self._reads.mask(tenant, request.attributes, is_all=False)
        if self._access is not None:  # Before it may be refused: who asks in vain asks, too.
            self._access.filter(tenant.id, tuple(attribute_names(page.filter)))
        answer = await self._reads.find_entities(tenant, page, mask, options)
        entities, after = answer.value
        if self._access is not None and entities:
            self._access.read(tenant.id, tuple(request.attributes), len(entities))
        token = (
            ""
            if after is None
            else self._signer.seal_page(tenant.id, query, convert.cursor_of(after))
        )
        context.set_trailing_metadata(convert.trailers(answer.proof))
        return self._fitting(
            pb.FindEntitiesResponse(
                entities=convert.entity_states(entities),
                next_page_token=token,
                metadata=self._metadata(tenant, answer.proof),
            ),
            "page_size",
        )

    async def GetHistory(  # noqa: N802
        self, request: pb.GetHistoryRequest, context: Context
    ) -> AsyncIterator[pb.GetHistoryResponse]:
        """The points of one entity in a range of event time, oldest first."""
        tenant = current_tenant()
        check_items(request, "attributes")
        options = self._options(tenant, request.consistency)
        key = convert.entity_key(request.entity_key, "entity_key")
        wanted = convert.history_range(request)
        how = None
        if request.HasField("downsample"):
            how = history_convert.downsampling(request.downsample)
        mask = await self._reads.mask(tenant, request.attributes, is_all=True)
        if how is None:
            points = self._reads.get_history(tenant, key, mask, wanted, options)
            messages = self._history(tenant, context, points, history_convert.history_messages)
        else:
            buckets = self._downsampled.parts(
                tenant, key, mask, how, wanted=wanted, options=options
            )
            messages = self._history(tenant, context, buckets, history_convert.bucket_messages)
        async with aclosing(messages):
            async for message in messages:
                yield message

    async def _history(
        self,
        tenant: Tenant,
        context: Context,
        parts: AsyncGenerator[Answer[PartT], None],
        messages_of: Callable[[PartT], Iterable[pb.GetHistoryResponse]],
    ) -> AsyncGenerator[pb.GetHistoryResponse, None]:
        """The messages of a history's parts, with its proof in the first one."""
        is_first = True
        async with aclosing(parts):
            async for part in parts:
                messages = list(messages_of(part.value))
                next_start_us = part.value.next_start_us
                if not messages and (is_first or next_start_us is not None):
                    # The metadata, or where to go on, is an answer in itself.
                    messages = [pb.GetHistoryResponse()]
                if is_first:
                    is_first = False
                    context.set_trailing_metadata(convert.trailers(part.proof))
                    messages[0].metadata.CopyFrom(self._metadata(tenant, part.proof))
                if next_start_us is not None:
                    messages[-1].next_start_time.CopyFrom(convert.moment_of(next_start_us))
                for message in messages:
                    yield message

    async def Aggregate(  # noqa: N802
        self, request: pb.AggregateRequest, context: Context
    ) -> AsyncIterator[pb.AggregateResponse]:
        """Aggregates over the warehouse."""
        tenant = current_tenant()
        for field in ("entity_keys", "attributes", "functions", "percentiles"):
            check_items(request, field)
        wanted = convert.warehouse_consistency(request.consistency, tenant.id, self._signer)
        query = convert.aggregate_query(request)
        keys = convert.entity_keys(request.entity_keys, "entity_keys")
        if not request.attributes:
            raise errors.invalid_argument(
                "INVALID_FIELD", "name at least one attribute", field="attributes"
            )
        parts = self._aggregates.rows(tenant, query, keys, request.attributes, wanted)
        async with aclosing(parts):
            async for part in parts:
                message = pb.AggregateResponse(
                    rows=[convert.aggregate_row(*named) for named in part.rows]
                )
                if part.proof is not None:
                    context.set_trailing_metadata(convert.trailers(part.proof.proof))
                    proof = convert.warehouse_metadata(part.proof, tenant.id, self._signer)
                    message.metadata.CopyFrom(proof)
                yield message

    async def ListTiers(  # noqa: N802
        self,
        request: pb.ListTiersRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.ListTiersResponse:
        """The tiers this process routes to, and how far each is behind."""
        tiers = await self._tiers.known()
        return pb.ListTiersResponse(tiers=[convert.tier(tier) for tier in tiers])

    def _entities_again(
        self, tenant: Tenant, context: Context, encoded: Sequence[bytes], proof: Proof
    ) -> bytes:
        """The answer of entities that are encoded already: encodings put together are merged."""
        metrics.served(proof)
        context.set_trailing_metadata(convert.trailers(proof))
        answer = b"".join((*encoded, convert.near_metadata(proof, tenant.id, self._signer)))
        self._check_size(len(answer), "entity_keys")
        return answer

    def _entities(
        self,
        tenant: Tenant,
        context: Context,
        states: Sequence[pb.EntityState],
        proof: Proof,
        not_found_keys: Sequence[str],
    ) -> pb.GetEntitiesResponse:
        context.set_trailing_metadata(convert.trailers(proof))
        response = pb.GetEntitiesResponse(
            entities=states,
            not_found_keys=not_found_keys,
            metadata=self._metadata(tenant, proof),
        )
        return self._fitting(response, "entity_keys")

    async def WatchEntities(  # noqa: N802
        self,
        request: pb.WatchEntitiesRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchEntitiesResponse]:
        """The latest values of entities, then every change of them."""
        tenant = current_tenant()
        check_bytes(request, "resume_token")
        resumption = open_token(self._signer, tenant.id, request.resume_token)
        for field in ("entity_keys", "attributes"):
            check_items(request, field)
        heartbeat = watch_convert.heartbeat_seconds(request)
        if not request.entity_keys:
            raise errors.invalid_argument(
                "INVALID_FIELD", "name at least one entity", field="entity_keys"
            )
        keys = convert.entity_keys(request.entity_keys, "entity_keys")
        is_all = request.scope == pb.ATTRIBUTE_SCOPE_ALL
        mask = await self._reads.mask(tenant, request.attributes, is_all=is_all)
        watched = await self._watches.watched(tenant, keys, mask)
        batches = self._watches.batches(tenant, watched, resumption, heartbeat)
        async with aclosing(batches):
            async for batch in batches:
                watch_metrics.sent(len(batch.changes), batch.left_out)
                for message in watch_convert.messages(batch, watched, tenant.id, self._signer):
                    yield message

    async def WaitFor(  # noqa: N802
        self,
        request: pb.WaitForRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.WaitForResponse:
        """Answers when a tier holds the positions in a freshness token."""
        tenant = current_tenant()
        target = tier_convert.target(request)
        positions = self._signer.open(request.token, tenant.id)
        seconds = within_deadline(
            tier_convert.wait_timeout(request), deadline.remaining(), _DEADLINE_RESERVE_SECONDS
        )
        waited = await self._waits.wait(target, positions, request.token, seconds)
        return tier_convert.waited(waited, tenant.id, self._signer)

    async def ExplainRoute(  # noqa: N802
        self,
        request: pb.ExplainRouteRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.ExplainRouteResponse:
        """What would become of a read now, and why."""
        tenant = current_tenant()
        kind = tier_convert.read_kind(request)
        if kind is ReadKind.AGGREGATE:
            analytics = convert.warehouse_consistency(request.consistency, tenant.id, self._signer)
            found = await self._explainer.explain_aggregate(analytics)
        else:
            options = self._options(tenant, request.consistency)
            found = await self._explainer.explain(options.consistency, kind, options.wait_seconds)
        return tier_convert.explanation(found, tenant.id, self._signer)

    def _options(self, tenant: Tenant, message: consistency_pb2.Consistency) -> ReadOptions:
        # First of all checks: a token of another tenant gets nothing.
        return _options(convert.consistency(message, tenant.id, self._signer))

    def _metadata(self, tenant: Tenant, proof: Proof) -> consistency_pb2.ReadMetadata:
        return convert.metadata(proof, tenant.id, self._signer)

    def _fitting(self, message: MessageT, field: str) -> MessageT:
        self._check_size(message.ByteSize(), field)
        return message

    def _check_size(self, size: int, field: str) -> None:
        if size > self._message_bytes_max:
            raise errors.invalid_argument(
                "BATCH_TOO_LARGE",
                f"the answer has {size} bytes, at most {self._message_bytes_max} are sent:"
                " ask for fewer entities or attributes at a time",
                field=field,
                bytes=size,
                bytes_max=self._message_bytes_max,
            )


def _options(consistency: Consistency) -> ReadOptions:
    waits = wait_seconds(consistency, deadline.remaining(), _DEADLINE_RESERVE_SECONDS)
    return ReadOptions(consistency, waits)
