"""The write path: checks a batch, turns names into numbers, hands the rows to the group commit."""

import asyncio
import time
from dataclasses import dataclass

from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_ingest import convert, encode, validate
from atlas_ingest.batch import Batch, Duplicate, Stored
from atlas_ingest.budget import Admission, Budget
from atlas_ingest.config import EventTimeConfig
from atlas_ingest.flush import Flusher, FlushSession
from atlas_ingest.points import Ack, Answer, Write
from atlas_ingest.refusal import BatchRefusedError
from atlas_ingest.resolver import Resolver
from atlas_ingest.rules import Rule, rule_of
from atlas_ingest.store import Store
from atlas_ingest.validate import Validated, Window

_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a write. `position` holds it; None if nothing had to be stored."""

    answer: Answer
    position: Position | None
    duplicate: bool = False


class WriteOptimizer:
    """Turns many small writes into few large flushes."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        store: Store,
        flusher: Flusher,
        budget: Budget,
        event_time: EventTimeConfig,
    ) -> None:
        self._resolver = resolver
        self._store = store
        self._flusher = flusher
        self._budget = budget
        self._future_us = round(event_time.max_future_seconds * _SECOND_US)
        self._age_us = round(event_time.max_age_days * _DAY_US)

    @property
    def pending_points(self) -> int:
        """Points of calls that are not answered yet."""
        return self._budget.points

    def admit(self, points: int, size_bytes: int) -> Admission:
        """Room for a call, before any work on it. Raises ServiceError RESOURCE_EXHAUSTED."""
        return self._budget.admit(points, size_bytes)

    async def ingest_telemetry(
        self, tenant: Tenant, write: Write, admission: Admission, now_us: int
    ) -> Ingested:
        """Store the batch; returns when its flush is committed, at the level it asks for.

        Raises ServiceError: BatchRefusedError for bad points without partial_success,
        ALREADY_EXISTS / REQUEST_ID_REUSED, UNAVAILABLE when the database is away or lost
        meanwhile; psycopg.Error.
        """
        # Of before the first look-up: a batch never outlives what its numbers were looked up in.
        session = None if write.validate_only else self._flusher.session()
        window = Window(now_us - self._age_us, now_us + self._future_us)
        validated, rules = await self._validate(tenant, write, window)
        rejections = validated.rejections
        if rejections.count and not write.partial_success:
            return await self._repeated_or_refused(tenant, write, validated)
        answer = Answer(validated.accepted_count, rejections.count, tuple(rejections.errors))
        if session is None or not (answer.accepted_count or write.request_id):
            return Ingested(answer, None)
        await asyncio.sleep(0)  # Large batches come in numbers; let the others have their turn.
        rows, number = await self._rows(tenant, write, validated, rules)
        batch = Batch(
            number=number,
            tenant_id=tenant.id,
            request_id=write.request_id,
            body_hash=write.body_hash,
            answer=convert.encode_answer(answer) if write.request_id else b"",
            rows=rows,
            point_count=answer.accepted_count,
            durable=write.ack is Ack.DURABLE,
            admission=admission,
            appended_at=time.monotonic(),
        )
        return await _stored(session, batch, answer)

    async def _validate(
        self, tenant: Tenant, write: Write, window: Window
    ) -> tuple[Validated, dict[str, Rule]]:
        """The points that may be stored, and the rules of all attributes that they have."""
        columns = write.columns
        names = set(columns.attributes)
        known = await self._resolver.attributes(tenant, names)
        rules = {name: rule_of(definition) for name, definition in known.items()}
        if len(rules) == len(names) or not await self._resolver.registers_unknown_attributes(
            tenant
        ):
            return validate.validate(columns, rules, window), rules
        brought = validate.new_attributes(columns, rules)
        validated = validate.validate(columns, {**rules, **brought}, window)
        refused = validated.rejections.count and not write.partial_success
        if write.validate_only or refused:
            return validated, rules
        used = {
            columns.attributes[index]
            for indexes in validated.accepted.values()
            for index in indexes
        }
        wanted = {name: rule.data_type for name, rule in brought.items() if name in used}
        if not wanted:
            return validated, rules
        made = await self._resolver.register(tenant, wanted)
        rules.update({name: rule_of(definition) for name, definition in made.items()})
        # Once more: another call may have defined one first, with its own type and rules, or the
        # catalog may be full.
        return validate.validate(columns, rules, window), rules

    async def _repeated_or_refused(
        self, tenant: Tenant, write: Write, validated: Validated
    ) -> Ingested:
        """A batch that was good once stays good: its repetition gets the answer of then."""
        if write.request_id and not write.validate_only:
            stored = await self._store.stored_request(tenant, write.request_id)
            if stored is not None:
                earlier = Duplicate(stored.position, stored.body_hash, stored.answer)
                return _repeated(write.request_id, write.body_hash, earlier)
        first = validated.rejections.errors[0].index
        raise BatchRefusedError(
            validated.rejections,
            write.columns.entity_keys[first],
            write.columns.attributes[first],
        )

    async def _rows(
        self, tenant: Tenant, write: Write, validated: Validated, rules: dict[str, Rule]
    ) -> tuple[bytes, int]:
        """The accepted points as rows of staging, and the batch's number in them.

        Grouped by type. That keeps the order among points of one attribute, which has one type;
        and no other order has a meaning.
        """
        columns, values = write.columns, validated.values
        keys = columns.entity_keys
        used = {keys[index] for indexes in validated.accepted.values() for index in indexes}
        entity_ids = await self._resolver.entity_ids(tenant, used) if used else {}
        attribute_ids = {name: rule.attribute_id or 0 for name, rule in rules.items()}
        number = self._flusher.next_number()
        parts = []
        for data_type, indexes in validated.accepted.items():
            if indexes:
                rows = encode.PointRows(
                    data_type=data_type,
                    entity_ids=[entity_ids[keys[i]] for i in indexes],
                    attribute_ids=[attribute_ids[columns.attributes[i]] for i in indexes],
                    event_times_us=[columns.event_times_us[i] for i in indexes],
                    qualities=[columns.qualities[i] for i in indexes],
                    values=[values[i] for i in indexes],
                )
                parts.append(encode.point_rows(number, tenant.id, rows))
        return b"".join(parts), number


async def _stored(session: FlushSession, batch: Batch, answer: Answer) -> Ingested:
    session.append(batch)
    batch.admission.keep()
    # A cancelled caller cancels this future, which tells the session that nobody waits; the flush
    # itself belongs to the session and goes on.
    stored: Stored = await batch.done
    if stored.duplicate is not None:
        return _repeated(batch.request_id, batch.body_hash, stored.duplicate)
    return Ingested(answer, stored.position)


def _repeated(request_id: str, body_hash: bytes, earlier: Duplicate) -> Ingested:
    if earlier.body_hash != body_hash:
        raise _reused(request_id)
    return Ingested(convert.decode_answer(earlier.answer), earlier.position, duplicate=True)


def _reused(request_id: str) -> ServiceError:
    return errors.already_exists(
        "REQUEST_ID_REUSED",
        f"request_id {request_id!r} was used before with another body: nothing was stored,"
        " choose a new one",
        field="request_id",
    )
