"""How attributes were read, what is known of them, and what was decided: in the primary."""

import json
import math
from collections.abc import Sequence
from typing import Any

import psycopg

from atlas_common import errors
from atlas_common.db import Database, WriteConnection, load_queries, tenant_transaction
from atlas_common.db.connection import ReadConnection
from atlas_common.tenant import Tenant
from atlas_hotcache.promotion.decisions import Action, Actor, Decision, Entry, Outcome
from atlas_hotcache.promotion.policy import (
    Candidate,
    Figures,
    HourCount,
    Move,
    Pin,
    Verdict,
    Window,
)

Q = load_queries("atlas_hotcache.promotion")

CANDIDATES_MAX = 2_000
"""Attributes of a tenant that are looked at in one evaluation."""
_LEASE_LOST = "AT003"


class EvaluationLostError(Exception):
    """Another process evaluates by now."""


class PromotionStore:
    """What is asked and told about promoting by reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # For who evaluates --------------------------------------------------------------------------

    async def begin(self, owner: str, lease_seconds: float) -> bool:
        """Become the one who evaluates, if nobody is at it."""
        values = {"owner": owner, "lease_seconds": lease_seconds}
        async with self._database.transaction() as connection:
            return bool((await _row(connection, "begin", values))[0])

    async def keep(self, owner: str, seconds: float) -> None:
        """Stay so for this long; 0: cease. Raises EvaluationLostError."""
        async with self._database.transaction() as connection:
            await _keep(connection, owner, seconds)

    async def measure(self, hours: int, pages_max: int, older_seconds: float) -> bool:
        """Estimate how attributes are written, unless that was done less than so long ago."""
        values = {"hours": hours, "pages": pages_max, "older_seconds": older_seconds}
        async with self._database.transaction() as connection:
            return bool((await _row(connection, "measure", values))[0])

    async def tenants(self, after: int, limit: int) -> list[int]:
        """The next tenants in which there is something to weigh."""
        async with self._database.transaction(read_only=True) as connection:
            rows = await _rows(connection, "tenants", {"after": after, "row_limit": limit})
        return [row[0] for row in rows]

    async def observe(self, tenant: Tenant | int, hours: int) -> tuple[list[Candidate], Window]:
        """A tenant's attributes that may be promoted or demoted, and the hours looked at."""
        tenant_id = tenant if isinstance(tenant, int) else tenant.id
        values = {"tenant_id": tenant_id, "hours": hours, "row_limit": CANDIDATES_MAX}
        async with tenant_transaction(self._database, tenant_id, read_only=True) as connection:
            covered = await _rows(connection, "covered_hours", values)
            counted = {
                attribute_id: _hour_counts(*columns)
                for attribute_id, *columns in await _rows(connection, "counts", values)
            }
            ids = [attribute_id for attribute_id in counted if attribute_id]
            standings = await _rows(connection, "standings", {**values, "attribute_ids": ids})
            hot_count = (await _row(connection, "hot_count", values))[0]
        window = Window(tuple(row[0] for row in covered), counted.get(0, ()), hot_count)
        return [_candidate(row, counted.get(row[0], ())) for row in standings], window

    async def remember(
        self, owner: str, lease_seconds: float, tenant_id: int, verdicts: Sequence[Verdict]
    ) -> None:
        """Keep what was wished for where it has changed. Raises EvaluationLostError."""
        changed = [
            verdict
            for verdict in verdicts
            if (verdict.wish, verdict.streak) != (verdict.candidate.wish, verdict.candidate.streak)
        ]
        values = {
            "tenant_id": tenant_id,
            "attribute_ids": [verdict.candidate.attribute_id for verdict in changed],
            "wishes": [None if one.wish is Move.NONE else one.wish.value for one in changed],
            "streaks": [verdict.streak for verdict in changed],
        }
        async with tenant_transaction(self._database, tenant_id) as connection:
            await _keep(connection, owner, lease_seconds)
            if changed:
                await connection.execute(Q["remember"], values)

    async def enter(
        self, tenant_id: int, decision: Decision, outcome: Outcome, *, dry_run: bool = False
    ) -> None:
        """Enter a decision of which no job has come."""
        async with tenant_transaction(self._database, tenant_id) as connection:
            await enter(connection, tenant_id, decision, outcome, dry_run=dry_run)

    # For operators ------------------------------------------------------------------------------

    async def pin(self, tenant: Tenant, pin: Pin, decision: Decision) -> bool:
        """Pin the decision's attribute, and enter the decision; whether the attribute is hot."""
        values = {
            "tenant_id": tenant.id,
            "attribute_id": decision.attribute_id,
            "pin": None if pin is Pin.NONE else pin.value,
        }
        async with tenant_transaction(self._database, tenant) as connection:
            await connection.execute(Q["lock_attributes"], values)
            is_hot = (await _row(connection, "pin", values))[0]
            await enter(connection, tenant.id, decision, Outcome.DONE)
        return bool(is_hot)

    async def entries(self, tenant: Tenant, before: int, limit: int) -> list[Entry]:
        """Decisions, the newest first; `before`: only those with lesser ids, 0 for all."""
        values = {"tenant_id": tenant.id, "before": before, "row_limit": limit}
        async with tenant_transaction(self._database, tenant, read_only=True) as connection:
            return [_entry(row) for row in await _rows(connection, "decisions", values)]


async def enter(
    connection: WriteConnection,
    tenant_id: int,
    decision: Decision,
    outcome: Outcome,
    *,
    dry_run: bool = False,
    job_id: int | None = None,
) -> None:
    """Enter a decision in the transaction of what comes of it."""
    values = {
        "tenant_id": tenant_id,
        "actor": decision.actor.value,
        "action": decision.action.value,
        "attribute_id": decision.attribute_id,
        "dry_run": dry_run,
        "outcome": outcome.value,
        "job_id": job_id,
        "why": decision.why,
        "figures": json.dumps(decision.figures),
    }
    await connection.execute(Q["decide"], values)


async def check_unpinned(connection: WriteConnection, tenant_id: int, attribute_id: int) -> None:
    """Whether the policy may touch the attribute still, in a transaction that has the lock.

    Raises ServiceError FAILED_PRECONDITION / JOB_CONFLICT.
    """
    values = {"tenant_id": tenant_id, "attribute_id": attribute_id}
    if (await _row(connection, "pinned", values))[0]:
        raise errors.failed_precondition(
            "JOB_CONFLICT", "the attribute was pinned meanwhile: unpin it first", field="attribute"
        )


async def _keep(connection: WriteConnection, owner: str, seconds: float) -> None:
    try:
        await connection.execute(Q["keep"], {"owner": owner, "seconds": seconds})
    except psycopg.Error as error:
        if error.sqlstate == _LEASE_LOST:
            raise EvaluationLostError(str(error)) from error
        raise


async def _rows(
    connection: ReadConnection | WriteConnection, query: str, values: dict[str, Any]
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(Q[query], values)
    return await cursor.fetchall()


async def _row(
    connection: ReadConnection | WriteConnection, query: str, values: dict[str, Any]
) -> tuple[Any, ...]:
    (row,) = await _rows(connection, query, values)
    return row


def _hour_counts(*columns: Sequence[int]) -> tuple[HourCount, ...]:
    return tuple(HourCount(*numbers) for numbers in zip(*columns, strict=True))


def _candidate(row: Sequence[Any], counts: tuple[HourCount, ...]) -> Candidate:
    attribute_id, name, is_hot, pin, wish, streak, points, unchanged_seconds, in_transition = row
    return Candidate(
        attribute_id=attribute_id,
        name=name,
        is_hot=is_hot,
        pin=Pin.NONE if pin is None else Pin(pin),
        wish=Move.NONE if wish is None else Move(wish),
        streak=streak,
        points_per_hour=points,
        unchanged_hours=math.inf if unchanged_seconds is None else unchanged_seconds / 3600,
        in_transition=in_transition,
        counts=counts,
    )


def _entry(row: Sequence[Any]) -> Entry:
    decision_id, decided_at, actor, action, attribute_id, name, dry_run, outcome, *rest = row
    job_id, why, figures = rest
    return Entry(
        decision_id=decision_id,
        decided_at=decided_at,
        actor=Actor(actor),
        action=Action(action),
        attribute_id=attribute_id,
        attribute=name,
        dry_run=dry_run,
        outcome=Outcome(outcome),
        job_id=job_id,
        why=why,
        figures=Figures(**figures) if figures else None,
    )
