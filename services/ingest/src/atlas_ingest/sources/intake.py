"""From a message to the write path: whatever comes of it, stored or kept as a dead letter, once."""

import asyncio
import hashlib
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import grpc

from atlas_common import errors, telemetry
from atlas_common.db import PostgresTenants
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_ingest.budget import Admission
from atlas_ingest.encode import BatchIdentity
from atlas_ingest.lanes.batch import Stored
from atlas_ingest.optimizer import Submitted, WriteOptimizer
from atlas_ingest.points import DeadLetter, Rejections
from atlas_ingest.sources import metrics
from atlas_ingest.sources.backoff import Backoff
from atlas_ingest.sources.decode import decode
from atlas_ingest.sources.faults import refusal_of
from atlas_ingest.sources.message import Incoming, PoisonError, Refusal, partly_refused
from atlas_ingest.write import Write

NO_TENANT_ID = 0
# Callers are refused when the budget is full, sources can wait: half of it is the callers' alone.
_BUDGET_SHARE = 0.5
_TENANT_FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,  # Suspended.
}
_log = telemetry.logger(__name__)

OnItsWay = asyncio.Task[bool]
"""Ends when the message is stored (True) or was known before (False)."""


class Intake:
    """Decodes messages and submits them."""

    def __init__(self, optimizer: WriteOptimizer, tenants: PostgresTenants) -> None:
        self._optimizer = optimizer
        self._tenants = tenants

    async def submit(self, message: Incoming, refusal: Refusal | None = None) -> OnItsWay:
        """Send a message on its way, those of one partition in this order; waits for room.

        With a `refusal` it goes as a dead letter at once. What is returned raises, like this,
        ServiceError and psycopg.Error for what may pass, and for the message's own fault only
        REQUEST_ID_REUSED or a value that the database refuses (see refusal_of).
        """
        tenant: Tenant | None = None
        try:
            queued = decode(message.raw, message.sent_us)
            tenant = await self._tenant(queued.tenant_key)
            if refusal is None:
                return await self._submit_write(tenant, queued.write, message)
        except PoisonError as error:
            refusal = refusal or error.refusal
            tenant = tenant or await self._tenant_or_none(error.tenant_key)
        except ServiceError as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
        return await self._submit_dead_letter(tenant, refusal, message)

    async def _submit_write(self, tenant: Tenant, write: Write, message: Incoming) -> OnItsWay:
        points = len(write.columns)

        def letter(rejections: Rejections) -> DeadLetter:
            refusal = partly_refused(rejections, points)
            metrics.dead_letters.add(1, {"reason": refusal.reason})
            return message.dead_letter(refusal)

        write = replace(write, dead_letter=letter, source=message.offset)
        if not write.request_id and message.offset is None:
            known_by = _known_by_id(message)
            write = replace(write, request_id=known_by.request_id, body_hash=known_by.body_hash)
        with await self._room(points, write.size_bytes) as admission:
            # Never held up: behind it in the partition wait other tenants' messages.
            self._optimizer.meters.charge_points(tenant, points)
            now_us = time.time_ns() // 1_000
            submitted = await self._optimizer.submit(tenant, write, admission, now_us)
        return _started(_ingested(submitted, message))

    async def _submit_dead_letter(
        self, tenant: Tenant | None, refusal: Refusal, message: Incoming
    ) -> OnItsWay:
        known_by = (
            _known_by_id(message)
            if message.offset is None
            else BatchIdentity(source=message.offset)
        )
        with await self._room(0, len(message.raw)) as admission:
            done = self._optimizer.submit_dead_letter(
                NO_TENANT_ID if tenant is None else tenant.id,
                known_by,
                message.dead_letter(refusal),
                admission,
            )
        metrics.dead_letters.add(1, {"reason": refusal.reason})
        _log.warning(
            "message refused", source=message.source, reason=refusal.reason, offset=message.offset
        )
        return _started(_kept(done, message))

    async def _room(self, points: int, size_bytes: int) -> Admission:
        """A share of the budget, waited for."""
        budget = self._optimizer.budget
        backoff = Backoff()
        while (  # noqa: ASYNC110 - calls that end give room back one by one, sources are in no hurry.
            budget.points > budget.points_max * _BUDGET_SHARE
            or budget.bytes > budget.bytes_max * _BUDGET_SHARE
        ):
            await asyncio.sleep(backoff.next_seconds())
        return self._optimizer.admit(points, size_bytes)

    async def _tenant(self, key: str) -> Tenant:
        try:
            return await self._tenants.resolve(key)
        except ServiceError as error:
            if error.code in _TENANT_FAULTS:
                raise PoisonError(error.reason, error.message) from None
            raise

    async def _tenant_or_none(self, key: str) -> Tenant | None:
        if not key:
            return None
        try:
            return await self._tenant(key)
        except PoisonError:
            return None


async def _ingested(submitted: Submitted, message: Incoming) -> bool:
    ingested = await submitted.ingested()
    return _counted(message, is_new=not ingested.duplicate)


async def _kept(done: "asyncio.Future[Stored]", message: Incoming) -> bool:
    stored = await done
    if stored.skipped is not None and stored.skipped.expected is not None:
        raise errors.failed_precondition(
            "SEQUENCE_GAP", f"the dead letter does not follow: go on at {stored.skipped.expected}"
        )
    return _counted(message, is_new=stored.skipped is None)


def _counted(message: Incoming, *, is_new: bool) -> bool:
    metrics.messages.add(1, {"source": message.source, "new": is_new})
    return is_new


def _known_by_id(message: Incoming) -> BatchIdentity:
    # A control character: no caller can choose such a request_id.
    return BatchIdentity(
        request_id=f"{message.source}\x1f{message.message_id}",
        body_hash=hashlib.sha256(message.raw).digest(),
    )


def _started(work: Coroutine[Any, Any, bool]) -> OnItsWay:
    task = asyncio.create_task(work)
    # Looked at by whoever sent it, unless its partition is gone by then.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return task
