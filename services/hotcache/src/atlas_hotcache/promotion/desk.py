"""What operators ask and say about promoting by reads."""

import asyncio

import psycopg

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common import telemetry
from atlas_common.tenant import Tenant
from atlas_hotcache.config import PromotionConfig
from atlas_hotcache.promotion import convert
from atlas_hotcache.promotion.decisions import of_pin
from atlas_hotcache.promotion.policy import evaluate
from atlas_hotcache.promotion.store import PromotionStore

_log = telemetry.logger(__name__)
_MEASURED_SECONDS = 300.0  # Reports do not have writes estimated more often, whoever asks.


class PromotionDesk:
    """The calls of ProjectionService that are about the policy."""

    def __init__(self, store: PromotionStore, config: PromotionConfig) -> None:
        self._store = store
        self._config = config
        self._rules = config.rules()

    async def pin(
        self, tenant: Tenant, attribute_id: int, request: pb.PinAttributeRequest
    ) -> pb.PinAttributeResponse:
        """Raises ServiceError INVALID_ARGUMENT naming the field."""
        pin, reason = convert.pin(request)
        is_hot = await self._store.pin(tenant, pin, of_pin(attribute_id, pin, reason))
        return pb.PinAttributeResponse(pin=request.pin, hot=is_hot)

    async def report(
        self, tenant: Tenant, request: pb.GetPromotionReportRequest
    ) -> pb.GetPromotionReportResponse:
        """Raises ServiceError INVALID_ARGUMENT naming the field."""
        size = convert.report_size(request)
        config = self._config
        try:
            await self._store.measure(
                config.window_hours, config.sample_pages_max, _MEASURED_SECONDS
            )
        except psycopg.Error as error:  # Too slow, or a lock in the way: then as it was before.
            _log.warning("writes are not estimated", problem=str(error))
        candidates, window = await self._store.observe(tenant, config.window_hours)
        verdicts = await asyncio.to_thread(evaluate, candidates, window, self._rules)
        return convert.report(verdicts, window, config, size)

    async def decisions(
        self, tenant: Tenant, request: pb.ListPromotionDecisionsRequest
    ) -> pb.ListPromotionDecisionsResponse:
        """Raises ServiceError INVALID_ARGUMENT naming the field."""
        entries = await self._store.entries(tenant, *convert.page(request))
        return pb.ListPromotionDecisionsResponse(decisions=[convert.decision(e) for e in entries])
