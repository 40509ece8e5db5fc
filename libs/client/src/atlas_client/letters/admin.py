"""Calls that list dead letters, and have them replayed or discarded."""

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from atlas.reconciler.v1 import dead_letter_service_pb2 as pb
from atlas_client.call import Caller
from atlas_client.letters.records import (
    BooksReport,
    DeadLetter,
    LetterAction,
    LetterClass,
    ReplayResult,
    action_of,
    books_of,
    class_number,
    letter_of,
    replay_of,
)

if TYPE_CHECKING:  # This class exists for type checkers alone.
    from atlas.reconciler.v1.dead_letter_service_pb2_grpc import DeadLetterServiceAsyncStub

REPLAY_TIMEOUT_SECONDS = 120.0
_PAGE = 100


class LetterAdmin:
    """Operates on the dead letters of all tenants; AtlasClient.dead_letters makes it.

    Filters match letters that have all that is given: a tenant's key, a table, a class, a part of
    the reason, ids. Every method raises AtlasError.
    """

    def __init__(self, stub: "DeadLetterServiceAsyncStub", caller: Caller) -> None:
        self._stub = stub
        self._caller = caller

    async def letters(
        self,
        *,
        tenant: str = "",
        table: str = "",
        letter_class: LetterClass | None = None,
        reason: str = "",
        letter_ids: Sequence[int] = (),
        with_raw: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Go through the letters, the oldest first; `with_raw`: with the very bytes that came."""
        matching = _filter(tenant, table, letter_class, reason, letter_ids)
        request = pb.ListDeadLettersRequest(filter=matching, page_size=_PAGE, with_raw=with_raw)
        method = self._stub.ListDeadLetters
        while True:
            answer = await self._caller.unary(method, request, timeout=timeout)
            for message in answer.letters:
                yield letter_of(message)
            if not answer.has_more:
                return
            request.after_letter_id = answer.letters[-1].letter_id

    async def replay(
        self,
        *,
        tenant: str = "",
        table: str = "",
        letter_class: LetterClass | None = None,
        reason: str = "",
        letter_ids: Sequence[int] = (),
        dry_run: bool = False,
        adopt_schema: bool = False,
        operator: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> ReplayResult:
        """Apply the letters that match, and all that waits behind them; none given: all.

        `dry_run` says what would become of them. `adopt_schema` lets the warehouse take over the
        types that the letters' columns have at the source. `timeout`: 120 s unless given; a replay
        that was begun ends even if nobody waits for it. A repetition with the same `request_id`
        returns the same result. Raises AtlasError with BATCH_TOO_LARGE, INVALID_FIELD,
        TENANT_UNKNOWN.
        """
        request = pb.ReplayDeadLettersRequest(
            filter=_filter(tenant, table, letter_class, reason, letter_ids),
            dry_run=dry_run,
            adopt_schema=adopt_schema,
            request_id=request_id or str(uuid.uuid4()),
            operator=operator,
        )
        answer = await self._caller.unary(
            self._stub.ReplayDeadLetters, request, timeout=timeout or REPLAY_TIMEOUT_SECONDS
        )
        return replay_of(answer)

    async def discard(
        self,
        reason_given: str,
        *,
        tenant: str = "",
        table: str = "",
        letter_class: LetterClass | None = None,
        reason: str = "",
        letter_ids: Sequence[int] = (),
        dry_run: bool = False,
        operator: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Give up the letters that match, for good; returns how many.

        `reason_given` is for the audit. At least one thing has to be filtered by. Raises AtlasError
        with INVALID_FIELD, TENANT_UNKNOWN.
        """
        request = pb.DiscardDeadLettersRequest(
            filter=_filter(tenant, table, letter_class, reason, letter_ids),
            reason=reason_given,
            dry_run=dry_run,
            request_id=request_id or str(uuid.uuid4()),
            operator=operator,
        )
        answer = await self._caller.unary(self._stub.DiscardDeadLetters, request, timeout=timeout)
        return answer.discarded_count

    async def actions(self, *, timeout: float | None = None) -> AsyncIterator[LetterAction]:
        """Go through the audit log of replays and discards, the newest first."""
        request = pb.ListDeadLetterActionsRequest(page_size=_PAGE)
        method = self._stub.ListDeadLetterActions
        while True:
            answer = await self._caller.unary(method, request, timeout=timeout)
            for message in answer.actions:
                yield action_of(message)
            if len(answer.actions) < _PAGE:
                return
            request.before_action_id = answer.actions[-1].action_id

    async def books(self, *, timeout: float | None = None) -> BooksReport:
        """What became of all changes, per table and tenant, and whether the tables say so too."""
        answer = await self._caller.unary(
            self._stub.GetBooks, pb.GetBooksRequest(), timeout=timeout
        )
        return books_of(answer)


def _filter(
    tenant: str,
    table: str,
    letter_class: LetterClass | None,
    reason: str,
    letter_ids: Sequence[int],
) -> pb.DeadLetterFilter:
    message = pb.DeadLetterFilter(
        tenant=tenant, table=table, reason=reason, letter_ids=list(letter_ids)
    )
    if letter_class is not None:
        setattr(message, "class", class_number(letter_class))  # A word of Python's.
    return message
