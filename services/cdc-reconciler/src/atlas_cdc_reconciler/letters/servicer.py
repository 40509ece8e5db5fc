"""The calls of DeadLetterService."""
# ruff: noqa: N802, ARG002 - names and arguments of gRPC.

from typing import Any

import grpc.aio

from atlas.reconciler.v1 import dead_letter_service_pb2 as pb
from atlas.reconciler.v1 import dead_letter_service_pb2_grpc as pb_grpc
from atlas_cdc_reconciler.audit import Auditor
from atlas_cdc_reconciler.letters import LetterFilter, convert
from atlas_cdc_reconciler.letters.desk import LetterDesk
from atlas_cdc_reconciler.sink import FencedError, WarehouseError
from atlas_common import errors
from atlas_common.rpc import request_id

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = pb.DESCRIPTOR.services_by_name["DeadLetterService"]


class DeadLetterServicer(pb_grpc.DeadLetterServiceServicer):
    """See dead_letter_service.proto for what the calls promise."""

    def __init__(self, desk: LetterDesk, auditor: Auditor) -> None:
        self._desk = desk
        self._auditor = auditor

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        """See the contract."""
        matching = await self._filter(request.filter)
        limit = convert.page_size(request.page_size)
        page = await self._desk.page(
            matching, request.after_letter_id, limit, with_raw=request.with_raw
        )
        return convert.letters_response(page)

    async def ReplayDeadLetters(
        self, request: pb.ReplayDeadLettersRequest, context: Context
    ) -> pb.ReplayDeadLettersResponse:
        """See the contract."""
        matching = await self._filter(request.filter)
        asked = convert.request_of(request, matching, context.peer(), request_id())
        try:
            replayed = await self._desk.replay(asked, adopt_schema=request.adopt_schema)
        except (FencedError, WarehouseError) as error:
            raise _away(error) from error
        return convert.replay_response(replayed)

    async def DiscardDeadLetters(
        self, request: pb.DiscardDeadLettersRequest, context: Context
    ) -> pb.DiscardDeadLettersResponse:
        """See the contract."""
        matching = await self._filter(request.filter)
        reason = convert.discard_reason(request, matching)
        asked = convert.request_of(request, matching, context.peer(), request_id())
        try:
            count = await self._desk.discard(asked, reason)
        except (FencedError, WarehouseError) as error:
            raise _away(error) from error
        return pb.DiscardDeadLettersResponse(discarded_count=count)

    async def ListDeadLetterActions(
        self, request: pb.ListDeadLetterActionsRequest, context: Context
    ) -> pb.ListDeadLetterActionsResponse:
        """See the contract."""
        limit = convert.page_size(request.page_size)
        actions = await self._desk.actions(request.before_action_id, limit)
        return convert.actions_response(actions)

    async def GetBooks(self, request: pb.GetBooksRequest, context: Context) -> pb.GetBooksResponse:
        """See the contract."""
        return convert.books_response(await self._desk.books(), self._auditor.last)

    async def _filter(self, message: pb.DeadLetterFilter) -> LetterFilter:
        matching = convert.letter_filter(message, None)
        if not message.tenant:
            return matching
        return convert.letter_filter(message, await self._desk.tenant_id(message.tenant))


def _away(error: Exception) -> errors.ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE", f"nothing was changed: {error}", retry_after=1.0
    )
