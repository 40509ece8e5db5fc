"""Evaluates the attributes of all tenants; one process of the platform at a time."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg

from atlas_common import telemetry
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_hotcache.config import PromotionConfig
from atlas_hotcache.promotion import metrics
from atlas_hotcache.promotion.decisions import Decision, Outcome, of_verdict
from atlas_hotcache.promotion.policy import Mode, Move, Verdict, evaluate
from atlas_hotcache.promotion.store import EvaluationLostError, PromotionStore

_log = telemetry.logger(__name__)
_TENANTS_MAX = 100  # That are looked up at a time.
_FAILURES_MAX = 5  # Tenants in a row that cannot be evaluated: the database is away.

Start = Callable[[Tenant, Decision], Awaitable[int]]
"""Begins the job of a decision, and enters it; its id. Raises ServiceError where that cannot be."""


class Evaluator:
    """Takes the lease when an evaluation is due, and goes through the tenants one by one.

    A process that dies amid an evaluation leaves the tenants behind to the next one: they are not
    worked on twice.
    """

    def __init__(
        self,
        store: PromotionStore,
        start: Start,
        config: PromotionConfig,
    ) -> None:
        self._store = store
        self._start = start
        self._config = config
        self._rules = config.rules()
        self._mode = config.mode

    @property
    def mode(self) -> Mode:
        """Whether anything comes of evaluations."""
        return self._mode

    async def plan(self) -> list[tuple[int, Verdict]]:
        """What the next evaluation would do, by tenant; nothing is entered, not even a wish.

        Raises ServiceError, psycopg.Error.
        """
        found: list[tuple[int, Verdict]] = []
        after = 0
        while tenants := await self._store.tenants(after, _TENANTS_MAX):
            for tenant_id in tenants:
                candidates, window = await self._store.observe(tenant_id, self._config.window_hours)
                verdicts = await asyncio.to_thread(evaluate, candidates, window, self._rules)
                found += [(tenant_id, one) for one in verdicts if one.action is not Move.NONE]
            after = tenants[-1]
        return found

    async def turn(self) -> bool:
        """An evaluation of all tenants; False: it is off, or another process is at one.

        Raises ServiceError, psycopg.Error when the database is away.
        """
        if self._mode is Mode.OFF:
            return False
        config = self._config
        owner = f"hotcache-{secrets.token_hex(8)}"
        if not await self._store.begin(owner, config.lease_seconds):
            return False
        began = time.monotonic()
        tenant_count = failures = 0
        try:
            # Not by when it was measured last, for a report: evaluations are rare enough.
            await self._store.measure(config.window_hours, config.sample_pages_max, 0.0)
            after = 0
            while tenants := await self._store.tenants(after, _TENANTS_MAX):
                for tenant_id in tenants:
                    failures = 0 if await self._tried(owner, tenant_id) else failures + 1
                    if failures == _FAILURES_MAX:
                        _log.warning("the evaluation is given up", tenants=tenant_count)
                        return True
                    tenant_count += 1
                after = tenants[-1]
        except EvaluationLostError as error:
            _log.warning("the evaluation is lost", problem=str(error), tenants=tenant_count)
        finally:
            # Of no consequence if it fails: it runs out.
            with suppress(ServiceError, psycopg.Error, EvaluationLostError):
                await self._store.keep(owner, 0.0)
        seconds = time.monotonic() - began
        metrics.evaluated(tenant_count, seconds)
        _log.info(
            "attributes evaluated",
            mode=self._mode.value,
            tenants=tenant_count,
            seconds=round(seconds, 3),
        )
        return True

    async def _tried(self, owner: str, tenant_id: int) -> bool:
        """Evaluate a tenant; one that has a lock in the way is left to the next evaluation."""
        began = time.monotonic()
        try:
            await self._evaluate(owner, tenant_id)
        except (ServiceError, psycopg.Error) as error:
            _log.warning("a tenant is not evaluated", tenant_id=tenant_id, problem=str(error))
            return False
        # At most half of the time: others have work for the database, too.
        await asyncio.sleep(min(time.monotonic() - began, 1.0))
        return True

    async def _evaluate(self, owner: str, tenant_id: int) -> None:
        candidates, window = await self._store.observe(tenant_id, self._config.window_hours)
        # In a thread: of a tenant with thousands of attributes it takes longer than a read may.
        verdicts = await asyncio.to_thread(evaluate, candidates, window, self._rules)
        # First: whoever dies in between has decided too little, and never the same twice.
        await self._store.remember(owner, self._config.lease_seconds, tenant_id, verdicts)
        for verdict in verdicts:
            if verdict.action is not Move.NONE:
                await self._act(tenant_id, verdict)

    async def _act(self, tenant_id: int, verdict: Verdict) -> None:
        decision = of_verdict(verdict)
        job_id: int | None = None
        if self._mode is Mode.DRY_RUN:
            outcome = Outcome.WOULD
            await self._store.enter(tenant_id, decision, outcome, dry_run=True)
        else:
            try:
                job_id = await self._start(Tenant(tenant_id, ""), decision)
                outcome = Outcome.STARTED
            except ServiceError as error:
                outcome = Outcome.REFUSED
                refused = Decision(
                    decision.actor,
                    decision.action,
                    decision.attribute_id,
                    f"{decision.why}; {error.reason}: {error.message}"[:500],
                    decision.figures,
                )
                await self._store.enter(tenant_id, refused, outcome)
        metrics.decided(decision.action, outcome)
        _log.info(
            "promotion decided",
            tenant_id=tenant_id,
            attribute=verdict.candidate.name,
            action=decision.action.value,
            outcome=outcome.value,
            job_id=job_id,
            why=decision.why,
        )
