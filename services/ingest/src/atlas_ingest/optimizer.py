"""The write path: checks a batch, turns names into numbers, hands the rows to the group commit."""

import asyncio
import time
from dataclasses import dataclass

from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.metering import QuotaMeters, exceeded_count
from atlas_common.telemetry import flushes
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_ingest import convert
from atlas_ingest.budget import Admission, Budget
from atlas_ingest.catalog.resolver import Resolver
from atlas_ingest.columns import Checked, Window
from atlas_ingest.config import EventTimeConfig
from atlas_ingest.encode import BatchIdentity
from atlas_ingest.lanes.batch import Batch, Skipped, Stored
from atlas_ingest.lanes.flush import Flusher
from atlas_ingest.matching import Matching
from atlas_ingest.points import Ack, Answer, DeadLetter, Rejections
from atlas_ingest.refusal import BatchRefusedError
from atlas_ingest.rules import Rule, rule_of
from atlas_ingest.store import Store
from atlas_ingest.write import Write

_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US
_LARGE_POINTS = 500


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a write. `position` holds it; None if nothing had to be stored.

    `refused`: the batch was refused as a whole, and yet what it is known by has moved on.
    """

    answer: Answer
    position: Position | None
    duplicate: bool = False
    refused: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """A write on its way."""

    write: Write
    answer: Answer
    done: "asyncio.Future[Stored] | None" = None  # None: there is nothing to wait for.
    refused: ServiceError | None = None
    earlier: Skipped | None = None  # Known before it was sent on its way.
    looked_up: "asyncio.Task[Skipped | None] | None" = None  # The same, asked on its way.

    async def ingested(self) -> Ingested:
        """Wait for the level that the write asks for.

        Raises ServiceError: ALREADY_EXISTS / REQUEST_ID_REUSED, FAILED_PRECONDITION / SEQUENCE_GAP,
        UNAVAILABLE when it was lost on the way. A cancelled caller is missed by nobody: the batch
        goes its way.
        """
        if self.earlier is not None:
            return _repeated(self.write, self.earlier)
        if self.done is None:
            return Ingested(self.answer, None, refused=self.refused)
        stored = await self.done
        flushes.link_current(stored.position)
        if stored.skipped is not None:
            return _skipped(self.write, stored.skipped)
        if self.looked_up is not None:
            earlier = await self.looked_up
            # The ledger may have it by now: then it is no repetition of itself.
            if earlier is not None and earlier.position != stored.position:
                return _repeated(self.write, earlier)
        return Ingested(self.answer, stored.position, refused=self.refused)


class WriteOptimizer:
    """Turns many small writes into few large flushes."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        store: Store,
        flusher: Flusher,
        budget: Budget,
        meters: QuotaMeters,
        event_time: EventTimeConfig,
    ) -> None:
        self._resolver = resolver
        self._store = store
        self._flusher = flusher
        self._budget = budget
        self._meters = meters
        self._matching = Matching()
        self._future_us = round(event_time.max_future_seconds * _SECOND_US)
        self._age_us = round(event_time.max_age_days * _DAY_US)

    @property
    def budget(self) -> Budget:
        """What this process holds in memory."""
        return self._budget

    @property
    def meters(self) -> QuotaMeters:
        """What each tenant takes; the doors count the points that come through them."""
        return self._meters

    @property
    def pending_points(self) -> int:
        """Points of writes that are not durable yet."""
        return self._budget.points

    def admit(self, points: int, size_bytes: int) -> Admission:
        """Room for a call, before any work on it. Raises ServiceError RESOURCE_EXHAUSTED."""
        return self._budget.admit(points, size_bytes)

    async def ingest_telemetry(
        self, tenant: Tenant, write: Write, admission: Admission, now_us: int
    ) -> Ingested:
        """Store the batch; returns when it is stored as safely as it asks for.

        Raises as `submit` and `Submitted.ingested` do.
        """
        submitted = await self.submit(tenant, write, admission, now_us)
        return await submitted.ingested()

    async def submit(
        self, tenant: Tenant, write: Write, admission: Admission, now_us: int
    ) -> Submitted:
        """Check the batch and send it on its way; those of one producer or partition in this order.

        Raises ServiceError: BatchRefusedError for bad points without partial_success (unless
        something follows the batch: then it is sent on empty), RESOURCE_EXHAUSTED / QUOTA_EXCEEDED
        for entities or attributes beyond the tenant's quota, UNAVAILABLE while the database was
        never there; psycopg.Error.
        """
        # Of before the first look-up: a batch never outlives what its numbers were looked up in.
        generation = 0 if write.validate_only else self._flusher.admit()
        checked, rules = await self._check(tenant, write, await self._window(tenant, now_us))
        refused: ServiceError | None = None
        if checked.rejections.count and not write.partial_success:
            refused = refusal(checked)
            if not write.moves_a_position:
                earlier = await self._earlier(tenant, write)
                if earlier is None:
                    raise refused
                # A batch that was good once stays good: its repetition gets the answer of then.
                return Submitted(write, _nothing_accepted(checked.rejections), earlier=earlier)
            checked = _Nothing(checked)
        answer = Answer(
            checked.accepted_count, checked.rejections.count, tuple(checked.rejections.errors)
        )
        if write.validate_only or not (answer.accepted_count or _must_pass(write)):
            return Submitted(write, answer, refused=refused)
        if answer.accepted_count > _LARGE_POINTS:
            await asyncio.sleep(0)  # They come in numbers: let the others have their turn.
        batch = await self._batch(tenant, write, checked, rules, answer=answer, admission=admission)
        self._flusher.append(batch, generation)
        admission.keep()
        return Submitted(write, answer, batch.done, refused, looked_up=self._look_up(tenant, write))

    def submit_dead_letter(
        self, tenant_id: int, known_by: BatchIdentity, letter: DeadLetter, admission: Admission
    ) -> "asyncio.Future[Stored]":
        """Send a message that cannot be stored on its way, to be kept as it came.

        `tenant_id` 0: of no tenant that is known. Raises ServiceError UNAVAILABLE.
        """
        generation = self._flusher.admit()
        batch = Batch(
            number=self._flusher.next_number(),
            tenant_id=tenant_id,
            rows=b"",
            point_count=0,
            ack=Ack.DURABLE,
            known_by=known_by,
            dead_letter=letter,
            admission=admission,
            appended_at=time.monotonic(),
        )
        self._flusher.append(batch, generation)
        admission.keep()
        return batch.done

    async def _window(self, tenant: Tenant, now_us: int) -> Window:
        settings = await self._resolver.settings(tenant)
        return settings.window(now_us, Window(now_us - self._age_us, now_us + self._future_us))

    async def _check(
        self, tenant: Tenant, write: Write, window: Window
    ) -> tuple[Checked, dict[str, Rule]]:
        """The points that may be stored, and the rules of all attributes that they have."""
        columns = write.columns
        names = columns.attribute_names()
        rules = await self._resolver.rules(tenant, names)
        if len(rules) == len(names) or not await self._resolver.registers_unknown_attributes(
            tenant
        ):
            return await self._matching.check(write, rules, window), rules
        brought = columns.new_attributes(rules)
        checked = await self._matching.check(write, {**rules, **brought}, window)
        refused = checked.rejections.count and not write.partial_success
        if write.validate_only or refused:
            return checked, rules
        used = checked.attribute_names()
        wanted = {name: rule.data_type for name, rule in brought.items() if name in used}
        if not wanted:
            return checked, rules
        made = await self._resolver.register(tenant, wanted)
        if len(made) < len(wanted) and not (write.partial_success or write.moves_a_position):
            raise exceeded_count(tenant, "attributes", self._meters.attributes(tenant))
        rules.update({name: rule_of(definition) for name, definition in made.items()})
        # Once more: another call may have defined one first, with its own type and rules, or the
        # catalog may be full.
        return await self._matching.check(write, rules, window), rules

    async def _earlier(self, tenant: Tenant, write: Write) -> Skipped | None:
        """What the ledger knows of the request."""
        if not write.request_id or write.validate_only:
            return None
        stored = await self._store.stored_request(tenant, write.request_id)
        if stored is None:
            return None
        return Skipped(stored.position, stored.body_hash, stored.answer)

    def _look_up(self, tenant: Tenant, write: Write) -> "asyncio.Task[Skipped | None] | None":
        """Ask the ledger while a batch is copied that is answered before the flush finds out."""
        if write.ack is not Ack.STAGED or not write.request_id:
            return None
        task = asyncio.create_task(self._earlier(tenant, write))
        task.add_done_callback(_seen)
        return task

    async def _batch(
        self,
        tenant: Tenant,
        write: Write,
        checked: Checked,
        rules: dict[str, Rule],
        *,
        answer: Answer,
        admission: Admission,
    ) -> Batch:
        used = checked.entity_keys()
        entity_ids = await self._resolver.entity_ids(tenant, used) if used else {}
        attribute_ids = {name: rule.attribute_id or 0 for name, rule in rules.items()}
        number = self._flusher.next_number()
        letter = write.dead_letter if answer.rejected_count else None
        return Batch(
            number=number,
            tenant_id=tenant.id,
            rows=checked.rows(number, tenant.id, entity_ids, attribute_ids),
            point_count=answer.accepted_count,
            ack=write.ack,
            known_by=BatchIdentity(
                request_id=write.request_id,
                body_hash=write.body_hash,
                answer=convert.encode_answer(answer) if write.request_id else b"",
                producer=write.producer,
                source=write.source,
            ),
            dead_letter=None if letter is None else letter(checked.rejections),
            admission=admission,
            appended_at=time.monotonic(),
            caller=flushes.caller(),
        )


def _seen(task: "asyncio.Task[Skipped | None]") -> None:
    if not task.cancelled():
        task.exception()  # Of a caller that has gone nobody else looks at it.


def refusal(checked: Checked) -> BatchRefusedError:
    """Why the batch is refused as a whole."""
    return BatchRefusedError(
        checked.rejections, *checked.names_of(checked.rejections.errors[0].index)
    )


class _Nothing:
    """A refused batch that passes through empty."""

    def __init__(self, checked: Checked) -> None:
        self.rejections = checked.rejections
        self.accepted_count = 0

    def entity_keys(self) -> set[str]:
        return set()

    attribute_names = entity_keys

    def names_of(self, index: int) -> tuple[str, str]:
        raise NotImplementedError  # Whoever asks has the batch that was refused.

    def rows(self, *_: object) -> bytes:
        return b""


def _must_pass(write: Write) -> bool:
    """Whether the flush has to see the batch even if it has no points."""
    return bool(write.request_id or write.moves_a_position)


def _nothing_accepted(rejections: Rejections) -> Answer:
    return Answer(0, rejections.count, tuple(rejections.errors))


def _skipped(write: Write, skipped: Skipped) -> Ingested:
    if skipped.expected is not None:
        raise _gap(write, skipped.expected)
    if not write.request_id:
        nothing = Answer(0, 0, ())
        return Ingested(nothing, skipped.position, duplicate=True)
    return _repeated(write, skipped)


def _gap(write: Write, expected: int) -> ServiceError:
    if write.producer is not None:
        return errors.failed_precondition(
            "SEQUENCE_GAP",
            f"sequence {write.producer.sequence} of producer {write.producer.producer_id!r} does"
            f" not follow what is stored: send {expected} next",
            field="sequence",
            expected=expected,
        )
    assert write.source is not None
    return errors.failed_precondition(
        "SEQUENCE_GAP",
        f"offset {write.source.offset} does not follow what is stored: go on at {expected}",
        field="offset",
        expected=expected,
    )


def _repeated(write: Write, earlier: Skipped) -> Ingested:
    if earlier.body_hash != write.body_hash:
        raise _reused(write.request_id)
    return Ingested(convert.decode_answer(earlier.answer), earlier.position, duplicate=True)


def _reused(request_id: str) -> ServiceError:
    return errors.already_exists(
        "REQUEST_ID_REUSED",
        f"request_id {request_id!r} was used before with another body: nothing was stored,"
        " choose a new one",
        field="request_id",
    )
