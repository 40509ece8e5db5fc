"""Tells hotcache what a flush changed, right after its commit."""

import grpc.aio

from atlas.hotcache.v1 import hotcache_service_pb2 as pb
from atlas.hotcache.v1 import hotcache_service_pb2_grpc
from atlas_common import telemetry
from atlas_common.breaker import Breaker, BreakerOpenError
from atlas_common.telemetry.breakers import show_breakers
from atlas_ingest import metrics
from atlas_ingest.lanes.batch import Flushed

_FAILURES_MAX = 3
_OPEN_SECONDS = 1.0
_log = telemetry.logger(__name__)


class Invalidator:
    """Sends the positions of a lane in their order; one that cannot be sent is left out.

    hotcache takes the gap for what it is and trusts nothing it holds until it has caught up with
    flush_positions. So a dead hotcache costs the callers of one flush the timeout at most, and
    those of later ones nothing.
    """

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._stub = hotcache_service_pb2_grpc.HotCacheServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._breaker = Breaker(_FAILURES_MAX, _OPEN_SECONDS)
        show_breakers(lambda: {"hotcache": self._breaker})
        self._failing = False

    async def announce(self, flushed: Flushed) -> None:
        """Wait for hotcache to have taken the changes, for as long as that is worth waiting for."""
        try:
            with self._breaker.call(grpc.aio.AioRpcError):
                await self._stub.InvalidateEntities(
                    _request(flushed), timeout=self._timeout_seconds
                )
        except BreakerOpenError:
            metrics.invalidations.add(1, {"outcome": "skipped"})
        except grpc.aio.AioRpcError as error:
            metrics.invalidations.add(1, {"outcome": "failed"})
            if not self._failing:  # A line per change, not ten a second.
                _log.warning("invalidation failing", code=error.code().name, error=error.details())
            self._failing = True
        else:
            metrics.invalidations.add(1, {"outcome": "sent"})
            if self._failing:
                _log.info("invalidation recovered")
            self._failing = False


def _request(flushed: Flushed) -> pb.InvalidateEntitiesRequest:
    return pb.InvalidateEntitiesRequest(
        lane=flushed.position.lane,
        epoch=flushed.position.epoch,
        sequence=flushed.position.sequence,
        changes=[
            pb.InvalidateEntitiesRequest.Change(
                tenant_id=tenant_id, entity_ids=entity_ids, versions=versions
            )
            for tenant_id, (entity_ids, versions) in flushed.changes.items()
        ],
    )


async def nobody_to_tell(_flushed: Flushed) -> None:
    """For a platform without hotcache."""
