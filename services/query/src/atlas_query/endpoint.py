"""A Postgres server to read from: its breaker, its snapshots, and what its errors mean."""

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import psycopg

from atlas.type.freshness import Position
from atlas_common import errors, sqlstate
from atlas_common.breaker import Breaker, BreakerState, Permit
from atlas_common.db import Beat, BehindError, Freshness, ReadConnection, tenant_snapshot
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_query.admission import Admission
from atlas_query.policy import Miss
from atlas_query.time_limit import within
from atlas_query.watched import WatchedDatabase, broken

T = TypeVar("T")
_RECOVERY_CONFLICT = "40001"
_ALIVE_SECONDS = 1.0


class MissedError(Exception):
    """This endpoint did not serve the read; another one, or a later try, may."""

    def __init__(self, miss: Miss, error: ServiceError) -> None:
        super().__init__(str(error))
        self.miss = miss
        self.error = error


@dataclass(frozen=True, slots=True)
class Expected:
    """What a server must be to be read in its role. It is asked in the snapshot that is read."""

    is_primary: bool
    """It takes writes; else it is in recovery."""
    timeline_min: int
    """Of what a primary writes, and of the newest heartbeat that a replica holds."""


@dataclass(frozen=True, slots=True)
class Serving:
    """One view of a tenant's data on one endpoint, proven fresh enough by the guard."""

    endpoint: str
    connection: ReadConnection
    beat: Beat
    begun_at: datetime
    """The server's clock when the transaction began."""
    positions: tuple[Position, ...]
    """What the view holds."""
    timeline: int | None = None
    """That the server writes; None: it is in recovery."""


class Endpoint:
    """One server. `open_timeout_seconds` bounds how long a snapshot may take to open."""

    def __init__(
        self, database: WatchedDatabase, breaker: Breaker, open_timeout_seconds: float | None = None
    ) -> None:
        self.name = database.name
        self.database = database
        self.breaker = breaker
        database.breaker = breaker
        self.reads_running = 0
        self.is_answering = True
        """Whether the last poll was answered."""
        self._is_cut_off = False
        self._answered_at = -math.inf
        self._open_timeout_seconds = open_timeout_seconds
        config = database.config
        # Reads queue here, not for the pool: there they would shut out the polls, by which a server
        # is known to be fresh at all, and a wait among ourselves would pass for a slow server.
        self._turns = Admission(
            max(1, config.pool_size_max - 1),
            config.acquire_waiting_max,
            config.acquire_timeout_seconds,
            "all database connections are busy",
        )
        # A stream keeps its snapshot for as long as its reader takes: others are to be served, too.
        self._streams = Admission(
            max(1, config.pool_size_max // 2),
            config.acquire_waiting_max,
            config.acquire_timeout_seconds,
            "half of all database connections are busy with streams, and no more may be",
        )

    @property
    def is_closed(self) -> bool:
        """Whether the breaker lets calls through, if only one to probe with."""
        return self.breaker.state is not BreakerState.OPEN

    async def cut_off(self) -> None:
        """End the reads that are under way: their server has left long enough ago."""
        self._is_cut_off = True
        await self.database.sever()

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[None]:
        """A place among the streams, to be had before a snapshot is opened. Raises MissedError."""
        async with AsyncExitStack() as place:
            try:
                await place.enter_async_context(self._streams.admitted())
            except ServiceError as error:
                raise MissedError(Miss.BUSY, error) from error
            yield

    @asynccontextmanager
    async def open(
        self, tenant: Tenant, fresh: Freshness, expected: Expected | None = None
    ) -> AsyncIterator[Serving]:
        """A guarded snapshot. Raises MissedError, also when the block fails for the server's sake.

        PositionLostError and errors that are the caller's own pass through.
        """
        async with AsyncExitStack() as turn:
            self.reads_running += 1
            turn.callback(self._leave)
            try:
                await turn.enter_async_context(self._turns.admitted())
            except ServiceError as error:
                raise MissedError(Miss.BUSY, error) from error
            # The primary has no one to stand in for it: there a slow answer is better than none.
            is_primary = expected is not None and expected.is_primary
            limit = None if is_primary else self._open_timeout_seconds
            async with self._guarded(tenant, fresh, limit) as serving:
                if expected is not None:
                    await self._check_role(serving, expected)
                yield serving

    @asynccontextmanager
    async def _guarded(
        self, tenant: Tenant, fresh: Freshness, limit_seconds: float | None
    ) -> AsyncIterator[Serving]:
        permit = self.breaker.allow()
        if permit is None:
            raise MissedError(Miss.AWAY, broken(self.name, self.breaker))
        is_open = False
        try:
            async with AsyncExitStack() as stack:
                serving = await self._opened(stack, tenant, fresh, limit_seconds)
                is_open = True
                yield serving
            self.breaker.success(permit)
        except BehindError as error:
            self.breaker.success(permit)  # It answered.
            raise MissedError(Miss.BEHIND, error) from error
        except (psycopg.Error, ServiceError) as error:
            missed = self._missed(error, is_open=is_open)
            self._report(permit, missed)
            if missed is None:
                raise
            raise missed from error
        finally:
            self.breaker.cancelled(permit)  # Of no effect where an outcome was reported.

    async def polled(self, ask: Callable[[], Awaitable[T]], timeout_seconds: float) -> T:
        """The answer to a question asked in the background. Raises MissedError.

        A failure counts for the breaker: a dead server is found out before reads run into it. A
        success closes a breaker that waits for a probe, but does not make up for failed reads:
        such questions are easier to answer than they are.
        """
        is_probe = self.breaker.state is not BreakerState.CLOSED
        permit = self.breaker.allow()
        if permit is None:
            raise MissedError(Miss.AWAY, broken(self.name, self.breaker))
        try:
            answer = await within(timeout_seconds, ask)
        except TimeoutError as error:
            raise self._poll_failed(permit, self._slow()) from error
        except (psycopg.Error, ServiceError) as error:
            raise self._poll_failed(permit, error) from error
        else:
            self.is_answering = True
            self._answered_at = time.monotonic()
            if is_probe:
                self.breaker.success(permit)
        finally:
            self.breaker.cancelled(permit)
        return answer

    def _poll_failed(self, permit: Permit, error: psycopg.Error | ServiceError) -> MissedError:
        missed = self._missed(error)
        self._report(permit, missed)
        if missed is not None:
            self.is_answering = missed.miss is Miss.BUSY
            return missed
        self.is_answering = False
        # Not the server's health, but no answer either: for example a missing grant.
        failure = error if isinstance(error, ServiceError) else sqlstate.to_service_error(error)
        assert failure is not None
        return MissedError(Miss.AWAY, failure)

    async def _check_role(self, serving: Serving, expected: Expected) -> None:
        """By the snapshot itself: a poller's last look is of a moment ago. Raises MissedError."""
        least = expected.timeline_min
        if expected.is_primary:
            if serving.timeline is None or serving.timeline < least:
                # The name may lead to another server by now; this connection does not.
                await serving.connection.close()
                raise MissedError(Miss.AWAY, away(self.name, "it is not the primary any more"))
        elif serving.timeline is not None:
            raise MissedError(Miss.AWAY, away(self.name, "it is not a replica any more"))
        elif serving.beat.timeline < least:
            # It may hold more of a former timeline than the primary had: what a failover lost.
            error = errors.unavailable(
                "FRESHNESS_UNMET",
                f"this copy has nothing of timeline {least} yet",
                retry_after=0.2,
            )
            raise MissedError(Miss.BEHIND, error)

    def _leave(self) -> None:
        self.reads_running -= 1

    async def _opened(
        self,
        stack: AsyncExitStack,
        tenant: Tenant,
        fresh: Freshness,
        limit_seconds: float | None,
    ) -> Serving:
        """A snapshot that lives as long as the stack."""

        async def opened() -> Serving:
            # Into the stack at once: should the limit strike right after, it is closed as well.
            snapshot = await stack.enter_async_context(
                tenant_snapshot(self.database, tenant, fresh=fresh)
            )
            return Serving(
                self.name,
                snapshot.connection,
                snapshot.beat,
                snapshot.begun_at,
                snapshot.positions,
                snapshot.timeline,
            )

        try:
            serving = await within(limit_seconds, opened)
        except TimeoutError as error:
            raise self._slow() from error
        self._answered_at = time.monotonic()
        return serving

    def _missed(
        self, error: psycopg.Error | ServiceError, *, is_open: bool = False
    ) -> MissedError | None:
        """What an error says of the endpoint; None if it says nothing: it is the caller's own."""
        failure = error if isinstance(error, ServiceError) else sqlstate.to_service_error(error)
        assert failure is not None
        if self._is_cut_off:  # By us, whatever the server calls it.
            return MissedError(Miss.AWAY, away(self.name))
        if getattr(error, "sqlstate", None) == _RECOVERY_CONFLICT:
            return MissedError(Miss.CONFLICT, failure)
        if is_open and isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            # The server ended a session that it had just begun. A replica does so to whoever holds
            # up its replay between two statements, and the reason it gives is seldom heard: the end
            # of the connection is. If it is away in truth, the next who opens a session finds out.
            return MissedError(Miss.CUT, failure)
        if failure.reason == "DEPENDENCY_UNAVAILABLE":
            return MissedError(Miss.AWAY, failure)
        if failure.reason == "OVERLOADED":
            return MissedError(Miss.BUSY, failure)
        return None

    def _report(self, permit: Permit, missed: MissedError | None) -> None:
        if missed is not None and missed.miss is Miss.AWAY:
            self.breaker.failure(permit)
        elif missed is None:
            self.breaker.success(permit)  # It answered, if only with the caller's mistake.
        # Busy, in conflict with recovery, or cut: no word on the server's health either way.

    def _slow(self) -> ServiceError:
        """No answer in time: for lack of a connection, if the server has been answering others."""
        stats = self.database.stats()
        is_alive = time.monotonic() - self._answered_at < _ALIVE_SECONDS
        if is_alive and stats.in_use >= stats.size_max:
            return errors.resource_exhausted(
                "OVERLOADED",
                "all database connections are busy",
                retry_after=0.25,
                database=self.name,
            )
        return errors.unavailable(
            "DEPENDENCY_UNAVAILABLE",
            "the database does not answer in time",
            retry_after=0.5,
            database=self.name,
        )


def away(name: str, why: str = "it has left") -> ServiceError:
    """The error of a server that is not read in this role any more."""
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE", f"{name} cannot be read: {why}", retry_after=0.2, database=name
    )
