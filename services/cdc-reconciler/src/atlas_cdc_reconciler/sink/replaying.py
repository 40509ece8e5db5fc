"""Dead letters tried again, or given up: each in one transaction, entered into the audit."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from atlas_cdc_reconciler.letters import Action, Fault, Letter, LetterClass, Replayed, Request
from atlas_cdc_reconciler.sink.applier import Applier
from atlas_cdc_reconciler.sink.apply import Outcome, apply_runs, refused
from atlas_cdc_reconciler.sink.books import Ledger
from atlas_cdc_reconciler.sink.holds import Holds
from atlas_cdc_reconciler.sink.letter_store import (
    Kept,
    Relations,
    kept_of,
    letter_of,
    parameters_of,
    runs_of,
)
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.shapes import MisfitError
from atlas_cdc_reconciler.sink.work import Buried, RowsRefusedError
from atlas_common import errors
from atlas_common.telemetry import logger

_log = logger(__name__)
_FAILURES_MAX = 100
_REPLAY, _DISCARD = "replay dead letters", "discard dead letters"


def replay(applier: Applier, request: Request, *, adopt_schema: bool) -> Replayed:
    """Apply the letters that match and their chains, in the order of the source.

    Raises ServiceError: INVALID_ARGUMENT when they are too many for one transaction or the request
    id was used for something else, FAILED_PRECONDITION when the schema cannot be adopted.
    """
    earlier = _done_before(applier.connection, request, _REPLAY)
    if earlier is not None:
        return Replayed(*earlier)
    known: dict[int, Fault] = {}
    in_order = False
    while True:
        applier.begin()
        try:
            work = _Replay(applier, request, known, in_order=in_order)
            replayed, ledger = work.run(adopt_schema=adopt_schema)
            applier.connection.execute("ROLLBACK" if request.dry_run else "COMMIT")
            break
        except _RefusedLettersError as refusal:
            applier.rollback()
            if not in_order:
                in_order = True
                continue
            found = refused(applier.connection, refusal.error)
            ids = {refusal.letter_ids[number]: fault for number, fault in found.items()}
            if not ids or ids.keys() <= known.keys():
                raise
            known |= ids
        except BaseException:
            applier.rollback()
            raise
    applier.forget()  # The chains that are applied stop nothing any more.
    if not request.dry_run:
        ledger.export()
        _log.warning(
            "dead letters replayed",
            operator=request.operator,
            peer=request.peer,
            applied=replayed.applied_count,
            failed=replayed.failed_count,
            waiting=replayed.waiting_count,
        )
    return replayed


def discard(applier: Applier, request: Request, reason: str) -> int:
    """Give up the letters that match; answers how many. Raises ServiceError as `replay`."""
    earlier = _done_before(applier.connection, request, _DISCARD)
    if earlier is not None:
        return earlier[1]
    applier.begin()
    try:
        applier.check_owner()
        connection = applier.connection
        connection.execute(Q["matching_letters"], parameters_of(request.matching))
        ledger = Ledger()
        count = skip_matching(connection, ledger)
        _enter(connection, request, _DISCARD, reason, Replayed(count, count, 0, 0))
        connection.execute("ROLLBACK" if request.dry_run else "COMMIT")
    except BaseException:
        applier.rollback()
        raise
    applier.forget()
    if not request.dry_run:
        ledger.export()
        _log.warning(
            "dead letters discarded",
            operator=request.operator,
            peer=request.peer,
            letters=count,
            reason=reason,
        )
    return count


def supersede(
    connection: duckdb.DuckDBPyConnection,
    table: str = "",
    tenant_ids: Sequence[int] | None = None,
    ingested_us: tuple[int, int] | None = None,
    *,
    with_copies: bool,
) -> int:
    """Give up letters of what is copied from the source: their changes come with the copy.

    In the open transaction; answers how many. `with_copies`: those of earlier copies as well, since
    what still cannot be held becomes one again.
    """
    start, stop = ingested_us or (None, None)
    parameters = {
        "with_copies": with_copies,
        "table_name": table,
        "tenant_ids": tenant_ids,
        "start": start,
        "stop": stop,
    }
    connection.execute(Q["superseded_letters"], parameters)
    return skip_matching(connection, Ledger())


def skip_matching(connection: duckdb.DuckDBPyConnection, ledger: Ledger) -> int:
    """Drop the letters of cdc_matching, and count their changes as skipped."""
    count = 0
    for table, tenant_id, letters in connection.execute(Q["matching_by_tenant"]).fetchall():
        entry = ledger.entry(table, tenant_id)
        entry.dead_lettered -= letters
        entry.skipped += letters
        count += letters
    connection.execute(Q["drop_matching"])
    ledger.post(connection)
    return count


class _RefusedLettersError(Exception):
    """DuckDB refused rows of letters."""

    def __init__(self, error: RowsRefusedError, letter_ids: Sequence[int]) -> None:
        super().__init__(str(error))
        self.error = error
        self.letter_ids = letter_ids


class _Replay:
    """One replay within one open transaction."""

    def __init__(
        self, applier: Applier, request: Request, known: dict[int, Fault], *, in_order: bool
    ) -> None:
        self._in_order = in_order
        self._applier = applier
        self._connection = applier.connection
        self._request = request
        self._known = known
        self._ledger = Ledger()
        self._holds = Holds.none()
        """Of the letters that are tried: what fails here stops what comes behind it."""
        self._relations = Relations()
        self._counts: Counter[str] = Counter()
        self._failed_ids: list[int] = []

    def run(self, *, adopt_schema: bool) -> tuple[Replayed, Ledger]:
        """Try all letters, page by page."""
        self._applier.check_owner()
        self._connection.execute(Q["matching_letters"], parameters_of(self._request.matching))
        self._connection.execute(Q["chosen_letters"])
        self._check_count()
        self._fit_tables(adopt_schema=adopt_schema)
        for letters in self._pages():
            self._try(letters)
        replayed = Replayed(
            letter_count=self._counts.total(),
            applied_count=self._counts["applied"],
            failed_count=self._counts["failed"],
            waiting_count=self._counts["waiting"],
            failures=self._failures(),
        )
        self._ledger.check({})
        self._ledger.post(self._connection)
        _enter(self._connection, self._request, _REPLAY, "", replayed)
        return replayed, self._ledger

    def _check_count(self) -> None:
        ((count,),) = self._connection.execute(Q["chosen_count"]).fetchall()
        count_max = self._applier.config.replay_letters_max
        if count > count_max:
            raise errors.invalid_argument(
                "BATCH_TOO_LARGE",
                f"{count} letters match, at most {count_max} are replayed at once: narrow the"
                " filter, or raise ATLAS_WAREHOUSE__REPLAY_LETTERS_MAX",
                field="filter",
                items=count,
                items_max=count_max,
            )

    def _fit_tables(self, *, adopt_schema: bool) -> None:
        """Alter what is to be altered before any row is touched."""
        relations = [
            self._relations.of(table, codec, columns)
            for table, codec, columns in self._connection.execute(Q["chosen_schemas"]).fetchall()
        ]
        shapes = self._applier.shapes
        known = [each for each in relations if shapes.table(each.name) is not None]
        shapes.evolve(known)
        if not adopt_schema:
            return
        for relation in known:
            try:
                shapes.adopt(relation)
            except MisfitError as error:
                raise errors.failed_precondition(
                    "INVALID_FIELD",
                    f"the warehouse cannot adopt the source's schema: {error}",
                    field="adopt_schema",
                ) from error

    def _pages(self) -> Iterator[list[Kept]]:
        after, limit = 0, self._applier.config.replay_page_letters
        while True:
            parameters = {"after": after, "limit": limit}
            rows = self._connection.execute(Q["chosen_page"], parameters).fetchall()
            if not rows:
                return
            yield [kept_of(row, self._relations) for row in rows]
            after = rows[-1][0]

    def _try(self, letters: list[Kept]) -> None:
        known = {
            number: self._known[letter.letter_id]
            for number, letter in enumerate(letters)
            if letter.letter_id in self._known
        }
        shapes = self._applier.shapes
        try:
            runs = runs_of(letters)
            outcome = apply_runs(
                self._connection,
                shapes,
                self._holds,
                runs,
                known,
                in_order=self._in_order,
                lenient=True,
            )
        except RowsRefusedError as error:
            raise _RefusedLettersError(error, [each.letter_id for each in letters]) from error
        self._keep_books(letters, outcome)
        buried = {each.number for each in outcome.buried}
        done = [each.letter_id for at, each in enumerate(letters) if at not in buried]
        self._counts["applied"] += len(done)
        self._run("drop_replayed", "cdc_done", {"letter_id": pa.array(done, pa.int64())})
        self._rewrite(letters, outcome.buried)

    def _keep_books(self, letters: Sequence[Kept], outcome: Outcome) -> None:
        # As they were read before, perhaps without their tenant; and as they are read now.
        for letter in letters:
            entry = self._ledger.entry(letter.source.relation.name, letter.tenant_id)
            entry.read -= 1
            entry.dead_lettered -= 1
        for table, tally in outcome.tallies.items():
            self._ledger.add_tally(table, tally)
        for each in outcome.buried:
            table = letters[each.number].source.relation.name
            self._ledger.add_buried(table, [each])

    def _rewrite(self, letters: Sequence[Kept], buried: Sequence[Buried]) -> None:
        if not buried:
            return
        was_tried = [each.letter_class is not LetterClass.WAITING for each in buried]
        ids = [letters[each.number].letter_id for each in buried]
        self._counts["failed"] += sum(was_tried)
        self._counts["waiting"] += len(was_tried) - sum(was_tried)
        self._failed_ids += [at for at, tried in zip(ids, was_tried, strict=True) if tried]
        del self._failed_ids[_FAILURES_MAX:]
        columns = {
            "letter_id": pa.array(ids, pa.int64()),
            "letter_class": [each.letter_class.value for each in buried],
            "reason": [each.reason for each in buried],
            "tenant_id": pa.array([each.tenant_id for each in buried], pa.int32()),
            "row_keys": pa.array([list(each.keys) for each in buried], pa.list_(pa.string())),
            "attempts": pa.array([int(tried) for tried in was_tried], pa.int32()),
        }
        self._run("rewrite_letters", "cdc_failed", columns)

    def _run(self, query: str, name: str, columns: dict[str, object]) -> None:
        self._connection.register(name, pa.table(columns))
        try:
            self._connection.execute(Q[query])
        finally:
            self._connection.unregister(name)

    def _failures(self) -> tuple[Letter, ...]:
        if not self._failed_ids:
            return ()
        rows = self._connection.execute(
            Q["letters_page"],
            {
                "tenant_id": None,
                "table_name": "",
                "letter_class": "",
                "reason": "",
                "letter_ids": self._failed_ids,
                "after": 0,
                "limit": _FAILURES_MAX,
                "with_raw": False,
            },
        ).fetchall()
        return tuple(letter_of(row) for row in rows)


def _done_before(
    connection: duckdb.DuckDBPyConnection, request: Request, kind: str
) -> tuple[int, int, int, int] | None:
    """What an earlier call with the same request id did. Raises ServiceError if it was another."""
    if not request.request_id:
        return None
    rows = connection.execute(
        Q["letter_action_of_request"], {"request_id": request.request_id}
    ).fetchall()
    if not rows:
        return None
    action, text = rows[0]
    detail = json.loads(text)
    if (action, detail["filter"]) != (kind, request.matching_text):
        raise errors.invalid_argument(
            "REQUEST_ID_REUSED",
            f"request id {request.request_id!r} was used for another request: choose a new one",
            field="request_id",
        )
    return detail["letters"], detail["done"], detail["failed"], detail["waiting"]


def _enter(
    connection: duckdb.DuckDBPyConnection,
    request: Request,
    kind: str,
    reason: str,
    replayed: Replayed,
) -> None:
    detail = {
        "peer": request.peer,
        "filter": request.matching_text,
        "reason": reason,
        "letters": replayed.letter_count,
        "done": replayed.applied_count,
        "failed": replayed.failed_count,
        "waiting": replayed.waiting_count,
    }
    connection.execute(
        Q["audit"],
        {
            "actor": request.operator,
            "action": kind,
            "tenant_id": request.matching.tenant_id,
            "request_id": request.request_id,
            "detail": json.dumps(detail),
        },
    )


def action_of(row: Sequence[object]) -> Action:
    """An entry of the audit from a row of `letter_actions`."""
    action_id, acted_us, actor, action, request_id, text = row
    detail = json.loads(str(text))
    return Action(
        int(str(action_id)),
        int(str(acted_us)),
        "REPLAY" if action == _REPLAY else "DISCARD",
        str(actor),
        detail["peer"],
        str(request_id),
        detail["filter"],
        detail["reason"],
        detail["done"],
        detail["failed"],
    )
