"""Between messages and dead letters; the only place that knows both."""

import json

from google.protobuf.json_format import MessageToDict

from atlas.reconciler.v1 import dead_letter_service_pb2 as pb
from atlas_cdc_reconciler.audit import Audit
from atlas_cdc_reconciler.letters import (
    Action,
    Letter,
    LetterClass,
    LetterFilter,
    Replayed,
    Request,
)
from atlas_cdc_reconciler.letters.desk import Page, TableBooks
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_common import errors
from atlas_common.caller import acting
from atlas_common.limits import check_bytes, check_items
from atlas_common.values import us_to_timestamp

PAGE_DEFAULT, PAGE_MAX = 100, 1_000
_CLASSES = {each: pb.DeadLetterClass.Value(f"DEAD_LETTER_CLASS_{each}") for each in LetterClass}
_CLASSES_BY_NUMBER = {number: each for each, number in _CLASSES.items()}
_ACTIONS = {
    "REPLAY": pb.DeadLetterAction.KIND_REPLAY,
    "DISCARD": pb.DeadLetterAction.KIND_DISCARD,
}


def letter_filter(message: pb.DeadLetterFilter, tenant_id: int | None) -> LetterFilter:
    """What is asked for. Raises ServiceError INVALID_ARGUMENT naming the field."""
    for field in ("tenant", "table", "reason"):
        check_bytes(message, field, path=f"filter.{field}")
    check_items(message, "letter_ids", path="filter.letter_ids")
    letter_class = None
    if getattr(message, "class"):  # A word of Python's.
        letter_class = _CLASSES_BY_NUMBER.get(getattr(message, "class"))
        if letter_class is None:
            raise _invalid("filter.class", "this class is not known here")
    if any(letter_id < 1 for letter_id in message.letter_ids):
        raise _invalid("filter.letter_ids", "letters are numbered from 1 on")
    return LetterFilter(
        tenant_id, message.table, letter_class, message.reason, tuple(message.letter_ids)
    )


def page_size(size: int) -> int:
    """How many to answer. Raises ServiceError INVALID_ARGUMENT."""
    if not 0 <= size <= PAGE_MAX:
        raise _invalid("page_size", f"page_size is 1 to {PAGE_MAX}; 0: {PAGE_DEFAULT}")
    return size or PAGE_DEFAULT


def request_of(
    request: pb.ReplayDeadLettersRequest | pb.DiscardDeadLettersRequest,
    matching: LetterFilter,
    peer: str,
    call_id: str | None,
) -> Request:
    """Who asks for what; a repetition of the call is known by its id.

    Raises ServiceError INVALID_ARGUMENT naming the field.
    """
    check_bytes(request, "request_id")
    check_bytes(request, "operator")
    text = MessageToDict(request.filter, preserving_proto_field_name=True)
    if isinstance(request, pb.ReplayDeadLettersRequest) and request.adopt_schema:
        text["adopt_schema"] = True
    return Request(
        request.request_id or call_id or "",
        acting(request.operator),
        peer,
        matching,
        json.dumps(text, sort_keys=True),
        request.dry_run,
    )


def discard_reason(request: pb.DiscardDeadLettersRequest, matching: LetterFilter) -> str:
    """Why letters are given up. Raises ServiceError INVALID_ARGUMENT naming the field."""
    check_bytes(request, "reason", required=True)
    if not request.reason.strip():
        raise _invalid("reason", "reason is empty: say why, for the audit")
    if matching.is_empty:
        raise _invalid("filter", "the filter is empty: say which letters to give up")
    return request.reason


def letters_response(page: Page) -> pb.ListDeadLettersResponse:
    """One page."""
    return pb.ListDeadLettersResponse(
        letters=[letter_message(letter) for letter in page.letters],
        total_count=page.total_count,
        has_more=page.has_more,
    )


def letter_message(letter: Letter) -> pb.DeadLetter:
    """One letter."""
    message = pb.DeadLetter(
        letter_id=letter.letter_id,
        reason=letter.reason,
        table=letter.table,
        kind=pb.ChangeKind.Value(f"CHANGE_KIND_{letter.kind}"),
        tenant=letter.tenant,
        row_keys=letter.row_keys,
        chain_id=letter.chain_id,
        position=str(LogPosition(letter.offset, Lsn(letter.lsn))),
        codec=letter.codec,
        byte_count=letter.byte_count,
        raw=letter.raw or b"",
        attempts=letter.attempts,
        first_attempt_time=us_to_timestamp(letter.first_attempt_us),
        last_attempt_time=us_to_timestamp(letter.last_attempt_us),
    )
    setattr(message, "class", _CLASSES[letter.letter_class])
    return message


def replay_response(replayed: Replayed) -> pb.ReplayDeadLettersResponse:
    """What became of the letters."""
    return pb.ReplayDeadLettersResponse(
        letter_count=replayed.letter_count,
        applied_count=replayed.applied_count,
        failed_count=replayed.failed_count,
        waiting_count=replayed.waiting_count,
        failures=[letter_message(letter) for letter in replayed.failures],
    )


def actions_response(actions: list[Action]) -> pb.ListDeadLetterActionsResponse:
    """A page of the audit."""
    return pb.ListDeadLetterActionsResponse(
        actions=[
            pb.DeadLetterAction(
                action_id=action.action_id,
                act_time=us_to_timestamp(action.acted_us),
                kind=_ACTIONS[action.kind],
                operator=action.operator,
                peer=action.peer,
                request_id=action.request_id,
                filter=action.matching_text,
                reason=action.reason,
                done_count=action.done_count,
                failed_count=action.failed_count,
            )
            for action in actions
        ]
    )


def books_response(books: list[TableBooks], audit: Audit) -> pb.GetBooksResponse:
    """The books, and what the audit says of them."""
    response = pb.GetBooksResponse(
        books=[
            pb.Books(
                table=each.table,
                tenant=each.tenant,
                read_count=each.read,
                applied_count=each.applied,
                dead_lettered_count=each.dead_lettered,
                skipped_count=each.skipped,
            )
            for each in books
        ],
        discrepancies=audit.discrepancies,
    )
    if audit.audited_at is not None:
        response.audit_time.CopyFrom(us_to_timestamp(int(audit.audited_at * 1e6)))
    return response


def _invalid(field: str, message: str) -> errors.ServiceError:
    return errors.invalid_argument("INVALID_FIELD", message, field=field)
