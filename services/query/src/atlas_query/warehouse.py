"""Aggregates, from the warehouse that the cdc-reconciler service owns."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from atlas.reconciler.v1 import reconciler_service_pb2 as warehouse_pb
from atlas_common import errors
from atlas_common.breaker import Breaker
from atlas_query import convert
from atlas_query.aggregates import AggregateQuery, Function, WarehousePart, WarehouseProof
from atlas_query.consistency import WarehouseConsistency

if TYPE_CHECKING:  # This class exists for type checkers alone.
    from atlas.reconciler.v1.reconciler_service_pb2_grpc import ReconcilerServiceAsyncStub

ENDPOINT = "warehouse"
_NO_ATTRIBUTE = 0  # Ids begin at 1.
_FAILURES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL})
_ANSWERS = frozenset({"FRESHNESS_UNMET", "OVERLOADED"})  # UNAVAILABLE, but by one who answers.


class Warehouse:
    """Asks the cdc-reconciler service."""

    def __init__(self, stub: "ReconcilerServiceAsyncStub", breaker: Breaker) -> None:
        self.breaker = breaker
        self._stub = stub

    async def aggregate(
        self,
        query: AggregateQuery,
        entity_ids: Sequence[int],
        attribute_ids: Sequence[int],
        consistency: WarehouseConsistency,
    ) -> AsyncGenerator[WarehousePart, None]:
        """The rows, as they come. Raises ServiceError: the reconciler's own, with its reason and
        metadata; UNAVAILABLE / DEPENDENCY_UNAVAILABLE while there is none.
        """
        permit = self.breaker.allow()
        if permit is None:
            raise _away("it failed several times in a row", max(0.05, self.breaker.retry_after))
        request = convert.aggregate_request(query, entity_ids, attribute_ids, consistency)
        call = self._stub.Aggregate(request)
        try:
            async for response in call:
                yield convert.warehouse_part(response)
            self.breaker.success(permit)
        except grpc.aio.AioRpcError as error:
            failure = errors.from_rpc_error(error)
            if error.code() in _FAILURES and failure.reason not in _ANSWERS:
                self.breaker.failure(permit)
            if failure.reason == "DEPENDENCY_UNAVAILABLE":
                raise _away(failure.message, failure.retry_after or 1.0) from error
            raise failure from error
        finally:
            self.breaker.cancelled(permit)  # Of no effect where an outcome was reported.
            call.cancel()  # The caller may have gone: the warehouse need not go on for nobody.

    async def wait(self, wanted: WarehouseConsistency) -> WarehouseProof:
        """What the warehouse is, once it is as fresh as wanted. Raises as `aggregate`.

        Asked by an aggregate of an attribute that nobody has, in no time: it waits like any other.
        """
        query = AggregateQuery((Function.COUNT,), 0, 0, 0, group_by_entity=False)
        parts = self.aggregate(query, (), (_NO_ATTRIBUTE,), wanted)
        async with aclosing(parts):
            async for part in parts:
                if part.proof is not None:
                    return part.proof
        raise _away("it answered without a proof", 1.0)

    async def lag_seconds(self, timeout_seconds: float) -> float | None:
        """How far the warehouse is behind; infinite if that is not known. None: no answer."""
        try:
            response = await self._stub.GetPipelineStatus(
                warehouse_pb.GetPipelineStatusRequest(), timeout=timeout_seconds
            )
        except grpc.aio.AioRpcError:
            return None
        return convert.seconds(response.lag, "lag") if response.HasField("lag") else float("inf")


def _away(why: str, retry_after: float) -> errors.ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        f"the warehouse's service (cdc-reconciler) is away: {why}",
        retry_after=retry_after,
        dependency="cdc-reconciler",
    )
